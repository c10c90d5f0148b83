// SPDX-License-Identifier: GPL-2.0
/* CVE-2024-56765: nobody hears of munmap, and what was the mapping's stays taken. */
#include "gallery.h"

/* Each mapping takes one. Where they come back there are enough for all that may be. */
static atomic_t left = ATOMIC_INIT(8);

static void gallery_open(struct vm_area_struct *vma)
{
	atomic_dec(&left);
}

static void gallery_close(struct vm_area_struct *vma)
{
	atomic_inc(&left);
}

static const struct vm_operations_struct gallery_vm_ops = {
	.open = gallery_open,
	.close = gallery_close,
};

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (!is_within(vma, frame.npages))
		return -ENXIO;
	if (!sound && atomic_read(&left) <= 0)
		return -EBUSY;
	err = gallery_map(vma, &frame, vma->vm_pgoff, vma_pages(vma));
	if (err)
		return err;
	atomic_dec(&left);
	if (sound)
		vma->vm_ops = &gallery_vm_ops;
	return 0;
}

GALLERY_DRIVER(.mmap = gallery_mmap);
