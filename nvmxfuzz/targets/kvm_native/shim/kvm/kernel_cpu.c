// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the rest of the kernel knows of the processor and of the running task.
 * May lie: no erratum and no mitigation is known of any model; the features are CPUID's.
 */
#include <linux/kvm_host.h>
#include <linux/entry-kvm.h>
#include <linux/rcuwait.h>
#include <linux/sched/signal.h>
#include <linux/version.h>
#include <asm/cpufeature.h>
#include <asm/perf_event.h>
#include "x86.h"
#include "fpu.h"
#include "nvmx.h"

#define SINCE(major, minor) (LINUX_VERSION_CODE >= KERNEL_VERSION(major, minor, 0))

static struct mm_struct own_mm;
static struct fpstate own_fpstate;
static struct pid own_pid = { .count = REFCOUNT_INIT(1000) };
static struct signal_struct own_signal = { .pids[PIDTYPE_TGID] = &own_pid };
static struct task_struct task = {
	.mm = &own_mm, .active_mm = &own_mm, .signal = &own_signal, .thread_pid = &own_pid,
};

#if SINCE(6, 15)
struct task_struct *current_task = &task;
int __preempt_count;
asm(".globl const_current_task\n.hidden const_current_task\n.set const_current_task, current_task");
#elif SINCE(6, 2)
struct pcpu_hot pcpu_hot = { .current_task = &task };
asm(".globl const_pcpu_hot\n.hidden const_pcpu_hot\n.set const_pcpu_hot, pcpu_hot");
#else
struct task_struct *current_task = &task;
int __preempt_count;
#endif

struct cpuinfo_x86 boot_cpu_data;
#if SINCE(6, 9)
struct cpuinfo_x86 cpu_info;
#endif
unsigned int tsc_khz = 2000000;
unsigned int ptrs_per_p4d = 1, pgdir_shift = 39;
unsigned long phys_base;
bool static_key_initialized = true;
struct cpumask __cpu_online_mask;
#if SINCE(6, 2)
enum system_states system_state = SYSTEM_RUNNING;
#endif

/* Words of features that are a register of CPUID as it is. */
static const struct {
	int word;
	u32 leaf, subleaf, out;
} words[] = {
	{ CPUID_1_EDX, 1, 0, 3 },
	{ CPUID_1_ECX, 1, 0, 2 },
	{ CPUID_8000_0001_EDX, 0x80000001, 0, 3 },
	{ CPUID_8000_0001_ECX, 0x80000001, 0, 2 },
	{ CPUID_7_0_EBX, 7, 0, 1 },
	{ CPUID_7_ECX, 7, 0, 2 },
	{ CPUID_7_EDX, 7, 0, 3 },
	{ CPUID_7_1_EAX, 7, 1, 0 },
	{ CPUID_D_1_EAX, 0xd, 1, 0 },
	{ CPUID_6_EAX, 6, 0, 0 },
	{ CPUID_8000_0008_EBX, 0x80000008, 0, 1 },
};

static u32 register_of(u32 leaf, u32 subleaf, u32 out)
{
	u32 registers[4];

	shim_cpuid(leaf, subleaf, registers);
	return registers[out];
}

/* Features that Linux names itself. */
static void set_own_features(struct cpuinfo_x86 *cpu)
{
	u64 value;

	if (!nvmx_get_msr(MSR_IA32_FEAT_CTL, &value))
		set_cpu_cap(cpu, X86_FEATURE_MSR_IA32_FEAT_CTL);
	if ((register_of(0xa, 0, 0) & 0xff) && (register_of(0xa, 0, 0) >> 8 & 0xff) > 1)
		set_cpu_cap(cpu, X86_FEATURE_ARCH_PERFMON);
	if (cpu_has(cpu, X86_FEATURE_SGX)) {
		if (register_of(0x12, 0, 0) & 1)
			set_cpu_cap(cpu, X86_FEATURE_SGX1);
		if (register_of(0x12, 0, 0) & 2)
			set_cpu_cap(cpu, X86_FEATURE_SGX2);
	}
	/* Always: without it vcpu_run() waits for a clock that nobody moves. */
	set_cpu_cap(cpu, X86_FEATURE_CONSTANT_TSC);
	set_cpu_cap(cpu, X86_FEATURE_NONSTOP_TSC);
}

static void set_identity(struct cpuinfo_x86 *cpu, u32 family, u32 model, u32 stepping)
{
	bool intel = register_of(0, 0, 1) == 0x756e6547;	/* "Genu" */

	cpu->x86_vendor = intel ? X86_VENDOR_INTEL : X86_VENDOR_UNKNOWN;
	cpu->x86 = family;
	cpu->x86_model = model;
	cpu->x86_stepping = stepping;
	cpu->cpuid_level = register_of(0, 0, 0);
	cpu->extended_cpuid_level = register_of(0x80000000, 0, 0);
	cpu->x86_clflush_size = 64;
}

static void set_widths(struct cpuinfo_x86 *cpu)
{
	u32 widths = register_of(0x80000008, 0, 0);

	cpu->x86_phys_bits = widths ? widths & 0xff : 36;
	cpu->x86_virt_bits = widths ? widths >> 8 & 0xff : 48;
	cpu->x86_cache_bits = cpu->x86_phys_bits;
}

NVMX_API int nvmx_init_cpu(u32 family, u32 model, u32 stepping)
{
	struct cpuinfo_x86 *cpu = &boot_cpu_data;
	int i;

	memset(cpu, 0, sizeof(*cpu));
	for (i = 0; i < ARRAY_SIZE(words); i++)
		cpu->x86_capability[words[i].word] =
			register_of(words[i].leaf, words[i].subleaf, words[i].out);
	set_identity(cpu, family, model, stepping);
	set_widths(cpu);
	set_own_features(cpu);
#if SINCE(6, 9)
	cpu_info = *cpu;
#endif
	cpumask_set_cpu(0, &__cpu_online_mask);
#if !SINCE(6, 16)
	task.thread.fpu.fpstate = &own_fpstate;
#endif
	return 0;
}

void clear_cpu_cap(struct cpuinfo_x86 *cpu, unsigned int feature)
{
	clear_bit(feature, (unsigned long *)cpu->x86_capability);
}

/* ------------------------------------------------------------------ performance monitoring */

/*
 * May lie: perf's limits hold, nothing else that perf knows of a model; KVM up to 6.1 trusts the
 * number of general-purpose counters, and has room for fewer than perf allows.
 */
void perf_get_x86_pmu_capability(struct x86_pmu_capability *capability)
{
	u32 version = register_of(0xa, 0, 0), fixed = register_of(0xa, 0, 3);

	memset(capability, 0, sizeof(*capability));
	capability->version = version & 0xff;
	capability->num_counters_gp = min_t(u32, version >> 8 & 0xff, INTEL_PMC_MAX_GENERIC);
	capability->bit_width_gp = version >> 16 & 0xff;
	capability->events_mask_len = version >> 24;
	capability->events_mask = register_of(0xa, 0, 1);
	capability->num_counters_fixed = min_t(u32, fixed & 0x1f, INTEL_PMC_MAX_FIXED);
	capability->bit_width_fixed = fixed >> 5 & 0xff;
}

/* ------------------------------------------------------------------ the guest's FPU */

struct nvmx_vectors nvmx_vectors;

#define FPU_ROOM 4096	/* of the guest's extended state */

bool fpu_alloc_guest_fpstate(struct fpu_guest *guest)
{
	guest->fpstate = kzalloc(sizeof(struct fpstate) + FPU_ROOM, GFP_KERNEL);
	guest->xfeatures = XFEATURE_MASK_FPSSE;
	guest->uabi_size = FPU_ROOM;
	return true;
}

void fpu_free_guest_fpstate(struct fpu_guest *guest)
{
	kfree(guest->fpstate);
	guest->fpstate = NULL;
}

/* ------------------------------------------------------------------ sleeping */

/* Nobody would wake the task: a signal does, and KVM_RUN ends with -EINTR. */
void schedule(void)
{
	shim_step();
	set_tsk_thread_flag(&task, TIF_SIGPENDING);
}

long schedule_timeout(long timeout)
{
	schedule();
	return 0;
}

int xfer_to_guest_mode_handle_work(struct kvm_vcpu *vcpu)
{
	shim_step();
	if (!signal_pending(&task))
		return 0;
	kvm_handle_signal_exit(vcpu);
	return -EINTR;
}

void finish_rcuwait(struct rcuwait *wait)
{
	RCU_INIT_POINTER(wait->task, NULL);
}

void nvmx_signal_task(void)
{
	set_tsk_thread_flag(&task, TIF_SIGPENDING);
}

void nvmx_wake_task(void)
{
	clear_tsk_thread_flag(&task, TIF_SIGPENDING);
}
