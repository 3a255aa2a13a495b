/* SPDX-License-Identifier: GPL-2.0-only */
#include_next <linux/static_call.h>
#undef static_call_cond
#define static_call_cond(name) (void)__static_call(name)
