/* SPDX-License-Identifier: GPL-2.0-only */
/* Planted faults: each must come back as the status that nvmx.h names. [guarded] */
#include "runtime.h"
#include <stdlib.h>
#include <string.h>

/* The compiler must not see through these. */
static void *volatile hidden;
static volatile int forever = 1;

static void overrun(uint64_t size)
{
	char *volatile object = heap_take(size, 1);

	object[size] = 1;
	heap_give(object);
}

static void double_free(void)
{
	hidden = heap_take(100, 1);
	heap_give(hidden);
	heap_give(hidden);
}

static void use_after_free(void)
{
	char *volatile object = heap_take(100, 1);

	heap_give(object);
	object[10] = 1;
	shim_check_heap();
}

static uint64_t recurse(uint64_t depth)
{
	uint64_t (*volatile again)(uint64_t depth) = recurse;
	volatile char frame[512];

	frame[0] = depth;
	return again(depth + 1) + frame[0];
}

static void loop(int with_steps)
{
	while (forever)
		if (with_steps)
			step();
}

int nvmx_selftest(nvmx_u32 fault)
{
	extern void nvmx_selftest_kernel(unsigned int fault);

	switch (fault) {
	case NVMX_PLANT_UNRESOLVED:
		shim_unresolved("nvmx_selftest");
		break;
	case NVMX_PLANT_WILD:
		hidden = NULL;
		*(char *volatile)hidden = 1;
		break;
	case NVMX_PLANT_STEPS:
		loop(1);
		break;
	case NVMX_PLANT_TIME:
		loop(0);
		break;
	case NVMX_PLANT_OVERRUN:
		overrun(100);
		break;
	case NVMX_PLANT_PAGE_OVERRUN:
		overrun(PAGE);
		break;
	case NVMX_PLANT_DOUBLE_FREE:
		double_free();
		break;
	case NVMX_PLANT_USE_AFTER_FREE:
		use_after_free();
		break;
	case NVMX_PLANT_RECURSION:
		recurse(0);
		break;
	default:
		nvmx_selftest_kernel(fault);
	}
	return 0;
}
