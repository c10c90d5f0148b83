/* SPDX-License-Identifier: GPL-2.0 */
#ifndef MAPWITNESS_MM_HELPERS_H
#define MAPWITNESS_MM_HELPERS_H

#include <linux/mm.h>

pgprot_t mapwitness_pgprot_noncached(pgprot_t prot);
pgprot_t mapwitness_pgprot_writecombine(pgprot_t prot);
int mapwitness_io_remap_pfn_range(struct vm_area_struct *vma,
				  unsigned long addr, unsigned long pfn,
				  unsigned long size, pgprot_t prot);
void mapwitness_vm_flags_mod(struct vm_area_struct *vma, vm_flags_t set,
			     vm_flags_t clear);
void mapwitness_mmap_action_remap(struct vm_area_desc *desc,
				  unsigned long start, unsigned long pfn,
				  unsigned long size);
void mapwitness_mmap_action_ioremap(struct vm_area_desc *desc,
				    unsigned long start, unsigned long pfn,
				    unsigned long size);
void mapwitness_mmap_action_simple_ioremap(struct vm_area_desc *desc,
					   phys_addr_t start,
					   unsigned long size);
void mapwitness_mmap_action_map_kernel_pages(struct vm_area_desc *desc,
					     unsigned long start,
					     struct page **pages,
					     unsigned long nr_pages);
void mapwitness_get_page(struct page *page);
void mapwitness_put_page(struct page *page);
unsigned long mapwitness_page_to_pfn(const struct page *page);
int mapwitness_set_page_uncached(struct page *page, bool uncached);
bool mapwitness_pmd_has_table(const pmd_t *pmd);
vm_fault_t mapwitness_vmf_insert_pfn_pmd(struct vm_fault *vmf,
					 unsigned long pfn, bool write);

#endif
