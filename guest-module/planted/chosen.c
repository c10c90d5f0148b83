// SPDX-License-Identifier: GPL-2.0
/*
 * The module parameter that names a fault; the Rust side has no strings there.
 */
#include <linux/moduleparam.h>
#include <linux/string.h>

const char *mapwitness_variant(size_t *len);

static char variant[64];
module_param_string(variant, variant, sizeof(variant), 0444);

const char *mapwitness_variant(size_t *len)
{
	*len = strnlen(variant, sizeof(variant));
	return variant;
}
