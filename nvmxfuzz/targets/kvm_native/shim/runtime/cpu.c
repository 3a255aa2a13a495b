/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The processor below KVM, as far as registers go: MSRs, CPUID, control and debug registers, the
 * time-stamp counter, RFLAGS.IF.
 * May lie: WRMSR checks that the MSR exists, not its value; writes have no side effect; time moves
 * by the same amount at each look at it.
 */
#include "runtime.h"
#include <errno.h>
#include <string.h>

#define MSRS 2048		/* a power of two, twice what is expected at most */
#define LEAVES 256
#define TSC_STEP 1000		/* cycles between two reads */
#define DR7_FIXED 0x400		/* reads as 1 whatever is written */

struct msr { uint32_t index, present; uint64_t value; };

static struct msr msrs[MSRS];
static uint16_t msr_places[MSRS];	/* that are in use */
static uint32_t msr_count;
static struct nvmx_cpuid leaves[LEAVES];
static uint32_t leaf_count;

/* PE MP ET NE WP AM PG; CR4 as a 64-bit kernel has it */
static uint64_t control[9] = { [0] = 0x80050033, [3] = 0x1000, [4] = 0x3606f0 };
static uint64_t debug[8] = { [6] = 0xffff0ff0, [7] = DR7_FIXED };
unsigned long cpu_dr7;		/* the kernel's own note: DR7 with the host's breakpoints */
static uint64_t tsc = 1000000000;
unsigned long shim_interrupts = 0x200;

/* ------------------------------------------------------------------ MSRs */

static uint32_t place_of(uint32_t index)
{
	uint32_t place = (index * 2654435761u) >> 21;

	while (msrs[place].present && msrs[place].index != index)
		place = (place + 1) % MSRS;
	return place;
}

void nvmx_set_msr(nvmx_u32 index, nvmx_u64 value)
{
	uint32_t place = place_of(index);

	if (!msrs[place].present) {
		if (msr_count == MSRS / 2)
			return;
		msr_places[msr_count++] = place;
	}
	msrs[place] = (struct msr){ index, 1, value };
}

void nvmx_set_msrs(const struct nvmx_msr *table, nvmx_u32 count)
{
	uint32_t i;

	for (i = 0; i < msr_count; i++)
		msrs[msr_places[i]].present = 0;
	msr_count = 0;
	for (i = 0; i < count; i++)
		nvmx_set_msr(table[i].index, table[i].value);
}

int nvmx_get_msr(nvmx_u32 index, nvmx_u64 *value)
{
	const struct msr *msr = &msrs[place_of(index)];

	if (!msr->present)
		return -1;
	*value = msr->value;
	return 0;
}

static void unknown(uint32_t index)
{
	if (!nvmx_result.unknown_msrs++)
		nvmx_result.unknown_msr = index;
}

int shim_rdmsr_safe(unsigned int index, unsigned long long *value)
{
	const struct msr *msr = &msrs[place_of(index)];

	step();
	*value = msr->present ? msr->value : 0;
	return msr->present ? 0 : -EIO;
}

int shim_wrmsr_safe(unsigned int index, unsigned long long value)
{
	struct msr *msr = &msrs[place_of(index)];

	step();
	if (!msr->present)
		return -EIO;
	msr->value = value;
	return 0;
}

unsigned long long shim_rdmsr(unsigned int index)
{
	unsigned long long value;

	if (unlikely(shim_rdmsr_safe(index, &value)))
		unknown(index);
	return value;
}

void shim_wrmsr(unsigned int index, unsigned long long value)
{
	if (unlikely(shim_wrmsr_safe(index, value)))
		unknown(index);
}

/* ------------------------------------------------------------------ CPUID */

#define ANY_SUBLEAF 0xffffffffu

void nvmx_set_cpuid(const struct nvmx_cpuid *table, nvmx_u32 count)
{
	leaf_count = count < LEAVES ? count : LEAVES;
	memcpy(leaves, table, leaf_count * sizeof(*table));
}

/* A leaf that is not in the table is zero. */
void shim_cpuid(unsigned int leaf, unsigned int subleaf, unsigned int *out)
{
	uint32_t i;

	step();
	for (i = 0; i < leaf_count; i++)
		if (leaves[i].leaf == leaf &&
		    (leaves[i].subleaf == subleaf || leaves[i].subleaf == ANY_SUBLEAF)) {
			memcpy(out, &leaves[i].eax, 16);
			return;
		}
	memset(out, 0, 16);
}

/* ------------------------------------------------------------------ CR, DR */

unsigned long shim_read_cr(int number)
{
	return control[number];
}

void shim_write_cr(int number, unsigned long value)
{
	control[number] = value;
}

unsigned long cr4_read_shadow(void)
{
	return control[4];
}

void cr4_update_irqsoff(unsigned long set, unsigned long clear)
{
	control[4] = (control[4] | set) & ~clear;
}

unsigned long __get_current_cr3_fast(void)
{
	return control[3];
}

nvmx_u64 nvmx_get_cr(int number)
{
	return number >= 0 && number <= 8 ? control[number] : 0;
}

void nvmx_set_cr(int number, nvmx_u64 value)
{
	if (number >= 0 && number <= 8)
		control[number] = value;
}

unsigned long shim_read_dr(int number)
{
	return debug[number & 7];
}

void shim_write_dr(int number, unsigned long value)
{
	debug[number & 7] = number == 7 ? value | DR7_FIXED : value;
}

/* What KVM calls on its way out of a guest where the host has breakpoints. */
void hw_breakpoint_restore(void)
{
	shim_write_dr(7, cpu_dr7);
}

void cpu_vm_exit(void)
{
	shim_write_dr(7, 0);
	shim_interrupts = 0;
}

nvmx_u64 nvmx_get_dr(int number)
{
	return number >= 0 && number <= 7 ? debug[number] : 0;
}

void nvmx_set_dr(int number, nvmx_u64 value)
{
	if (number < 0 || number > 7)
		return;
	shim_write_dr(number, value);
	if (number == 7)
		cpu_dr7 = value & ~(nvmx_u64)DR7_FIXED;
}

nvmx_u64 nvmx_get_rflags_if(void)
{
	return shim_interrupts;
}

void nvmx_set_rflags_if(int on)
{
	shim_interrupts = on ? 0x200 : 0;
}

/* ------------------------------------------------------------------ time */

void nvmx_set_tsc(nvmx_u64 value)
{
	tsc = value;
}

uint64_t shim_rdtsc(void)
{
	step();
	return tsc += TSC_STEP;
}

/* Nanoseconds of a counter of 2 GHz. */
uint64_t ktime_get(void)
{
	return shim_rdtsc() / 2;
}

uint64_t ktime_get_raw(void)
{
	return shim_rdtsc() / 2;
}

uint64_t ktime_get_with_offset(void)
{
	return shim_rdtsc() / 2;
}

uint64_t shim_xgetbv(uint32_t index)
{
	return index ? 0 : 3;	/* XCR0 of the host: x87 and SSE */
}
