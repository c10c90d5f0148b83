// SPDX-License-Identifier: GPL-2.0
/* Makes the kernel complain while it is loaded: `insmod complainer.ko how=warn`. */

#include <linux/delay.h>
#include <linux/device/bus.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kfence.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/platform_device.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/slab.h>

static char *how = "warn";
module_param(how, charp, 0444);
MODULE_PARM_DESC(how, "what to provoke: warn, refcount, bad-page, sleep, locks, use-after-free, hang, out-of-memory, oops, bug or aside");

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);

/* Locks in one order and then in the other. */
static void locks(void)
{
	mutex_lock(&first);
	mutex_lock(&second);
	mutex_unlock(&second);
	mutex_unlock(&first);

	mutex_lock(&second);
	mutex_lock(&first);
	mutex_unlock(&first);
	mutex_unlock(&second);
}

/* Gives a page back that something is still said to be in. */
static void bad_page(void)
{
	struct page *page = alloc_page(GFP_KERNEL);

	if (!page)
		return;
	page->mapping = (struct address_space *)0x1000;
	__free_page(page);
}

/* Reads memory that was given back, as soon as the kernel watches what it gives. */
static void use_after_free(void)
{
	int tries;

	for (tries = 0; tries < 1000; tries++) {
		char *memory = kmalloc(64, GFP_KERNEL);
		bool is_watched = IS_ENABLED(CONFIG_KASAN) || is_kfence_address(memory);
		char *later = memory;

		OPTIMIZER_HIDE_VAR(later);
		kfree(memory);
		if (later && is_watched) {
			READ_ONCE(*later);
			return;
		}
		usleep_range(1000, 2000);
	}
}

/* Prints a report that never was in the log, when a driver has left its device. */
static int on_bus(struct notifier_block *block, unsigned long what, void *device)
{
	static const char report[] = "\nBUG: complainer: aside of the log\n";
	const char *next;

	if (what == BUS_NOTIFY_UNBOUND_DRIVER)
		for (next = report; *next; next++)
			outb(*next, 0x3f8);
	return NOTIFY_OK;
}

static struct notifier_block listener = { .notifier_call = on_bus };

static int __init complainer_init(void)
{
	if (!strcmp(how, "warn")) {
		WARN(1, "complainer: as it was asked to\n");
	} else if (!strcmp(how, "refcount")) {
		refcount_t count = REFCOUNT_INIT(0);

		refcount_inc(&count);
	} else if (!strcmp(how, "bad-page")) {
		bad_page();
	} else if (!strcmp(how, "sleep")) {
		preempt_disable();
		might_sleep();
		preempt_enable();
	} else if (!strcmp(how, "locks")) {
		locks();
	} else if (!strcmp(how, "use-after-free")) {
		use_after_free();
	} else if (!strcmp(how, "hang")) {
		/* The kernel searches every ten seconds, and tells from the second time on. */
		schedule_timeout_uninterruptible(30 * HZ);
	} else if (!strcmp(how, "out-of-memory")) {
		/* Ends when the kernel has ended this very task. */
		while (alloc_page(GFP_KERNEL))
			;
	} else if (!strcmp(how, "oops")) {
		char *nowhere = NULL;

		OPTIMIZER_HIDE_VAR(nowhere);
		WRITE_ONCE(*nowhere, 1);
	} else if (!strcmp(how, "bug")) {
		BUG();
	} else if (!strcmp(how, "aside")) {
		return bus_register_notifier(&platform_bus_type, &listener);
	} else {
		return -EINVAL;
	}
	return 0;
}

static void __exit complainer_exit(void)
{
	if (!strcmp(how, "aside"))
		bus_unregister_notifier(&platform_bus_type, &listener);
}

module_init(complainer_init);
module_exit(complainer_exit);

MODULE_DESCRIPTION("Makes the kernel complain");
MODULE_LICENSE("GPL");
