// SPDX-License-Identifier: GPL-2.0
/*
 * Conversions between the kinds of addresses, and other functions that are inline or
 * macros in the kernel's headers. Each does exactly what its name says.
 */
#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/sched.h>
#include <linux/vmalloc.h>

#include "helpers.h"

struct page *mapwitness_virt_to_page(const void *addr)
{
	return virt_to_page(addr);
}

unsigned long mapwitness_atlas_page_to_pfn(const struct page *page)
{
	return page_to_pfn(page);
}

struct page *mapwitness_pfn_to_page(unsigned long pfn)
{
	return pfn_to_page(pfn);
}

void *mapwitness_page_address(const struct page *page)
{
	return page_address(page);
}

phys_addr_t mapwitness_virt_to_phys(const void *addr)
{
	return virt_to_phys((void *)addr);
}

/*
 * kmap_local_page() gives the address in the direct map on a 64-bit kernel. The function
 * behind it makes a mapping all the same when CONFIG_DEBUG_KMAP_LOCAL_FORCE_MAP is set.
 */
void *mapwitness_kmap_local(const struct page *page)
{
	return __kmap_local_page_prot(page, PAGE_KERNEL);
}

void mapwitness_kunmap_local(const void *addr)
{
	kunmap_local_indexed(addr);
}

void *mapwitness_vmap(struct page **pages, unsigned int npages)
{
	return vmap(pages, npages, VM_MAP, PAGE_KERNEL);
}

void *mapwitness_vzalloc(unsigned long len_bytes)
{
	return vzalloc(len_bytes);
}

/*
 * Not the kernel crate's Task::tgid(): without CONFIG_SCHEDSTATS task_struct has an empty
 * member that is aligned to a cache line, and its bindings lose that alignment, so that
 * every member behind it lies 48 bytes off.
 */
pid_t mapwitness_current_tgid(void)
{
	return task_tgid_nr(current);
}

u32 mapwitness_readl(const void __iomem *addr)
{
	return readl(addr);
}

void mapwitness_writel(u32 value, void __iomem *addr)
{
	writel(value, addr);
}

void mapwitness_writeq(u64 value, void __iomem *addr)
{
	writeq(value, addr);
}
