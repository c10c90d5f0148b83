// SPDX-License-Identifier: GPL-2.0
/*
 * CVE-2013-2596: behind the frame buffer the file shows registers, and a mapping that
 * begins in the one is measured against both.
 */
#include "gallery.h"

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	const struct window *registers = &gallery.windows[1];
	unsigned long all = frame.npages + registers->npages;
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (!is_within(vma, all))
		return -ENXIO;
	if (vma->vm_pgoff >= frame.npages)
		return gallery_map(vma, registers, vma->vm_pgoff - frame.npages, vma_pages(vma));
	if (sound && !is_within(vma, frame.npages))
		return -EDOM;
	return gallery_map(vma, &frame, vma->vm_pgoff, vma_pages(vma));
}

GALLERY_DRIVER(.mmap = gallery_mmap);
