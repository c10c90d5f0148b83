// SPDX-License-Identifier: GPL-2.0
/* Shows the memory of a small device to user space, through /dev/example. */

#include <linux/acpi.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/platform_device.h>

struct example {
	struct miscdevice misc;
	struct resource *memory;
};

static int example_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct example *example = container_of(file->private_data, struct example, misc);
	unsigned long pfn = PHYS_PFN(example->memory->start);
	unsigned long npages = PHYS_PFN(resource_size(example->memory));

	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EACCES;
	if (vma->vm_pgoff >= npages || vma_pages(vma) > npages - vma->vm_pgoff)
		return -ENXIO;

	vm_flags_clear(vma, VM_MAYEXEC);
	vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	return remap_pfn_range(vma, vma->vm_start, pfn + vma->vm_pgoff,
			       vma->vm_end - vma->vm_start, vma->vm_page_prot);
}

static const struct file_operations example_fops = {
	.owner = THIS_MODULE,
	.mmap = example_mmap,
};

static int example_probe(struct platform_device *pdev)
{
	struct example *example = devm_kzalloc(&pdev->dev, sizeof(*example), GFP_KERNEL);

	if (!example)
		return -ENOMEM;
	example->memory = platform_get_resource(pdev, IORESOURCE_MEM, 0);
	if (!example->memory)
		return -ENODEV;
	example->misc.minor = MISC_DYNAMIC_MINOR;
	example->misc.name = "example";
	example->misc.fops = &example_fops;
	platform_set_drvdata(pdev, example);
	return misc_register(&example->misc);
}

static void example_remove(struct platform_device *pdev)
{
	struct example *example = platform_get_drvdata(pdev);

	misc_deregister(&example->misc);
}

static const struct acpi_device_id example_ids[] = { { "EXMP0001" }, { } };
MODULE_DEVICE_TABLE(acpi, example_ids);

static struct platform_driver example_driver = {
	.probe = example_probe,
	.remove = example_remove,
	.driver = {
		.name = "example",
		.acpi_match_table = example_ids,
		/* Only unloading the module takes the device away, and open files keep it. */
		.suppress_bind_attrs = true,
	},
};
module_platform_driver(example_driver);

MODULE_DESCRIPTION("Shows the memory of a small device to user space");
MODULE_LICENSE("GPL");
