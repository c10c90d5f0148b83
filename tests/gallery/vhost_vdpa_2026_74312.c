// SPDX-License-Identifier: GPL-2.0
/*
 * CVE-2026-74312: the offset is an index into a table, and nothing holds it below the
 * number of entries that are filled.
 */
#include "gallery.h"

static unsigned long table[64];

static vm_fault_t gallery_fault(struct vm_fault *vmf)
{
	unsigned long index = vmf->pgoff;

	if (index >= ARRAY_SIZE(table))
		return VM_FAULT_SIGBUS;
	return vmf_insert_pfn(vmf->vma, vmf->address, table[index]);
}

static const struct vm_operations_struct gallery_vm_ops = {
	.fault = gallery_fault,
};

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long index;
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (!is_within(vma, sound ? frame.npages : ARRAY_SIZE(table)))
		return -ENXIO;
	for (index = 0; index < frame.npages; index++)
		table[index] = PHYS_PFN(frame.base) + index;
	vm_flags_set(vma, VM_PFNMAP | VM_IO | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_ops = &gallery_vm_ops;
	return 0;
}

GALLERY_DRIVER(.mmap = gallery_mmap);
