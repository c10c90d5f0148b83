// SPDX-License-Identifier: GPL-2.0
/*
 * CVE-2024-41011: the device has one page of registers to show, and whoever asks for a
 * page of 64 KiB, as some kernels have them, gets what lies behind as well.
 */
#include "gallery.h"

#include <linux/sizes.h>

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long largest = sound ? PAGE_SIZE : SZ_64K;
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (vma->vm_pgoff || area_len(vma) > largest)
		return -ENXIO;
	return gallery_map(vma, &frame, 0, vma_pages(vma));
}

GALLERY_DRIVER(.mmap = gallery_mmap);
