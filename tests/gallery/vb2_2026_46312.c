// SPDX-License-Identifier: GPL-2.0
/* CVE-2026-46312: without VM_DONTEXPAND, mremap(2) makes the mapping longer than checked. */
#include "gallery.h"

static vm_fault_t gallery_fault(struct vm_fault *vmf)
{
	return vmf_insert_mixed(vmf->vma, vmf->address, PHYS_PFN(frame.base) + vmf->pgoff);
}

static const struct vm_operations_struct gallery_vm_ops = {
	.fault = gallery_fault,
};

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (!is_within(vma, frame.npages))
		return -ENXIO;
	vm_flags_set(vma, VM_MIXEDMAP | (sound ? VM_DONTEXPAND | VM_DONTDUMP : 0));
	vma->vm_ops = &gallery_vm_ops;
	return 0;
}

GALLERY_DRIVER(.mmap = gallery_mmap);
