/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The processor below KVM as a function of this process: an image of vmcs02 goes in, and what
 * became of VM entry comes out, without Python in between.
 *
 * The function has one state and one memory, made beforehand. So it is asked only while all that
 * decides a VM entry beside the VMCS is as it was when `otherwise`, the port that can do
 * everything, named it. Where its answer is no plain one, `otherwise` is asked as well.
 */
#include "runtime.h"
#include <string.h>

enum {
	ENTRY_CONTROLS = 0x4012, ENTRY_MSR_LOAD_COUNT = 0x4014, EXIT_CONTROLS = 0x400c,
	MSR_BITMAP = 0x2004, ENTRY_MSR_LOAD_ADDR = 0x200a, VIRTUAL_APIC_PAGE_ADDR = 0x2012,
	VMCS_LINK_POINTER = 0x2800, EXIT_REASON = 0x4402, EXIT_QUALIFICATION = 0x6400,
	GUEST_CR0 = 0x6800, GUEST_CR3 = 0x6802, GUEST_CR4 = 0x6804,
	HOST_PAT = 0x2c00, HOST_EFER = 0x2c02,
	HOST_CR0 = 0x6c00, HOST_CR3 = 0x6c02, HOST_CR4 = 0x6c04,
};

enum { MSR_PAT = 0x277, MSR_RTIT_CTL = 0x570, MSR_EFER = 0xc0000080 };

#define IA32E_MODE_GUEST (1u << 9)
#define EXIT_LOADS_PAT (1u << 19)
#define EXIT_LOADS_EFER (1u << 21)
#define CR0_PG (1u << 31)
#define CR4_PAE (1u << 5)
#define ENTRY_FAILURE (1u << 31)
#define BASIC_REASON 0xffff

#define MSRS 8			/* a longer list is for `otherwise` */
#define MSR_SLOT 16
#define VTPR 0x80
#define PDPTES 32

KEPT static struct nvmx_below *below = NULL;
KEPT static char image[PAGE] = { 0 };

/* ------------------------------------------------------------------ a VM exit */

static void load_cr(void *vmcs, int number, uint32_t field)
{
	nvmx_set_cr(number, nvmx_vmcs_read(vmcs, field));
}

void nvmx_load_host_state(void *vmcs)
{
	uint32_t controls = nvmx_vmcs_read(vmcs, EXIT_CONTROLS);

	load_cr(vmcs, 0, HOST_CR0);
	load_cr(vmcs, 3, HOST_CR3);
	load_cr(vmcs, 4, HOST_CR4);
	if (controls & EXIT_LOADS_EFER)
		nvmx_set_msr(MSR_EFER, nvmx_vmcs_read(vmcs, HOST_EFER));
	if (controls & EXIT_LOADS_PAT)
		nvmx_set_msr(MSR_PAT, nvmx_vmcs_read(vmcs, HOST_PAT));
}

/* ------------------------------------------------------------------ all beside the VMCS */

static void add(struct nvmx_around *around, uint64_t word)
{
	around->word[around->count++] = word;
}

/* As many words as are there at most: eight MSRs of four, eight of registers, and twelve. */
static void add_memory(struct nvmx_around *around, uint64_t address, uint32_t size)
{
	const void *memory = nvmx_physical(address, size);
	uint64_t words[PDPTES / 8] = { 0 };
	uint32_t i;

	if (memory)
		memcpy(words, memory, size);
	add(around, address);
	add(around, memory != NULL);
	for (i = 0; i < (size + 7) / 8; i++)
		add(around, words[i]);
}

static void add_processor(struct nvmx_around *around, const struct nvmx_entry *entry)
{
	nvmx_u64 efer = 0, rtit_ctl = 0;

	nvmx_get_msr(MSR_EFER, &efer);
	nvmx_get_msr(MSR_RTIT_CTL, &rtit_ctl);
	add(around, (uint64_t)entry->vmcs);
	add(around, nvmx_vmcs_read(entry->vmcs, MSR_BITMAP));	/* tells where the VMCS lies */
	add(around, nvmx_get_cr(0));
	add(around, nvmx_get_cr(3));
	add(around, nvmx_get_cr(4));
	add(around, nvmx_get_rflags_if());
	add(around, efer);
	add(around, rtit_ctl);
}

/* What VM entry reads beside the VMCS. In IA-32e mode no PDPTEs are loaded. */
static void add_operands(struct nvmx_around *around, void *vmcs, uint32_t msrs)
{
	uint64_t link = nvmx_vmcs_read(vmcs, VMCS_LINK_POINTER);
	uint64_t list = nvmx_vmcs_read(vmcs, ENTRY_MSR_LOAD_ADDR);
	uint32_t i;

	for (i = 0; i < msrs; i++)
		add_memory(around, list + i * MSR_SLOT, MSR_SLOT);
	add_memory(around, nvmx_vmcs_read(vmcs, VIRTUAL_APIC_PAGE_ADDR) + VTPR, 4);
	if (!(nvmx_vmcs_read(vmcs, ENTRY_CONTROLS) & IA32E_MODE_GUEST) &&
	    nvmx_vmcs_read(vmcs, GUEST_CR0) & CR0_PG && nvmx_vmcs_read(vmcs, GUEST_CR4) & CR4_PAE)
		add_memory(around, nvmx_vmcs_read(vmcs, GUEST_CR3) & 0xffffffe0, PDPTES);
	if (link != ~0ull)
		add_memory(around, link, 4);
}

static struct nvmx_around look_around(const struct nvmx_entry *entry)
{
	struct nvmx_around around = { .count = 0 };
	uint32_t msrs = nvmx_vmcs_read(entry->vmcs, ENTRY_MSR_LOAD_COUNT);

	if (msrs > MSRS)
		return around;
	add_processor(&around, entry);
	add_operands(&around, entry->vmcs, msrs);
	return around;
}

static int is_known(const struct nvmx_around *around)
{
	return below->function.enter && *below->function.stamp == below->stamp && around->count &&
	       around->count == below->around.count &&
	       !memcmp(around->word, below->around.word, around->count * sizeof(around->word[0]));
}

/* ------------------------------------------------------------------ asking the function */

static uint64_t rotated(uint64_t value, uint32_t bits)
{
	return bits ? (uint32_t)value << bits | (uint32_t)value >> (32 - bits) : value;
}

static void put(char *at, uint64_t value, uint32_t size)
{
	switch (size) {
	case 8:
		memcpy(at, &value, 8);
		break;
	case 4:
		memcpy(at, &value, 4);
		break;
	default:
		memcpy(at, &value, 2);
	}
}

static void make_image(const struct nvmx_function *function, const struct nvmx_entry *entry)
{
	uint32_t resume = entry->flags & 1, i;

	memset(image, 0, function->size);
	put(image + function->launch_state, resume, sizeof(resume));
	for (i = 0; i < function->count; i++) {
		const struct nvmx_place *place = &function->places[i];
		uint64_t value = nvmx_vmcs_read(entry->vmcs, place->field);

		put(image + place->at, rotated(value, place->rotated), place->size);
	}
}

/* It may have gone on after a panic, or read memory that was not there. */
static int is_plain(const struct nvmx_function *function)
{
	const struct nvmx_end *end = function->end;
	uint64_t i;

	for (i = 0; i < end->lines; i++)
		if (end->line[i].level != function->harmless)
			return 0;
	return !end->missing;
}

static int refuse(struct nvmx_entry *entry, uint32_t error)
{
	struct nvmx_action action = { .vmfail = 1, .error = error };

	return error ? port_act(entry, &action) : 1;
}

static int fail(struct nvmx_entry *entry, uint32_t reason, uint64_t qualification)
{
	struct nvmx_action action = { .writes = 2, .write = {
		{ .field = EXIT_REASON, .value = (reason & BASIC_REASON) | ENTRY_FAILURE },
		{ .field = EXIT_QUALIFICATION, .value = qualification },
	} };

	return port_act(entry, &action);
}

/* What the port answers, or -1: this is no answer. */
static int answer_of(const struct nvmx_function *function, struct nvmx_entry *entry)
{
	const struct nvmx_end *end = function->end;
	int answer;

	if (end->kind == function->returned)
		return refuse(entry, *function->error);
	if (end->kind == function->entered)
		answer = port_act(entry, &below->guest);
	else if (end->kind == function->exited)
		answer = fail(entry, end->argument[1], end->argument[2]);
	else
		return -1;
	nvmx_load_host_state(entry->vmcs);
	return answer;
}

static int ask_function(struct nvmx_entry *entry)
{
	const struct nvmx_function *function = &below->function;
	int answer;

	make_image(function, entry);
	function->enter(function->state, image, function->instruction[entry->flags & 1]);
	answer = is_plain(function) ? answer_of(function, entry) : -1;
	if (answer >= 0)
		nvmx_set_script(below->later, ARRAY_SIZE(below->later));
	return answer;
}

static int enter_below(struct nvmx_entry *entry)
{
	struct nvmx_around around = look_around(entry);
	int answer = is_known(&around) ? ask_function(entry) : -1;

	if (answer >= 0)
		return answer;
	below->around = around;
	below->function.enter = NULL;
	return below->otherwise(entry);
}

void nvmx_set_below(struct nvmx_below *processor)
{
	below = processor;
	nvmx_set_port(enter_below);
}
