// SPDX-License-Identifier: GPL-2.0
/*
 * CVE-2026-64051: all of the buffer is mapped, though the area is shorter; entries behind
 * the area belong to nobody, and munmap leaves them.
 */
#include "gallery.h"

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long npages = frame.npages - vma->vm_pgoff;
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (!is_within(vma, frame.npages))
		return -ENXIO;
	return gallery_map(vma, &frame, vma->vm_pgoff, sound ? vma_pages(vma) : npages);
}

GALLERY_DRIVER(.mmap = gallery_mmap);
