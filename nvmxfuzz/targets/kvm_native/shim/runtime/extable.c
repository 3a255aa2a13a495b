/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Faults that the kernel's own exception table answers for: copies from and to user space.
 * Entries of a kind not listed here are left to the signal handler.
 * May lie: any address that this process may access is good, the kernel's objects too.
 */
#include "runtime.h"

struct entry { int32_t instruction, fixup, kind; };	/* offsets from the members themselves */

enum { DEFAULT = 1, UACCESS = 3, IMMEDIATE = 17 };
enum { CLEAR_AX = 1 << 12, CLEAR_DX = 2 << 12 };

extern const struct entry __start___ex_table[] __attribute__((weak, visibility("hidden")));
extern const struct entry __stop___ex_table[] __attribute__((weak, visibility("hidden")));

static uint64_t target(const int32_t *offset)
{
	return (uint64_t)offset + *offset;
}

/* Machine numbering of the registers to the kernel's signal frame. */
static const int frame_register[16] = {
	REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
	REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

static int apply(const struct entry *entry, uint64_t *rip, greg_t *registers)
{
	switch (entry->kind & 0xff) {
	case IMMEDIATE:
		registers[frame_register[entry->kind >> 8 & 0xf]] = entry->kind >> 16;
		break;
	case DEFAULT:
	case UACCESS:
		break;
	default:
		return 0;
	}
	if (entry->kind & CLEAR_AX)
		registers[REG_RAX] = 0;
	if (entry->kind & CLEAR_DX)
		registers[REG_RDX] = 0;
	*rip = target(&entry->fixup);
	return 1;
}

int extable_fix(uint64_t *rip, greg_t *registers)
{
	const struct entry *entry;

	for (entry = __start___ex_table; entry < __stop___ex_table; entry++)
		if (target(&entry->instruction) == *rip)
			return apply(entry, rip, registers);
	return 0;
}
