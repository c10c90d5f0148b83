/* SPDX-License-Identifier: GPL-2.0 */
#ifndef MAPWITNESS_MM_HELPERS_H
#define MAPWITNESS_MM_HELPERS_H

#include <linux/mm.h>

pgprot_t mapwitness_pgprot_noncached(pgprot_t prot);
int mapwitness_io_remap_pfn_range(struct vm_area_struct *vma,
				  unsigned long addr, unsigned long pfn,
				  unsigned long size, pgprot_t prot);
void mapwitness_vm_flags_mod(struct vm_area_struct *vma, vm_flags_t set,
			     vm_flags_t clear);

#endif
