/* SPDX-License-Identifier: GPL-2.0-only */
/* The kernel patches a static call of NULL into a return; a plain pointer has to be asked. */
#include_next <linux/static_call_types.h>
#ifndef NVMX_STATIC_CALL_TYPES_H
#define NVMX_STATIC_CALL_TYPES_H

#undef __static_call
#undef static_call
#undef static_call_cond
#undef static_call_mod
#define __static_call(name)						\
	((typeof(STATIC_CALL_TRAMP(name)) *)				\
	 (STATIC_CALL_KEY(name).func ?: (void *)shim_return0))
#define static_call(name) __static_call(name)
#define static_call_mod(name) __static_call(name)
#define static_call_cond(name) (void)__static_call(name)

#endif
