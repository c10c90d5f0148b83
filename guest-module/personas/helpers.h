/* SPDX-License-Identifier: GPL-2.0 */
#ifndef MAPWITNESS_PERSONAS_HELPERS_H
#define MAPWITNESS_PERSONAS_HELPERS_H

#include <linux/types.h>

pid_t mapwitness_current_pid(void);

#endif
