/* SPDX-License-Identifier: GPL-2.0-only */
/* Debug registers are variables. */
#include_next <asm/debugreg.h>
#ifndef NVMX_DEBUGREG_H
#define NVMX_DEBUGREG_H

#undef get_debugreg
#define get_debugreg(variable, number) ((variable) = shim_read_dr(number))
#undef set_debugreg
#define set_debugreg(value, number) shim_write_dr(number, value)

#endif
