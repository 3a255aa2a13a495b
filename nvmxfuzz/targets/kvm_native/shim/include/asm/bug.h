/* SPDX-License-Identifier: GPL-2.0-only */
/* WARN and BUG are calls, not trapping instructions. WARN_ON_ONCE reports each time. */
#include_next <asm/bug.h>
#ifndef NVMX_BUG_H
#define NVMX_BUG_H
#ifndef __ASSEMBLY__

#undef BUG
#define BUG() shim_bug(__FILE__, __LINE__)
#undef __WARN_FLAGS
#define __WARN_FLAGS(...) shim_warn(__FILE__, __LINE__)
#undef __WARN_printf
#define __WARN_printf(taint, ...)		\
	do {					\
		__warn_printk(__VA_ARGS__);	\
		shim_warn(__FILE__, __LINE__);	\
	} while (0)

#endif
#endif
