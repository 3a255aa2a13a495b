/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The hardware port: each VM entry goes to the function that was set, or to a script. Which
 * function is set survives a restore; the script and how far it is are part of a snapshot.
 */
#include "runtime.h"
#include <string.h>

#define ACTIONS 64

enum { VM_INSTRUCTION_ERROR = 0x4400, GUEST_RIP = 0x681e, GUEST_RFLAGS = 0x6820,
       ENTRY_CONTROLS = 0x4012, ENTRY_INTR_INFO = 0x4016, GUEST_INTERRUPTIBILITY = 0x4824,
       EXIT_REASON = 0x4402 };

#define ENTRY_FAILURE (1u << 31)
#define EVENT_VALID (1u << 31)
#define EVENT_TYPE (7u << 8)
#define EVENT_NMI (2u << 8)
#define BLOCKED_BY_NMI 8

void *vmcs_current(void);

KEPT static nvmx_port the_port = NULL;
static uint32_t entries;
static struct nvmx_action script[ACTIONS];
static uint32_t actions;
static struct nvmx_seen seen[ACTIONS];
static uint32_t seen_count;
uint32_t signal_at;

void nvmx_set_port(nvmx_port port)
{
	the_port = port;
	entries = 0;
}

static void look(const struct nvmx_entry *entry)
{
	seen[seen_count++] = (struct nvmx_seen){
		.vmcs = entry->vmcs,
		.rip = nvmx_vmcs_read(entry->vmcs, GUEST_RIP),
		.rflags = nvmx_vmcs_read(entry->vmcs, GUEST_RFLAGS),
		.flags = entry->flags,
		.entry_controls = nvmx_vmcs_read(entry->vmcs, ENTRY_CONTROLS),
	};
}

int port_act(struct nvmx_entry *entry, const struct nvmx_action *action)
{
	uint32_t i;

	for (i = 0; i < 16; i++)
		if (action->registers & 1u << i)
			entry->registers[i] = action->value[i];
	if (action->vmfail) {
		nvmx_vmcs_write(entry->vmcs, VM_INSTRUCTION_ERROR, action->error);
		return 1;
	}
	for (i = 0; i < action->writes && i < ARRAY_SIZE(action->write); i++)
		nvmx_vmcs_write(entry->vmcs, action->write[i].field, action->write[i].value);
	return 0;
}

static int injects_nmi(void *vmcs)
{
	uint64_t event = nvmx_vmcs_read(vmcs, ENTRY_INTR_INFO);

	return (event & EVENT_VALID) && (event & EVENT_TYPE) == EVENT_NMI;
}

/* An NMI that VM entry has injected blocks further ones. */
static void block_nmis(void *vmcs)
{
	if (!(nvmx_vmcs_read(vmcs, EXIT_REASON) & ENTRY_FAILURE))
		nvmx_vmcs_write(vmcs, GUEST_INTERRUPTIBILITY,
				nvmx_vmcs_read(vmcs, GUEST_INTERRUPTIBILITY) | BLOCKED_BY_NMI);
}

static int follow_script(struct nvmx_entry *entry)
{
	const struct nvmx_action *action = &script[seen_count];
	int nmi, failed;

	if (seen_count >= actions)
		return -1;
	look(entry);
	if (signal_at && seen_count == actions)
		nvmx_signal_task();
	nmi = injects_nmi(entry->vmcs);
	failed = port_act(entry, action);
	if (nmi && !failed)
		block_nmis(entry->vmcs);
	return failed;
}

/* A vCPU that is not runnable (KVM_MP_STATE_RUNNABLE is 0) may keep KVM busy for ever. */
void shim_run_begins(unsigned int mp_state)
{
	if (the_port == follow_script && signal_at && (mp_state || !actions))
		nvmx_signal_task();
}

int nvmx_set_script(const struct nvmx_action *table, nvmx_u32 count)
{
	if (count > ACTIONS)
		return -1;
	memcpy(script, table, count * sizeof(*table));
	actions = count;
	seen_count = 0;
	signal_at = 0;
	nvmx_set_port(follow_script);
	return 0;
}

int nvmx_set_signalled_script(const struct nvmx_action *table, nvmx_u32 count, nvmx_u32 steps)
{
	if (nvmx_set_script(table, count))
		return -1;
	signal_at = steps;
	return 0;
}

nvmx_u32 nvmx_script_seen(struct nvmx_seen *into)
{
	if (into)
		memcpy(into, seen, seen_count * sizeof(*seen));
	return seen_count;
}

/* The port's own faults and guarded calls are not this call's. */
static int ask_port(struct nvmx_entry *entry)
{
	int answer;

	guard.armed = 0;
	guard.in_port = 1;
	answer = the_port(entry);
	guard.in_port = 0;
	guard.armed = 1;
	return answer;
}

/* KVM's name for VM entry and the exit after it: 1 is VMfail. */
int __vmx_vcpu_run(void *vmx, unsigned long *registers, unsigned int flags)
{
	struct nvmx_entry entry = {
		vmcs_current(), (nvmx_u64 *)registers, flags, entries++,
	};
	int answer;

	(void)vmx;
	step();
	answer = the_port ? ask_port(&entry) : -1;
	if (answer != 0 && answer != 1)
		stop(NVMX_PORT, the_port == follow_script ? "the script ran out at entry %u" :
		     the_port ? "the port failed at entry %u" : "no port at entry %u",
		     entry.number);
	if (answer == 0)
		cpu_vm_exit();
	return answer;
}
