/* SPDX-License-Identifier: GPL-2.0-only */
/* The direct map is the arena. */
#include_next <asm/page_64_types.h>
#ifndef NVMX_PAGE_64_TYPES_H
#define NVMX_PAGE_64_TYPES_H

#undef __PAGE_OFFSET
#define __PAGE_OFFSET shim_page_offset

#endif
