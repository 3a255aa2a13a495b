/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * In place of the kernel's header of the same name: the vector registers that the instruction
 * emulator reads and writes are memory, not those of this process.
 * May lie: they are not the registers in the guest's saved FPU state.
 */
#ifndef __KVM_FPU_H_
#define __KVM_FPU_H_

#include <asm/fpu/api.h>

typedef u32 sse128_t __attribute__((vector_size(16)));

#define sse128_half(x, n) (((union { sse128_t all; u64 half[2]; }) { .all = (x) }).half[n])
#define sse128_word(x, n) (((union { sse128_t all; u32 word[4]; }) { .all = (x) }).word[n])
#define sse128_lo(x) sse128_half(x, 0)
#define sse128_hi(x) sse128_half(x, 1)
#define sse128_l0(x) sse128_word(x, 0)
#define sse128_l1(x) sse128_word(x, 1)
#define sse128_l2(x) sse128_word(x, 2)
#define sse128_l3(x) sse128_word(x, 3)
#define sse128(lo, hi) (((union { u64 half[2]; sse128_t all; }) { .half = { lo, hi } }).all)

extern struct nvmx_vectors {
	sse128_t sse[16];
	u64 mmx[8];
} nvmx_vectors;

static inline void kvm_fpu_get(void)
{
}

static inline void kvm_fpu_put(void)
{
}

static inline void kvm_read_sse_reg(int number, sse128_t *data)
{
	*data = nvmx_vectors.sse[number & 15];
}

static inline void kvm_write_sse_reg(int number, const sse128_t *data)
{
	nvmx_vectors.sse[number & 15] = *data;
}

static inline void kvm_read_mmx_reg(int number, u64 *data)
{
	*data = nvmx_vectors.mmx[number & 7];
}

static inline void kvm_write_mmx_reg(int number, const u64 *data)
{
	nvmx_vectors.mmx[number & 7] = *data;
}

#endif
