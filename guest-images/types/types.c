// SPDX-License-Identifier: GPL-2.0
/*
 * Mentions the structures that the host reads in the guest kernel's memory, so that the
 * compiler describes them, just as this kernel's configuration shapes them.
 */
#include <linux/fs.h>
#include <linux/maple_tree.h>
#include <linux/mm.h>
#include <linux/mm_types.h>
#include <linux/module.h>
#include <linux/sched.h>

extern struct task_struct *mapwitness_task;
extern struct mm_struct *mapwitness_mm;
extern struct vm_area_struct *mapwitness_vma;
extern struct maple_node *mapwitness_maple_node;
extern struct page *mapwitness_page;
extern enum pageflags mapwitness_page_flag;

struct task_struct *mapwitness_task;
struct mm_struct *mapwitness_mm;
struct vm_area_struct *mapwitness_vma;
struct maple_node *mapwitness_maple_node;
struct page *mapwitness_page;
enum pageflags mapwitness_page_flag;

/* Flags of vm_area_struct are macros, which no description of types has. */
enum mapwitness_vm_flag {
	mapwitness_VM_READ = VM_READ,
	mapwitness_VM_WRITE = VM_WRITE,
	mapwitness_VM_EXEC = VM_EXEC,
	mapwitness_VM_SHARED = VM_SHARED,
	mapwitness_VM_MAYREAD = VM_MAYREAD,
	mapwitness_VM_MAYWRITE = VM_MAYWRITE,
	mapwitness_VM_MAYEXEC = VM_MAYEXEC,
	mapwitness_VM_MAYSHARE = VM_MAYSHARE,
	mapwitness_VM_GROWSDOWN = VM_GROWSDOWN,
	mapwitness_VM_PFNMAP = VM_PFNMAP,
	mapwitness_VM_LOCKED = VM_LOCKED,
	mapwitness_VM_IO = VM_IO,
	mapwitness_VM_SEQ_READ = VM_SEQ_READ,
	mapwitness_VM_RAND_READ = VM_RAND_READ,
	mapwitness_VM_DONTCOPY = VM_DONTCOPY,
	mapwitness_VM_DONTEXPAND = VM_DONTEXPAND,
	mapwitness_VM_ACCOUNT = VM_ACCOUNT,
	mapwitness_VM_NORESERVE = VM_NORESERVE,
	mapwitness_VM_HUGETLB = VM_HUGETLB,
	mapwitness_VM_WIPEONFORK = VM_WIPEONFORK,
	mapwitness_VM_DONTDUMP = VM_DONTDUMP,
	mapwitness_VM_MIXEDMAP = VM_MIXEDMAP,
	mapwitness_VM_HUGEPAGE = VM_HUGEPAGE,
	mapwitness_VM_NOHUGEPAGE = VM_NOHUGEPAGE,
};

/* Where a module's code lies is a member of a member of an array: places, in bytes. */
enum mapwitness_module {
	mapwitness_module_next = offsetof(struct module, list.next),
	mapwitness_module_name = offsetof(struct module, name),
	mapwitness_module_text_base = offsetof(struct module, mem[MOD_TEXT].base),
	mapwitness_module_text_size = offsetof(struct module, mem[MOD_TEXT].size),
	mapwitness_module_refcnt = offsetof(struct module, refcnt),
};

extern enum mapwitness_module mapwitness_module;
enum mapwitness_module mapwitness_module;

extern enum mapwitness_vm_flag mapwitness_vm_flag;
enum mapwitness_vm_flag mapwitness_vm_flag;
