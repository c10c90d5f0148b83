// SPDX-License-Identifier: GPL-2.0
/* CVE-2019-18675: the offset in bytes loses its upper half before it is checked. */
#include "gallery.h"

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	u32 offset = vma->vm_pgoff << PAGE_SHIFT;
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (sound && !is_within(vma, frame.npages))
		return -ENXIO;
	if (offset >= frame.len || area_len(vma) > frame.len - offset)
		return -ENXIO;
	return gallery_map(vma, &frame, offset >> PAGE_SHIFT, vma_pages(vma));
}

GALLERY_DRIVER(.mmap = gallery_mmap);
