/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A driver that turns its device off with the last mapping. Mappings that are still there
 * when the count is wrong lose their pages.
 */
#include "gallery.h"

static atomic_t users = ATOMIC_INIT(0);
static struct address_space *mapped;

static inline void gallery_get(struct file *file)
{
	atomic_inc(&users);
	mapped = file->f_mapping;
}

static inline void gallery_put(void)
{
	if (atomic_dec_and_test(&users))
		unmap_mapping_range(mapped, 0, 0, 1);
}

static void gallery_close(struct vm_area_struct *vma)
{
	gallery_put();
}

static void gallery_open(struct vm_area_struct *vma);

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
	err = gallery_map(vma, &frame, vma->vm_pgoff, vma_pages(vma));
	if (err)
		return err;
	vma->vm_ops = &gallery_vm_ops;
	gallery_get(file);
	return 0;
}
