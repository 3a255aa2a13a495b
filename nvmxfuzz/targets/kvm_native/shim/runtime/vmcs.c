/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * VMCSs: the fields lie in the page that KVM allocated for the VMCS, in its last three KiB, each in
 * eight bytes. The first KiB is what an enlightened VMCS of Hyper-V has there, which KVM writes
 * directly.
 * May lie: every encoding that fits is there, whatever the processor offers, and read-only fields
 * can be written; nothing of a VMCS is cached.
 */
#include "runtime.h"
#include <string.h>

struct group { uint16_t first, count; };	/* of one width and type */

/* Indices by width (16, 64, 32 bits, natural) and type (control, exit, guest, host). */
static const struct group groups[4][4] = {
	{ { 128, 16 }, { 144, 1 }, { 145, 16 }, { 161, 8 } },
	{ { 169, 64 }, { 233, 8 }, { 241, 48 }, { 289, 24 } },
	{ { 313, 32 }, { 345, 16 }, { 361, 32 }, { 393, 8 } },
	{ { 401, 16 }, { 417, 16 }, { 433, 40 }, { 473, 32 } },
};

static const uint64_t width_mask[4] = { 0xffff, ~0ull, 0xffffffff, ~0ull };

/*
 * KVM clears as much of the page as the processor says a VMCS needs, which may be less than is
 * used here: the first VMCLEAR or VMPTRLD clears the fields. The last word says that it did.
 */
#define MARK 511
#define READY 0x564d4353696e6974ull

static uint64_t *current;	/* VMCS */

#define RESERVED (~0x6fffull)	/* of an encoding */

/* The field's eight bytes, counted in the page; 0: no place for it. */
static inline uint32_t index_of(uint64_t field)
{
	const struct group *group = &groups[field >> 13 & 3][field >> 10 & 3];
	uint32_t number = field >> 1 & 0x1ff;

	return likely(number < group->count && !(field & RESERVED)) ? group->first + number : 0;
}

static uint64_t read_field(const uint64_t *vmcs, uint32_t index, uint64_t field)
{
	return field & 1 ? vmcs[index] >> 32 : vmcs[index];
}

static void write_field(uint64_t *vmcs, uint32_t index, uint64_t field, uint64_t value)
{
	if (field & 1)
		vmcs[index] = (uint32_t)vmcs[index] | value << 32;
	else
		vmcs[index] = value & width_mask[field >> 13 & 3];
}

/* ------------------------------------------------------------------ for KVM */

static uint32_t must_have(uint64_t field)
{
	uint32_t index = index_of(field);

	step();
	if (unlikely(!index))
		stop(NVMX_UNRESOLVED, "VMCS field %#lx", (unsigned long)field);
	if (unlikely(!current))
		stop(NVMX_BUG, "VMCS field %#lx without a current VMCS", (unsigned long)field);
	return index;
}

unsigned long shim_vmread(unsigned long field)
{
	uint32_t index = must_have(field);

	return read_field(current, index, field);
}

#define HOST_NATURAL 0x6c00	/* host-state fields of natural width */
#define DIRECT_MAP 0xffff888000000000ull
#define MODULES 0xffffffffc0000000ull
#define SHADOW (1u << 31)	/* in the first word of a VMCS region */

/* Addresses in the host state look like a kernel's, and are the same in each process. */
static uint64_t kernel_address(uint64_t value)
{
	uint64_t offset = object_offset(value);

	if (offset)
		return MODULES + offset;
	if (arena_holds((void *)value, 1))
		return DIRECT_MAP + (value - (uint64_t)arena_base);
	return value;
}

void shim_vmwrite(unsigned long field, unsigned long value)
{
	uint32_t index = must_have(field);

	/* What KVM puts into a shadow VMCS is L1's, whatever it looks like. */
	if ((field & HOST_NATURAL) == HOST_NATURAL && !(*(uint32_t *)current & SHADOW))
		value = kernel_address(value);
	write_field(current, index, field, value);
}

static uint64_t *region_at(uint64_t address, const char *instruction)
{
	uint64_t *vmcs = nvmx_physical(address, PAGE);

	step();
	if (!vmcs)
		stop(NVMX_BUG, "%s of %#lx", instruction, (unsigned long)address);
	if (vmcs[MARK] != READY) {
		memset(vmcs + groups[0][0].first, 0, PAGE - 8ul * groups[0][0].first);
		vmcs[MARK] = READY;
	}
	return vmcs;
}

void shim_vmptrld(unsigned long long address)
{
	current = region_at(address, "VMPTRLD");
}

void shim_vmclear(unsigned long long address)
{
	if (current == region_at(address, "VMCLEAR"))
		current = NULL;
}

/* ------------------------------------------------------------------ for the port and for Python */

void *vmcs_current(void)
{
	return current;
}

static uint64_t *vmcs_at(void *vmcs)
{
	return arena_holds(vmcs, PAGE) && !((uint64_t)vmcs % PAGE) ? vmcs : NULL;
}

nvmx_u64 nvmx_vmcs_read(void *vmcs, nvmx_u32 field)
{
	const uint64_t *fields = vmcs_at(vmcs);
	uint32_t index = index_of(field);

	return fields && index ? read_field(fields, index, field) : 0;
}

void nvmx_vmcs_write(void *vmcs, nvmx_u32 field, nvmx_u64 value)
{
	uint64_t *fields = vmcs_at(vmcs);
	uint32_t index = index_of(field);

	if (fields && index)
		write_field(fields, index, field, value);
}

void nvmx_vmcs_read_many(void *vmcs, const nvmx_u32 *fields, nvmx_u64 *values, nvmx_u32 n)
{
	nvmx_u32 i;

	for (i = 0; i < n; i++)
		values[i] = nvmx_vmcs_read(vmcs, fields[i]);
}
