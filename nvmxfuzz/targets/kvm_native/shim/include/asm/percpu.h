/* SPDX-License-Identifier: GPL-2.0-only */
/* One CPU: a plain variable. The kernel's form asks for absolute relocations. */
#include_next <asm/percpu.h>
#ifndef NVMX_PERCPU_H
#define NVMX_PERCPU_H
#ifndef __ASSEMBLY__

#undef this_cpu_read_stable
#define this_cpu_read_stable(variable) (variable)

#endif
#endif
