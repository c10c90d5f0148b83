// SPDX-License-Identifier: GPL-2.0
/* CVE-2022-43750: a mapping for reading becomes one for writing by mprotect(2). */
#include "gallery.h"

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (vma->vm_flags & VM_WRITE)
		return -EPERM;
	if (!is_within(vma, frame.npages))
		return -ENXIO;
	if (sound)
		vm_flags_clear(vma, VM_MAYWRITE);
	return gallery_map(vma, &frame, vma->vm_pgoff, vma_pages(vma));
}

GALLERY_DRIVER(.mmap = gallery_mmap);
