/* SPDX-License-Identifier: GPL-2.0-only */
/* Control registers are variables. */
#include_next <asm/special_insns.h>
#ifndef NVMX_SPECIAL_INSNS_H
#define NVMX_SPECIAL_INSNS_H

#undef read_cr0
#undef read_cr2
#undef write_cr0
#undef write_cr2
#undef write_cr3
#define read_cr0() shim_read_cr(0)
#define read_cr2() shim_read_cr(2)
#define __read_cr3() shim_read_cr(3)
#define __read_cr4() shim_read_cr(4)
#define native_read_cr0() shim_read_cr(0)
#define native_read_cr2() shim_read_cr(2)
#define __native_read_cr3() shim_read_cr(3)
#define native_read_cr4() shim_read_cr(4)
#define write_cr0(value) shim_write_cr(0, value)
#define write_cr2(value) shim_write_cr(2, value)
#define native_write_cr2(value) shim_write_cr(2, value)
#define write_cr3(value) shim_write_cr(3, value)
#define __write_cr4(value) shim_write_cr(4, value)
/* PKRU: the host has no protection keys set. */
#define rdpkru() (0u)
#define wrpkru(value) ((void)(value))

#endif
