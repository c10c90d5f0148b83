// SPDX-License-Identifier: GPL-2.0
/* CVE-2025-68329: an area that a child inherits is closed, and was not opened. */
#include "counted.h"

static void gallery_open(struct vm_area_struct *vma)
{
	if (sound || vma->vm_mm == current->mm)
		gallery_get(vma->vm_file);
}

GALLERY_DRIVER(.mmap = gallery_mmap);
