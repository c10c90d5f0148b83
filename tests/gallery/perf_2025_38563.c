// SPDX-License-Identifier: GPL-2.0
/* CVE-2025-38563: an area that is split is closed twice, and was opened once. */
#include "counted.h"

static void gallery_open(struct vm_area_struct *vma)
{
	/* A child's areas are those of another mm. */
	if (sound || vma->vm_mm != current->mm)
		gallery_get(vma->vm_file);
}

GALLERY_DRIVER(.mmap = gallery_mmap);
