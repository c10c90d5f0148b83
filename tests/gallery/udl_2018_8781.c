// SPDX-License-Identifier: GPL-2.0
/*
 * CVE-2018-8781: the sum of offset and length wraps, and is small again. Here it has 32
 * bits, since mmap(2) itself keeps sums of 64 bits from wrapping by now.
 */
#include "gallery.h"

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	u32 end = (vma->vm_pgoff << PAGE_SHIFT) + area_len(vma);
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (sound ? !is_within(vma, frame.npages) : end > frame.len)
		return -ENXIO;
	return gallery_map(vma, &frame, vma->vm_pgoff, vma_pages(vma));
}

GALLERY_DRIVER(.mmap = gallery_mmap);
