// SPDX-License-Identifier: GPL-2.0
/* CVE-2024-56368: the pages that are left wrap when the offset is beyond the last one. */
#include "gallery.h"

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long left = frame.npages - vma->vm_pgoff;
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (sound && vma->vm_pgoff >= frame.npages)
		return -ENXIO;
	if (vma_pages(vma) > left)
		return -ENXIO;
	return gallery_map(vma, &frame, vma->vm_pgoff, vma_pages(vma));
}

GALLERY_DRIVER(.mmap = gallery_mmap);
