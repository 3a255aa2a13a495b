/* SPDX-License-Identifier: GPL-2.0-only */
/* RDMSR and WRMSR, under the names before and since 6.16, are calls. */
#include_next <asm/msr.h>
#ifndef NVMX_MSR_H
#define NVMX_MSR_H
#ifndef __ASSEMBLY__

static inline int nvmx_rdmsr_halves(unsigned int index, unsigned int *low, unsigned int *high)
{
	unsigned long long value;
	int error = shim_rdmsr_safe(index, &value);

	*low = value;
	*high = value >> 32;
	return error;
}

static inline int nvmx_rdmsr_whole(unsigned int index, unsigned long long *value)
{
	return shim_rdmsr_safe(index, value);
}

#define nvmx_join(low, high) ((unsigned long long)(high) << 32 | (unsigned int)(low))

#undef rdmsr
#define rdmsr(index, low, high)						\
	do {								\
		unsigned long long value_ = shim_rdmsr(index);		\
		(void)((low) = (unsigned int)value_);			\
		(void)((high) = (unsigned int)(value_ >> 32));		\
	} while (0)
#undef rdmsr_safe
#define rdmsr_safe(index, low, high)					\
	({								\
		unsigned int low_, high_;				\
		int error_ = nvmx_rdmsr_halves(index, &low_, &high_);	\
		*(low) = low_;						\
		*(high) = high_;					\
		error_;							\
	})
#define nvmx_read_safe(index, where)					\
	({								\
		unsigned long long value_;				\
		int error_ = nvmx_rdmsr_whole(index, &value_);		\
		*(where) = value_;					\
		error_;							\
	})

#undef rdmsrl
#undef rdmsrq
#define rdmsrl(index, value) ((value) = shim_rdmsr(index))
#define rdmsrq(index, value) ((value) = shim_rdmsr(index))
#define rdmsrl_safe(index, where) nvmx_read_safe(index, where)
#define rdmsrq_safe(index, where) nvmx_read_safe(index, where)
#define native_read_msr(index) shim_rdmsr(index)
#define native_rdmsrq(index) shim_rdmsr(index)
#define __rdmsr(index) shim_rdmsr(index)

#define wrmsr(index, low, high) shim_wrmsr(index, nvmx_join(low, high))
#define wrmsrl(index, value) shim_wrmsr(index, value)
#define wrmsrq(index, value) shim_wrmsr(index, value)
#define wrmsrns(index, value) shim_wrmsr(index, value)
#define native_wrmsrl(index, value) shim_wrmsr(index, value)
#define native_wrmsrq(index, value) shim_wrmsr(index, value)
#define native_write_msr(index, low, high) shim_wrmsr(index, nvmx_join(low, high))
#define wrmsr_safe(index, low, high) shim_wrmsr_safe(index, nvmx_join(low, high))
#define wrmsrl_safe(index, value) shim_wrmsr_safe(index, value)
#define wrmsrq_safe(index, value) shim_wrmsr_safe(index, value)

#endif
#endif
