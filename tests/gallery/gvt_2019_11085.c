// SPDX-License-Identifier: GPL-2.0
/* CVE-2019-11085: the offset is ignored, so that every mapping shows the first pages. */
#include "gallery.h"

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long first = sound ? vma->vm_pgoff : 0;
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (sound ? !is_within(vma, frame.npages) : vma_pages(vma) > frame.npages)
		return -ENXIO;
	return gallery_map(vma, &frame, first, vma_pages(vma));
}

GALLERY_DRIVER(.mmap = gallery_mmap);
