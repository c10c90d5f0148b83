// SPDX-License-Identifier: GPL-2.0
/*
 * Functions that are inline or macros in the kernel's headers, for which no
 * binding exists. Each does exactly what its name says.
 */
#include "helpers.h"

#ifdef CONFIG_X86
#include <asm/set_memory.h>
#endif

pgprot_t mapwitness_pgprot_noncached(pgprot_t prot)
{
	return pgprot_noncached(prot);
}

pgprot_t mapwitness_pgprot_writecombine(pgprot_t prot)
{
	return pgprot_writecombine(prot);
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

void mapwitness_mmap_action_remap(struct vm_area_desc *desc,
				  unsigned long start, unsigned long pfn,
				  unsigned long size)
{
	mmap_action_remap(desc, start, pfn, size);
}

void mapwitness_mmap_action_ioremap(struct vm_area_desc *desc,
				    unsigned long start, unsigned long pfn,
				    unsigned long size)
{
	mmap_action_ioremap(desc, start, pfn, size);
}

void mapwitness_mmap_action_simple_ioremap(struct vm_area_desc *desc,
					   phys_addr_t start,
					   unsigned long size)
{
	mmap_action_simple_ioremap(desc, start, size);
}

void mapwitness_mmap_action_map_kernel_pages(struct vm_area_desc *desc,
					     unsigned long start,
					     struct page **pages,
					     unsigned long nr_pages)
{
	mmap_action_map_kernel_pages(desc, start, pages, nr_pages);
}

void mapwitness_get_page(struct page *page)
{
	get_page(page);
}

void mapwitness_put_page(struct page *page)
{
	put_page(page);
}

unsigned long mapwitness_page_to_pfn(const struct page *page)
{
	return page_to_pfn(page);
}

/* Where there is no such call, RAM is cached whatever is asked for. */
int mapwitness_set_page_uncached(struct page *page, bool uncached)
{
#ifdef CONFIG_X86
	return uncached ? set_pages_array_uc(&page, 1) :
			  set_pages_array_wb(&page, 1);
#else
	return 0;
#endif
}

bool mapwitness_pmd_has_table(const pmd_t *pmd)
{
	pmd_t entry = pmdp_get_lockless((pmd_t *)pmd);

	return pmd_present(entry) && !pmd_leaf(entry);
}

/* Without huge pages there is no such function, nor a fault that asks for it. */
vm_fault_t mapwitness_vmf_insert_pfn_pmd(struct vm_fault *vmf,
					 unsigned long pfn, bool write)
{
#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
	return vmf_insert_pfn_pmd(vmf, pfn, write);
#else
	return VM_FAULT_FALLBACK;
#endif
}
