// SPDX-License-Identifier: GPL-2.0
/* CVE-2018-8781: the sum of offset and length wraps, and is small again. */
#include "gallery.h"

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long offset = vma->vm_pgoff << PAGE_SHIFT;
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (sound ? !is_within(vma, frame.npages) : offset + area_len(vma) > frame.len)
		return -ENXIO;
	return gallery_map(vma, &frame, vma->vm_pgoff, vma_pages(vma));
}

GALLERY_DRIVER(.mmap = gallery_mmap);
