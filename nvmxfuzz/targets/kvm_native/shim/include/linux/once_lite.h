/* SPDX-License-Identifier: GPL-2.0-only */
/* The flags of "once" stand in one section, so that nvmx_forget_once() can clear them. */
#include_next <linux/once_lite.h>
#ifndef NVMX_ONCE_LITE_H
#define NVMX_ONCE_LITE_H

#undef __ONCE_LITE_IF
#define __ONCE_LITE_IF(condition)						\
	({									\
		static bool __attribute__((section("nvmx_once"))) seen_;	\
		bool first_ = (condition) && !seen_;				\
										\
		seen_ |= first_;						\
		first_;								\
	})

#endif
