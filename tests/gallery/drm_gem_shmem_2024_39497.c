// SPDX-License-Identifier: GPL-2.0
/* CVE-2024-39497: a private mapping is granted, and what is written to it is lost. */
#include "gallery.h"

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	if (sound && !(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EACCES;
	if (!is_within(vma, frame.npages))
		return -ENXIO;
	vm_flags_clear(vma, VM_MAYEXEC);
	vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	return gallery_map(vma, &frame, vma->vm_pgoff, vma_pages(vma));
}

GALLERY_DRIVER(.mmap = gallery_mmap);
