// SPDX-License-Identifier: GPL-2.0
/*
 * CVE-2024-42259: as many pages as the object has are mapped from the offset on, as if it
 * were 0.
 */
#include "gallery.h"

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long npages = min(vma_pages(vma), frame.npages);
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (sound ? !is_within(vma, frame.npages) : vma->vm_pgoff >= frame.npages)
		return -ENXIO;
	return gallery_map(vma, &frame, vma->vm_pgoff, npages);
}

GALLERY_DRIVER(.mmap = gallery_mmap);
