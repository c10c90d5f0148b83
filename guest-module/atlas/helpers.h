/* SPDX-License-Identifier: GPL-2.0 */
#ifndef MAPWITNESS_ATLAS_HELPERS_H
#define MAPWITNESS_ATLAS_HELPERS_H

#include <linux/mm.h>

struct page *mapwitness_virt_to_page(const void *addr);
unsigned long mapwitness_atlas_page_to_pfn(const struct page *page);
struct page *mapwitness_pfn_to_page(unsigned long pfn);
void *mapwitness_page_address(const struct page *page);
phys_addr_t mapwitness_virt_to_phys(const void *addr);
void *mapwitness_kmap_local(const struct page *page);
void mapwitness_kunmap_local(const void *addr);
void *mapwitness_vmap(struct page **pages, unsigned int npages);
void *mapwitness_vzalloc(unsigned long len_bytes);
pid_t mapwitness_current_tgid(void);
u32 mapwitness_readl(const void __iomem *addr);
void mapwitness_writel(u32 value, void __iomem *addr);
void mapwitness_writeq(u64 value, void __iomem *addr);

#endif
