/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Coverage: the compiler's counters are handed to whoever asks; the object registers them with
 * nobody, so that it loads without a fuzzer as well.
 */
#include "runtime.h"

#define HIDDEN __attribute__((visibility("hidden")))

extern unsigned char __start___sancov_cntrs[] __attribute__((weak)) HIDDEN;
extern unsigned char __stop___sancov_cntrs[] __attribute__((weak)) HIDDEN;
extern nvmx_u64 __start___sancov_pcs[] __attribute__((weak)) HIDDEN;

HIDDEN void __sanitizer_cov_8bit_counters_init(void *start, void *stop)
{
	(void)start, (void)stop;
}

HIDDEN void __sanitizer_cov_pcs_init(const void *start, const void *stop)
{
	(void)start, (void)stop;
}

nvmx_u64 nvmx_counters(unsigned char **counters, nvmx_u64 **pc_table)
{
	*counters = __start___sancov_cntrs;
	*pc_table = __start___sancov_pcs;
	return __stop___sancov_cntrs - __start___sancov_cntrs;
}

void __gcov_dump(void) __attribute__((weak));

void nvmx_gcov_dump(void)
{
	if (__gcov_dump)
		__gcov_dump();
}
