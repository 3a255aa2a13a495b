/* SPDX-License-Identifier: GPL-2.0-only */
/* The host's data segments are null, and those of this process are left alone. */
#include_next <asm/segment.h>
#ifndef NVMX_SEGMENT_H
#define NVMX_SEGMENT_H
#ifndef __ASSEMBLY__

#undef savesegment
#define savesegment(segment, value) ((value) = 0)
#undef loadsegment
#define loadsegment(segment, value) ((void)(value))

#endif
#endif
