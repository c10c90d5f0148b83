// SPDX-License-Identifier: GPL-2.0
/* CVE-2013-4511: nothing is checked, neither offset nor length. */
#include "gallery.h"

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (sound && !is_within(vma, frame.npages))
		return -ENXIO;
	return gallery_map(vma, &frame, vma->vm_pgoff, vma_pages(vma));
}

GALLERY_DRIVER(.mmap = gallery_mmap);
