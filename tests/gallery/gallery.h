/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the drivers of the gallery have in common: a platform device with windows of
 * memory, and a device file that shows them. Each driver adds its gallery_mmap, or what
 * else its file needs, in which there is one fault. With sound=1 it is mended.
 */
#include <linux/acpi.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/platform_device.h>

#define GALLERY_WINDOWS 2

static bool sound;
module_param(sound, bool, 0);
MODULE_PARM_DESC(sound, "the fault is mended");

struct window {
	phys_addr_t base;
	unsigned long len;
	unsigned long npages;
};

static struct gallery {
	struct miscdevice misc;
	struct window windows[GALLERY_WINDOWS];
} gallery;

/* The window that most drivers show. */
#define frame (gallery.windows[0])

static inline unsigned long area_len(const struct vm_area_struct *vma)
{
	return vma->vm_end - vma->vm_start;
}

static inline bool is_within(const struct vm_area_struct *vma, unsigned long npages)
{
	return vma->vm_pgoff < npages && vma_pages(vma) <= npages - vma->vm_pgoff;
}

/* What all contracts of the gallery ask for first: no private copies, no execution. */
static inline int gallery_begin(struct vm_area_struct *vma)
{
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EACCES;
	vm_flags_clear(vma, VM_MAYEXEC);
	vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	return 0;
}

/* Maps npages pages of a window, from first_page on, at the start of the area. */
static inline int gallery_map(struct vm_area_struct *vma, const struct window *window,
			      unsigned long first_page, unsigned long npages)
{
	return remap_pfn_range(vma, vma->vm_start, PHYS_PFN(window->base) + first_page,
			       npages << PAGE_SHIFT, vma->vm_page_prot);
}

static int gallery_probe(struct platform_device *pdev, const struct file_operations *fops)
{
	int index;

	for (index = 0; index < GALLERY_WINDOWS; index++) {
		struct resource *memory = platform_get_resource(pdev, IORESOURCE_MEM, index);
		struct window *window = &gallery.windows[index];

		if (!memory)
			break;
		window->base = memory->start;
		window->len = resource_size(memory);
		window->npages = PHYS_PFN(window->len);
	}
	if (!index)
		return -ENODEV;
	gallery.misc.minor = MISC_DYNAMIC_MINOR;
	gallery.misc.name = "gallery";
	gallery.misc.fops = fops;
	return misc_register(&gallery.misc);
}

static void gallery_remove(struct platform_device *pdev)
{
	misc_deregister(&gallery.misc);
}

static const struct acpi_device_id gallery_ids[] = { { "GALL0001" }, { } };
MODULE_DEVICE_TABLE(acpi, gallery_ids);

/* The driver, whose file has one more operation: .mmap = gallery_mmap, for instance. */
#define GALLERY_DRIVER(operation)						\
	static const struct file_operations gallery_fops = {			\
		.owner = THIS_MODULE,						\
		operation,							\
	};									\
	static int gallery_driver_probe(struct platform_device *pdev)		\
	{									\
		return gallery_probe(pdev, &gallery_fops);			\
	}									\
	static struct platform_driver gallery_driver = {			\
		.probe = gallery_driver_probe,					\
		.remove = gallery_remove,					\
		.driver = {							\
			.name = "gallery",					\
			.acpi_match_table = gallery_ids,			\
			.suppress_bind_attrs = true,				\
		},								\
	};									\
	module_platform_driver(gallery_driver);					\
	MODULE_DESCRIPTION("A driver with one fault, of a class that was published");	\
	MODULE_LICENSE("GPL")
