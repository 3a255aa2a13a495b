/* SPDX-License-Identifier: GPL-2.0-only */
/* struct page of each page of the arena. */
#include_next <asm/pgtable_64_types.h>
#ifndef NVMX_PGTABLE_64_TYPES_H
#define NVMX_PGTABLE_64_TYPES_H

#undef VMEMMAP_START
#define VMEMMAP_START shim_vmemmap

#endif
