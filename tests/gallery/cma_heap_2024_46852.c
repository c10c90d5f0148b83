// SPDX-License-Identifier: GPL-2.0
/* CVE-2024-46852: `>` for `>=`, so that there is one page too many. */
#include "gallery.h"

static vm_fault_t gallery_fault(struct vm_fault *vmf)
{
	if (sound ? vmf->pgoff >= frame.npages : vmf->pgoff > frame.npages)
		return VM_FAULT_SIGBUS;
	return vmf_insert_pfn(vmf->vma, vmf->address, PHYS_PFN(frame.base) + vmf->pgoff);
}

static const struct vm_operations_struct gallery_vm_ops = {
	.fault = gallery_fault,
};

static int gallery_mmap(struct file *file, struct vm_area_struct *vma)
{
	int err = gallery_begin(vma);

	if (err)
		return err;
	if (!is_within(vma, sound ? frame.npages : frame.npages + 1))
		return -ENXIO;
	vm_flags_set(vma, VM_PFNMAP | VM_IO | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_ops = &gallery_vm_ops;
	return 0;
}

GALLERY_DRIVER(.mmap = gallery_mmap);
