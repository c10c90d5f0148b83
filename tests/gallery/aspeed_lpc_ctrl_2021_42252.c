// SPDX-License-Identifier: GPL-2.0
/* CVE-2021-42252: an offset in pages is added to a length in bytes. */
#include "gallery.h"

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (sound ? !is_within(vma, frame.npages) : vma->vm_pgoff + area_len(vma) > frame.len)
		return -ENXIO;
	return gallery_map(vma, &frame, vma->vm_pgoff, vma_pages(vma));
}

GALLERY_DRIVER(.mmap = gallery_mmap);
