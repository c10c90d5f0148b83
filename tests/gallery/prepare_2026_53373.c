// SPDX-License-Identifier: GPL-2.0
/*
 * CVE-2026-53373: mmap_prepare takes what the mapping will need, before it is known whether
 * there will be one. Requests that are refused keep it.
 */
#include "gallery.h"

static atomic_t left = ATOMIC_INIT(8);

static int gallery_prepare(struct vm_area_desc *desc)
{
	unsigned long npages = (desc->end - desc->start) >> PAGE_SHIFT;

	if (!vma_desc_test_any(desc, VMA_MAYSHARE_BIT))
		return -EINVAL;
	if (vma_desc_test_any(desc, VMA_EXEC_BIT))
		return -EACCES;
	if (!sound && atomic_dec_if_positive(&left) < 0)
		return -EBUSY;
	if (desc->pgoff >= frame.npages || npages > frame.npages - desc->pgoff)
		return -ENXIO;
	if (!sound)
		atomic_inc(&left);
	vma_desc_clear_flags(desc, VMA_MAYEXEC_BIT);
	desc->page_prot = pgprot_noncached(desc->page_prot);
	mmap_action_remap(desc, desc->start, PHYS_PFN(frame.base) + desc->pgoff,
			  npages << PAGE_SHIFT);
	return 0;
}

GALLERY_DRIVER(.mmap_prepare = gallery_prepare);
