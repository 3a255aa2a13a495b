/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * x86 calls __sw_hweight32() by a convention of its own, which saves all registers and which only
 * an assembler version keeps. Here it is the C version, called like any function.
 */
#ifndef NVMX_ARCH_HWEIGHT_H
#define NVMX_ARCH_HWEIGHT_H
#include <asm-generic/bitops/arch_hweight.h>
#endif
