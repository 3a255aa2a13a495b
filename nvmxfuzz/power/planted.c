/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which of the faults in this object is there: the one whose number the environment says, as it
 * was when the object was loaded. No snapshot has it.
 */
#include "runtime/runtime.h"
#include <stdlib.h>

KEPT int nvmx_planted = 0;

__attribute__((constructor)) static void choose(void)
{
	const char *number = getenv("NVMXFUZZ_PLANTED");

	if (number)
		nvmx_planted = atoi(number);
}
