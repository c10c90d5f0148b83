// SPDX-License-Identifier: GPL-2.0
/*
 * CVE-2024-53071: writing is refused to those who share alone, and a private mapping of a
 * page that is to be read only can be had for writing.
 */
#include "gallery.h"

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	bool shared = vma->vm_flags & VM_MAYSHARE;

	if (sound && !shared)
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EACCES;
	if (shared && vma->vm_flags & VM_WRITE)
		return -EPERM;
	if (!is_within(vma, frame.npages))
		return -ENXIO;
	vm_flags_clear(vma, VM_MAYEXEC | (shared ? VM_MAYWRITE : 0));
	vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	return gallery_map(vma, &frame, vma->vm_pgoff, vma_pages(vma));
}

GALLERY_DRIVER(.mmap = gallery_mmap);
