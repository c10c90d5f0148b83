// SPDX-License-Identifier: GPL-2.0
/*
 * What the personas need of C. Each function does exactly what its name says.
 */
#include "helpers.h"

#include <linux/pid.h>
#include <linux/sched.h>

/*
 * The kernel crate has a method for this, which reads task_struct at the offset
 * that bindgen has computed; on 7.3 built with gcc that is not where the pid is.
 */
pid_t mapwitness_current_pid(void)
{
	return task_pid_nr(current);
}
