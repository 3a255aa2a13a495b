/* SPDX-License-Identifier: GPL-2.0-only */
/* Nothing is patched: ask boot_cpu_data each time. */
#include_next <asm/cpufeature.h>
#ifndef NVMX_CPUFEATURE_H
#define NVMX_CPUFEATURE_H
#ifndef __ASSEMBLY__

#undef static_cpu_has
#define static_cpu_has(bit) boot_cpu_has(bit)
#define _static_cpu_has(bit) boot_cpu_has(bit)

#endif
#endif
