/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the built object offers to Python: KVM in user space.
 *
 * Calls marked [guarded] run kernel code. They go through nvmx_call(), which turns BUG(), an
 * unresolved symbol, a signal, too many steps and heap damage into a status instead of a crash.
 * After any status but NVMX_RETURNED the state of the object is undefined: restore a snapshot.
 * Everything is for one thread. Addresses are those of this process.
 */
#ifndef NVMX_H
#define NVMX_H

#ifdef __KERNEL__
#include <linux/types.h>
typedef u64 nvmx_u64;
typedef u32 nvmx_u32;
typedef u16 nvmx_u16;
typedef u8 nvmx_u8;
typedef s64 nvmx_s64;
typedef s32 nvmx_s32;
#else
#include <stdint.h>
typedef uint64_t nvmx_u64;
typedef uint32_t nvmx_u32;
typedef uint16_t nvmx_u16;
typedef uint8_t nvmx_u8;
typedef int64_t nvmx_s64;
typedef int32_t nvmx_s32;
#endif

#define NVMX_API __attribute__((visibility("default")))

/* ------------------------------------------------------------------ the result of a call */

enum nvmx_status {
	NVMX_RETURNED = 0,
	NVMX_BUG = 1,		/* message: file:line, or what no processor would have allowed */
	NVMX_UNRESOLVED = 2,	/* message: name of the symbol nobody defines */
	NVMX_SIGNAL = 3,	/* signal, fault_address, fault_offset */
	NVMX_STEPS = 4,		/* more than nvmx_step_limit steps: a loop */
	NVMX_TIME = 5,		/* no end within nvmx_seconds: a loop without a step in it */
	NVMX_HEAP = 6,		/* message: overrun, use after free, double free, of which size */
	NVMX_FULL = 7,		/* the arena is used up */
	NVMX_PORT = 8,		/* the hardware port failed, or its script ran out */
};

#define NVMX_SITES 8
#define NVMX_LINES 96
#define NVMX_LINE 192

struct nvmx_site {
	const char *text;	/* of a check: its condition; of a warning: "" */
	const char *where;	/* of a check: the function; of a warning: the file */
	nvmx_u32 line;
	nvmx_u32 code;		/* of a check: the failure code that was traced with it */
};

struct nvmx_result {
	nvmx_s64 value;		/* what the function returned; of an int, the low 32 bits count */
	nvmx_u32 status;	/* enum nvmx_status */
	nvmx_u32 signal;
	nvmx_u64 fault_address;	/* si_addr */
	nvmx_u64 fault_offset;	/* of the instruction, from the start of the object */
	nvmx_u64 caller_offset;	/* of the top word of the stack then, from the same start, or 0 */
	nvmx_u32 steps;
	nvmx_u32 warnings;	/* WARNs in this call; the first NVMX_SITES are kept */
	nvmx_u32 checks;	/* consistency checks that failed in it; likewise */
	nvmx_u32 lines;		/* lines of the kernel log in it; the first NVMX_LINES are kept */
	nvmx_u32 unknown_msrs;	/* RDMSR and WRMSR (not the _safe forms) of absent MSRs */
	nvmx_u32 unknown_msr;	/* the first of them */
	char message[256];
	struct nvmx_site warning[NVMX_SITES];
	struct nvmx_site check[NVMX_SITES];
	char log[NVMX_LINES][NVMX_LINE];	/* without level and line end */
};

extern NVMX_API struct nvmx_result nvmx_result;	/* of the last guarded call */
extern NVMX_API nvmx_u32 nvmx_step_limit;	/* vmread, vmwrite, rdmsr, entry, allocation ... */
extern NVMX_API nvmx_u32 nvmx_seconds;		/* 0: no limit */

/* From within the hardware port: -EBUSY, and nvmx_result stays as it is. */
NVMX_API nvmx_s64 nvmx_call(void *function, nvmx_u64 a, nvmx_u64 b, nvmx_u64 c, nvmx_u64 d,
			    nvmx_u64 e, nvmx_u64 f);
NVMX_API void nvmx_install_signal_handlers(void);	/* chains to those that were there */
NVMX_API void nvmx_round_heap(void);	/* before a snapshot: it is more like those of others */
NVMX_API int nvmx_passes_faults_to(void *handler);	/* of signals; such a chain leads to it */
NVMX_API int nvmx_check_heap(void);	/* [guarded] every canary and freed object; or NVMX_HEAP */
NVMX_API void nvmx_refuse_memory(nvmx_u32 number);	/* to the allocation with it, from 1; 0: to none */
NVMX_API void nvmx_forget_once(void);	/* WARN_ONCE and pr_*_once report again */

/* ------------------------------------------------------------------ the whole state */

/*
 * At any time but within a guarded call. What survives a restore: nvmx_result, nvmx_step_limit,
 * nvmx_seconds, which port is set (a script and how far it is are restored), coverage.
 * Cost: a copy of data and heap (0.6 MiB with one vCPU), and the guest's pages touched since;
 * from the second time in a row on, and for snapshots that are alike, of the pages written since.
 */
#define NVMX_SNAPSHOTS 64	/* that there can be at a time */

enum nvmx_refusal {
	NVMX_NO_SNAPSHOT = -1,	/* none of that number; of nvmx_snapshot(): none left */
	NVMX_NO_MEMORY = -2,	/* of nvmx_restore(): the state is undefined, restore again */
	NVMX_IN_CALL = -3,
};

/* Number of a snapshot of data, heap and guest memory; or enum nvmx_refusal. */
NVMX_API int nvmx_snapshot(void);
NVMX_API int nvmx_restore(int number);	/* 0, or enum nvmx_refusal */
NVMX_API void nvmx_discard(int number);
NVMX_API nvmx_u64 nvmx_heap_used(void);	/* bytes */

/* ------------------------------------------------------------------ the hardware below KVM */

struct nvmx_msr { nvmx_u32 index, reserved; nvmx_u64 value; };
struct nvmx_cpuid { nvmx_u32 leaf, subleaf, eax, ebx, ecx, edx; };

NVMX_API void nvmx_set_msrs(const struct nvmx_msr *table, nvmx_u32 count);	/* replaces all */
NVMX_API void nvmx_set_msr(nvmx_u32 index, nvmx_u64 value);
NVMX_API int nvmx_get_msr(nvmx_u32 index, nvmx_u64 *value);	/* 0, or -1: absent */
NVMX_API void nvmx_set_cpuid(const struct nvmx_cpuid *table, nvmx_u32 count);	/* replaces all */
NVMX_API nvmx_u64 nvmx_get_cr(int number);
NVMX_API void nvmx_set_cr(int number, nvmx_u64 value);
NVMX_API nvmx_u64 nvmx_get_dr(int number);
NVMX_API void nvmx_set_dr(int number, nvmx_u64 value);	/* DR7: the host's breakpoints as well */
NVMX_API nvmx_u64 nvmx_get_rflags_if(void);	/* 0x200 or 0 */
NVMX_API void nvmx_set_rflags_if(int on);
NVMX_API void nvmx_set_tsc(nvmx_u64 value);	/* what RDTSC counts on from */

/* [guarded] boot_cpu_data from CPUID; family, model, stepping as in /proc/cpuinfo */
NVMX_API int nvmx_init_cpu(nvmx_u32 family, nvmx_u32 model, nvmx_u32 stepping);
/*
 * Hyper-V below: recommends the enlightened VMCS, version 1, and the parameter enlightened_vmcs is
 * set to `on`. 0, or -1: not built in. The fields of a VMCS are read and written as ever.
 */
NVMX_API int nvmx_set_hyperv_evmcs(int on);

/* ------------------------------------------------------------------ the hardware port */

struct nvmx_entry {		/* one VM entry that KVM asks for */
	void *vmcs;		/* the current VMCS, for nvmx_vmcs_read() */
	nvmx_u64 *registers;	/* kernel order: RAX RCX RDX RBX RSP RBP RSI RDI R8 .. R15 */
	nvmx_u32 flags;		/* as KVM passed them: bit 0 VMRESUME */
	nvmx_u32 number;	/* of this entry since the port was set, from 0 */
};

/* 0: there was a VM exit, its fields are written; 1: VMfail (error in VM_INSTRUCTION_ERROR);
 * anything else: NVMX_PORT */
typedef int (*nvmx_port)(struct nvmx_entry *entry);

struct nvmx_write { nvmx_u32 field, reserved; nvmx_u64 value; };
struct nvmx_action {		/* one entry of a script */
	nvmx_u32 vmfail;	/* 1: VMfail with `error` */
	nvmx_u32 error;
	nvmx_u32 writes;	/* else: what the VM exit writes into the current VMCS */
	nvmx_u32 registers;	/* mask of registers that the guest has changed */
	struct nvmx_write write[12];
	nvmx_u64 value[16];
};
struct nvmx_seen {		/* what a script's entry found */
	void *vmcs;
	nvmx_u64 rip, rflags;
	nvmx_u32 flags, entry_controls;
};

NVMX_API void nvmx_set_port(nvmx_port port);	/* NULL: every entry is NVMX_PORT */
NVMX_API int nvmx_set_script(const struct nvmx_action *actions, nvmx_u32 count);	/* at most 64 */
/*
 * The same, and a signal arrives with the last answer, or after so many steps: KVM_RUN ends before
 * the next entry. Without an answer, and on a vCPU that is not runnable, it arrives before KVM_RUN,
 * which then enters nothing.
 */
NVMX_API int nvmx_set_signalled_script(const struct nvmx_action *actions, nvmx_u32 count,
				       nvmx_u32 steps);
NVMX_API nvmx_u32 nvmx_script_seen(struct nvmx_seen *seen);	/* how many entries it has had */

NVMX_API nvmx_u64 nvmx_vmcs_read(void *vmcs, nvmx_u32 field);
NVMX_API void nvmx_vmcs_write(void *vmcs, nvmx_u32 field, nvmx_u64 value);
NVMX_API void nvmx_vmcs_read_many(void *vmcs, const nvmx_u32 *fields, nvmx_u64 *values, nvmx_u32 n);
NVMX_API void *nvmx_physical(nvmx_u64 address, nvmx_u64 size);	/* host-physical memory, or NULL */

/* What a VM exit loads into the processor: CR0, CR3, CR4; EFER and PAT where the controls say so */
NVMX_API void nvmx_load_host_state(void *vmcs);

/*
 * A processor that is a function of this process. `enter` executes the instruction on an image of
 * the VMCS, and leaves how that ended in `end`; a VMfail has its number in `error`, 0 is
 * VMfailInvalid. `stamp` changes with the memory that it sees.
 */
struct nvmx_place {		/* of a field in the image */
	nvmx_u32 field;
	nvmx_u16 at;
	nvmx_u8 size;		/* bytes */
	nvmx_u8 rotated;	/* left by that many bits, of 32 */
};
struct nvmx_line { nvmx_u64 level, format, argument[4]; };	/* of a log */
struct nvmx_end {
	nvmx_u64 reserved;
	nvmx_u32 kind, padding;
	nvmx_u64 argument[3];	/* of a VM exit the second is the reason, the third the qualification */
	nvmx_u64 lines, decided, missing;	/* of the log; pages that were not there */
	struct nvmx_line line[40];
};
typedef void (*nvmx_enter)(const void *state, const void *image, const void *instruction);
struct nvmx_function {
	nvmx_enter enter;
	const void *state;
	const void *instruction[2];	/* VMLAUNCH, VMRESUME */
	const struct nvmx_place *places;
	const struct nvmx_end *end;
	const nvmx_u32 *error;
	const nvmx_u64 *stamp;
	nvmx_u32 count, size;	/* of places; bytes of the image, at most a page */
	nvmx_u32 launch_state;	/* where it lies in the image, in 32 bits */
	nvmx_u32 returned, entered, exited;	/* kinds of ends; any other is no answer */
	nvmx_u32 harmless;	/* level of lines that do not matter */
	nvmx_u32 faulted;	/* a kind that is no answer of a processor below KVM */
};
struct nvmx_around {		/* all that decides a VM entry beside the VMCS; count 0: too much */
	nvmx_u64 count;
	nvmx_u64 word[64];
};
struct nvmx_below {
	nvmx_port otherwise;	/* names the function, with its stamp, for what is around then */
	struct nvmx_function function;	/* enter NULL: none */
	nvmx_u64 stamp;
	struct nvmx_around around;
	struct nvmx_action guest;	/* what a guest does that was entered */
	struct nvmx_action later[8];	/* the answers to later VM entries */
};
NVMX_API void nvmx_set_below(struct nvmx_below *below);	/* which must live until there is another */

/* ------------------------------------------------------------------ the modules and /dev/kvm */

NVMX_API int nvmx_kernel_version(void);	/* LINUX_VERSION_CODE */
/* name of parameter `number`, NULL after the last; kind: 1 bool, 2 int, 3 unsigned int, 4 other */
NVMX_API const char *nvmx_parameter(int number, void **address, int *kind);
NVMX_API int nvmx_insmod(void);		/* [guarded] kvm, then kvm_intel: 0 or -errno */
NVMX_API int nvmx_rmmod(void);		/* [guarded] kvm_intel, then kvm; -EBUSY: a VM lives */
NVMX_API void *nvmx_guest_ram(nvmx_u64 bytes);	/* [guarded] between guard pages */
NVMX_API int nvmx_open_kvm(void);	/* [guarded] number of a file */
NVMX_API nvmx_s64 nvmx_ioctl(int file, nvmx_u32 command, nvmx_u64 argument);	/* [guarded] */
NVMX_API int nvmx_close(int file);	/* [guarded] the last one of a VM destroys it */
NVMX_API void *nvmx_vcpu(int file);	/* struct kvm_vcpu of a vCPU's file, or NULL */
NVMX_API void *nvmx_kvm_run(void *vcpu);	/* its struct kvm_run */

/* ------------------------------------------------------------------ straight into kvm_intel */

struct nvmx_config {		/* struct vmcs_config and struct vmx_capability */
	nvmx_s64 error;		/* 0 or -errno */
	nvmx_u64 pin_based_exec_ctrl, cpu_based_exec_ctrl, cpu_based_2nd_exec_ctrl;
	nvmx_u64 cpu_based_3rd_exec_ctrl, vmexit_ctrl, vmentry_ctrl;
	nvmx_u64 ept, vpid;
	nvmx_u64 basic;		/* up to 6.1: put together from size, basic_cap, revision_id */
	nvmx_u64 misc;
};
NVMX_API int nvmx_setup_vmcs_config(struct nvmx_config *config);	/* [guarded] */

NVMX_API int nvmx_vmcs12_size(void);
NVMX_API int nvmx_vmcs12_offset(nvmx_u32 field);	/* byte offset, or -1: no such field */

struct nvmx_verdict {
	nvmx_u32 stage;		/* 0 passed, 1 controls, 2 host state, 3 guest state */
	nvmx_u32 code;		/* of stage 3: enum vm_entry_failure_code */
	const char *text;	/* of the first check that failed, and its function */
	const char *where;
};
/* The parts [guarded]: `vmcs12` is an image; it is put into the cached vmcs12 first. 0 or -errno */
NVMX_API int nvmx_check_controls(void *vcpu, const void *vmcs12);
NVMX_API int nvmx_check_address_space_size(void *vcpu, const void *vmcs12);
NVMX_API int nvmx_check_host_state(void *vcpu, const void *vmcs12);
NVMX_API int nvmx_check_guest_state(void *vcpu, const void *vmcs12, nvmx_u32 *code);
NVMX_API int nvmx_check(void *vcpu, const void *vmcs12, struct nvmx_verdict *verdict); /* stage */
NVMX_API nvmx_u64 nvmx_check_batch(void *vcpu, const void *vmcs12, nvmx_u64 count,
				   struct nvmx_verdict *verdicts);	/* how many failed */

struct nvmx_l1 {		/* L1 as it executes VMLAUNCH, written straight into KVM's state */
	nvmx_u64 cr0, cr3, cr4, efer, rflags;
	nvmx_u64 vmxon_pointer, current_vmcs;	/* all ones: not in VMX operation, none current */
	nvmx_u32 cpl, cs_l, interruptibility, reserved;
};
struct nvmx_ran {		/* what nvmx_run() came to */
	nvmx_s32 value;		/* what nested_vmx_run() returned */
	nvmx_u32 in_l2;
	nvmx_u64 rflags, rip;
	nvmx_u32 instruction_error, exit_reason;	/* of vmcs12, cleared before */
	nvmx_u64 exit_qualification;
	nvmx_u64 requests;
	nvmx_u32 exception;	/* vector | 0x100 of an exception that is pending for L1 */
	nvmx_u32 mp_state;
	nvmx_u32 launch_state;	/* of vmcs12 after */
	nvmx_u32 exit_to_user;	/* kvm_run->exit_reason if value is 0 */
	const char *text, *where;	/* of the first check that failed */
};
/*
 * [guarded] nested_vmx_run() on an image, in the L1 of the last nvmx_reset_l1(). `launch`: VMLAUNCH
 * or VMRESUME; the launch state is the image's. Outside VMX operation the image is not looked at.
 */
NVMX_API int nvmx_run(void *vcpu, const void *vmcs12, int launch, struct nvmx_ran *ran);
/* [guarded] KVM_RUN of the vCPU with that file, after nvmx_run(): what L1 finds then; 0 or -errno */
NVMX_API int nvmx_run_l2(void *vcpu, int file, struct nvmx_ran *ran);
/* [guarded] out of L2, nothing pending, L1's state as given */
NVMX_API int nvmx_reset_l1(void *vcpu, const struct nvmx_l1 *l1);
struct nvmx_loop {
	void *vcpu;
	struct nvmx_below *below;
	struct nvmx_ran *ran;
	nvmx_u64 file;
};
/*
 * [guarded] nvmx_reset_l1(), nvmx_run() and, where that came to an L2 that runs and nothing was
 * said on the way, nvmx_run_l2() on `below`: 1 with that, 0 without, or the -errno of it. Without
 * `below` it ends there.
 */
NVMX_API int nvmx_run_loop(const struct nvmx_loop *loop, const struct nvmx_l1 *l1,
			   const void *vmcs12, int launch);
/*
 * [guarded] each image: nvmx_run(), by VMLAUNCH if its launch state is 0, else by VMRESUME; then
 * nvmx_reset_l1(); how many entered L2
 */
NVMX_API nvmx_u64 nvmx_run_batch(void *vcpu, const void *vmcs12, nvmx_u64 count,
				 struct nvmx_ran *ran, const struct nvmx_l1 *l1);

NVMX_API int nvmx_set_vmx_msr(void *vcpu, nvmx_u32 index, nvmx_u64 value);	/* [guarded] */
NVMX_API int nvmx_get_vmx_msr(void *vcpu, nvmx_u32 index, nvmx_u64 *value);	/* [guarded] */
NVMX_API void *nvmx_cached_vmcs12(void *vcpu);
NVMX_API int nvmx_is_guest_mode(void *vcpu);
NVMX_API nvmx_u64 nvmx_emulated(void *vcpu);	/* instructions that KVM has emulated so far */
NVMX_API int nvmx_emulation_required(void *vcpu);	/* KVM cannot enter with the state it has */
NVMX_API void *nvmx_vmcs(void *vcpu, int which);	/* 0 the loaded one, 1 vmcs01, 2 vmcs02 */

/* ------------------------------------------------------------------ bursts */

/*
 * The neighbours of one attempt of L1's: its vmcs12 with one to three fields edited, drawn from
 * `seed`. Each begins in the state of `snapshot` with `piece` put into memory, runs as by
 * nvmx_run_loop(), guarded by itself, and is held against `alone`, a processor that executes
 * vmcs12 itself. What is new or different is told; the state is that of the snapshot then.
 */
#define NVMX_EDITS 3

struct nvmx_field {		/* one that is edited */
	nvmx_u16 slot;		/* its number in an input */
	nvmx_u16 at12;		/* where it lies in vmcs12 */
	nvmx_u16 at;		/* and in the image of `alone`: 0xffff is nowhere */
	nvmx_u8 size;		/* bytes */
	nvmx_u8 rotated;	/* in the image: left by that many bits, of 32 */
	nvmx_u32 first, values;	/* of `value`: what is worth trying */
};
struct nvmx_edit { nvmx_u32 field, reserved; nvmx_u64 value; };
enum nvmx_ended {		/* how a VM entry ended */
	NVMX_NO_END = 0,	/* in no way that a VM entry has, or in none that C can tell */
	NVMX_ENTERED, NVMX_FAIL_INVALID, NVMX_FAIL_VALID, NVMX_EXIT, NVMX_FAULT,
};
struct nvmx_outcome {
	nvmx_u32 kind;		/* enum nvmx_ended */
	nvmx_u32 number;	/* of the error, exit reason or vector */
	nvmx_u64 qualification;
};
enum nvmx_reason {		/* bits */
	NVMX_IS_NEW = 1,	/* no neighbour had these outcomes, by this check; if one entered: this
				 * field edited */
	NVMX_IS_DIFFERENT = 2,	/* `alone` comes to something else: the 1st, 4th, 16th, 64th ... so */
	NVMX_IS_HARM = 4,	/* a warning, or no return, which ends the burst; likewise */
	NVMX_IS_EDGE = 8,	/* it executed code that no neighbour had */
	NVMX_IS_SAMPLE = 16,
};
struct nvmx_told {
	nvmx_u32 edits, reasons;
	struct nvmx_edit edit[NVMX_EDITS];
	struct nvmx_outcome kvm, alone;
};
struct nvmx_known { nvmx_u64 key, count; };
struct nvmx_piece { void *at; const void *data; nvmx_u64 size; };
typedef void (*nvmx_forget)(void);
struct nvmx_burst {
	const struct nvmx_loop *loop;
	const struct nvmx_l1 *l1;
	const void *vmcs12;
	const struct nvmx_piece *piece;
	nvmx_s32 snapshot, launch;
	nvmx_u32 vmcs12_size, pieces;
	struct nvmx_function alone;
	const void *image;
	nvmx_forget forget;	/* the pages that `alone` found missing */
	const struct nvmx_field *field;
	const nvmx_u64 *value;
	nvmx_u32 fields, count;
	nvmx_u64 seed;
	struct nvmx_known *known;	/* kept from burst to burst; all zero at first */
	nvmx_u8 *edges;			/* likewise: which counters were seen */
	nvmx_u32 knowns;		/* a power of two */
	nvmx_u32 first_edge, last_edge;	/* of the coverage counters */
	nvmx_u32 reserved0;
	nvmx_u8 *input;			/* the input as bytes; the edits of a neighbour go behind */
	nvmx_u32 *input_size;
	struct nvmx_told *told;		/* room for `count` */
	nvmx_u32 input_head, tolds;	/* bytes before the edits; how many are told */
	nvmx_u32 entries, compared, different;	/* since these were 0; of them, how many */
	nvmx_u32 reserved;
};
/* 0, or a refusal of nvmx_restore() */
NVMX_API int nvmx_run_burst(struct nvmx_burst *burst);

/* ------------------------------------------------------------------ planted faults */

enum nvmx_plant {		/* what each must come back as */
	NVMX_PLANT_WARN = 1,		/* NVMX_RETURNED, a warning */
	NVMX_PLANT_WARN_ONCE,		/* the same, once until nvmx_forget_once() */
	NVMX_PLANT_PRINTK,		/* NVMX_RETURNED, a line of the log */
	NVMX_PLANT_BUG,			/* NVMX_BUG */
	NVMX_PLANT_UNRESOLVED,		/* NVMX_UNRESOLVED */
	NVMX_PLANT_WILD,		/* NVMX_SIGNAL */
	NVMX_PLANT_DIVIDE,		/* NVMX_SIGNAL */
	NVMX_PLANT_STEPS,		/* NVMX_STEPS */
	NVMX_PLANT_TIME,		/* NVMX_TIME */
	NVMX_PLANT_OVERRUN,		/* NVMX_HEAP */
	NVMX_PLANT_PAGE_OVERRUN,	/* NVMX_SIGNAL: one byte behind a page */
	NVMX_PLANT_DOUBLE_FREE,		/* NVMX_HEAP */
	NVMX_PLANT_USE_AFTER_FREE,	/* NVMX_HEAP */
	NVMX_PLANT_RECURSION,		/* NVMX_SIGNAL */
	NVMX_PLANT_USER_FAULT,		/* NVMX_RETURNED: a copy from nowhere is -EFAULT */
};
NVMX_API int nvmx_selftest(nvmx_u32 plant);	/* [guarded] */

/* ------------------------------------------------------------------ coverage */

/* 8-bit counters and their PC table, where the object was built with them: count, or 0 */
NVMX_API nvmx_u64 nvmx_counters(unsigned char **counters, nvmx_u64 **pc_table);
NVMX_API void nvmx_gcov_dump(void);	/* nothing where it was not built for gcov */

#endif
