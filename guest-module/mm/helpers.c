// SPDX-License-Identifier: GPL-2.0
/*
 * Functions that are inline or macros in the kernel's headers, for which no
 * binding exists. Each does exactly what its name says.
 */
#include "helpers.h"

pgprot_t mapwitness_pgprot_noncached(pgprot_t prot)
{
	return pgprot_noncached(prot);
}

int mapwitness_io_remap_pfn_range(struct vm_area_struct *vma,
				  unsigned long addr, unsigned long pfn,
				  unsigned long size, pgprot_t prot)
{
	return io_remap_pfn_range(vma, addr, pfn, size, prot);
}

void mapwitness_vm_flags_mod(struct vm_area_struct *vma, vm_flags_t set,
			     vm_flags_t clear)
{
	vm_flags_mod(vma, set, clear);
}
