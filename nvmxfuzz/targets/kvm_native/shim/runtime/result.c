/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The guarded call and its result: what ends it early, and the signals. A fault in a guarded call
 * of this object is the call's result; any other goes on to the handler that was there before.
 */
#include "runtime.h"
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#define HANDLER_STACK (128ul << 10)

KEPT struct nvmx_result nvmx_result = { 0 };
KEPT nvmx_u32 nvmx_step_limit = 1000000;
KEPT nvmx_u32 nvmx_seconds = 10;
KEPT struct guard guard = { .armed = 0 };

static const int fault_signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP };
KEPT static struct sigaction previous[ARRAY_SIZE(fault_signals)] = { 0 };
KEPT static int installed = 0;
KEPT static uint64_t object_start = 0, object_end = 0;

extern char _end[] __attribute__((visibility("hidden")));

/* What the build makes for symbols that nobody defines. */
extern const struct { const char *name; char *address; } shim_data_stubs[]
	__attribute__((visibility("hidden")));
extern const int shim_n_data_stubs __attribute__((visibility("hidden")));

/* ------------------------------------------------------------------ ending a call */

_Noreturn void stop(enum nvmx_status status, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(nvmx_result.message, sizeof(nvmx_result.message), format, arguments);
	va_end(arguments);
	nvmx_result.status = status;
	if (!guard.armed) {
		fprintf(stderr, "nvmx: outside a guarded call: %s\n", nvmx_result.message);
		abort();
	}
	guard.armed = 0;
	siglongjmp(guard.jump, 1);
}

_Noreturn void shim_stop(unsigned int status, const char *message)
{
	stop(status, "%s", message);
}

void shim_step(void)
{
	step();
}

void shim_unresolved(const char *name)
{
	stop(NVMX_UNRESOLVED, "%s", name);
}

_Noreturn void shim_bug(const char *file, int line)
{
	stop(NVMX_BUG, "%s:%d", file, line);
}

/* ------------------------------------------------------------------ what a call reports */

static void note(struct nvmx_site *sites, nvmx_u32 *count, struct nvmx_site site)
{
	if (*count < NVMX_SITES)
		sites[*count] = site;
	++*count;
}

void shim_warn(const char *file, int line)
{
	note(nvmx_result.warning, &nvmx_result.warnings, (struct nvmx_site){ "", file, line, 0 });
}

void shim_check(const char *text, const char *function, int line, unsigned int code)
{
	note(nvmx_result.check, &nvmx_result.checks,
	     (struct nvmx_site){ text, function, line, code });
}

/* For each case of a batch: the next check is the first again, and the steps count anew. */
void shim_next_case(void)
{
	nvmx_result.checks = 0;
	nvmx_result.steps = 0;
}

static void begin(void)
{
	memset(&nvmx_result, 0, offsetof(struct nvmx_result, message) + 1);
	guard.calls++;
	touched_is_known();
	clock_want();
}

nvmx_s64 nvmx_call(void *function, nvmx_u64 a, nvmx_u64 b, nvmx_u64 c, nvmx_u64 d,
		   nvmx_u64 e, nvmx_u64 f)
{
	nvmx_s64 (*call)(nvmx_u64, nvmx_u64, nvmx_u64, nvmx_u64, nvmx_u64, nvmx_u64) = function;

	if (guard.armed || guard.in_port)	/* from the port of this very object */
		return -EBUSY;
	begin();
	if (sigsetjmp(guard.jump, 0)) {
		guard.in_port = 0;
		return -1;
	}
	guard.armed = 1;
	nvmx_result.value = call(a, b, c, d, e, f);
	guard.armed = 0;
	return nvmx_result.value;
}

void nvmx_forget_once(void)
{
	extern char __start_nvmx_once[] __attribute__((weak, visibility("hidden")));
	extern char __stop_nvmx_once[] __attribute__((weak, visibility("hidden")));

	memset(__start_nvmx_once, 0, __stop_nvmx_once - __start_nvmx_once);
}

/* ------------------------------------------------------------------ faults */

uint64_t object_offset(uint64_t address)
{
	return address - object_start < object_end - object_start ? address - object_start : 0;
}

/* The word may lie in a stack that is used up, or anywhere: the kernel says whether it is there. */
static uint64_t word_at(uint64_t address)
{
	uint64_t word = 0;
	struct iovec to = { &word, sizeof(word) }, from = { (void *)address, sizeof(word) };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == sizeof(word) ? word : 0;
}

static void unresolved_data(uint64_t address)
{
	int i;

	for (i = 0; i < shim_n_data_stubs; i++)
		if (address - (uint64_t)shim_data_stubs[i].address < PAGE)
			stop(NVMX_UNRESOLVED, "%s", shim_data_stubs[i].name);
}

static void report(int number, const siginfo_t *info, const greg_t *registers)
{
	uint64_t at = registers[REG_RIP];

	unresolved_data(at);	/* a function that is known as data only was called */
	nvmx_result.signal = number;
	nvmx_result.fault_address = (uint64_t)info->si_addr;
	nvmx_result.fault_offset = object_offset(at);
	nvmx_result.caller_offset = object_offset(word_at(registers[REG_RSP]));
	stop(NVMX_SIGNAL, "signal %d", number);
}

static void pass_on(int number, siginfo_t *info, void *context)
{
	struct sigaction *before = NULL;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(fault_signals); i++)
		if (fault_signals[i] == number)
			before = &previous[i];
	if (before && before->sa_flags & SA_SIGINFO)
		before->sa_sigaction(number, info, context);
	else if (before && before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN)
		before->sa_handler(number);
	else
		signal(number, SIG_DFL);	/* the instruction faults again, now for good */
}

static void on_fault(int number, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
	int error = errno;

	if (number == SIGSEGV && touched_fault(info->si_addr, registers[REG_ERR])) {
		/* The write can be made now. */
	} else if (!guard.armed) {
		pass_on(number, info, context);
	} else if (!(number == SIGSEGV || number == SIGBUS) ||
		   !extable_fix((uint64_t *)&registers[REG_RIP], registers)) {
		report(number, info, registers);
	}
	errno = error;
}

const struct sigaction *faults_before(void)
{
	return &previous[0];	/* of SIGSEGV */
}

void *fault_handler(void)
{
	return (void *)on_fault;
}

/* The stack of handlers is the thread's: keep one that is large enough. */
static void want_handler_stack(void)
{
	stack_t now, ours = { .ss_size = HANDLER_STACK };

	if (!sigaltstack(NULL, &now) && !(now.ss_flags & SS_DISABLE) && now.ss_size >= HANDLER_STACK)
		return;
	ours.ss_sp = mmap(NULL, HANDLER_STACK, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ours.ss_sp != MAP_FAILED)
		sigaltstack(&ours, NULL);
}

__attribute__((constructor)) static void find_object(void)
{
	Dl_info info;

	if (dladdr((void *)nvmx_call, &info))
		object_start = (uint64_t)info.dli_fbase;
	object_end = (uint64_t)_end;
}

void nvmx_install_signal_handlers(void)
{
	struct sigaction action = {
		.sa_sigaction = on_fault,
		.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER,
	};
	size_t i;

	want_handler_stack();
	for (i = 0; i < ARRAY_SIZE(fault_signals); i++) {
		struct sigaction now;

		sigaction(fault_signals[i], NULL, &now);
		if (installed && now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_fault)
			continue;
		previous[i] = now;
		sigaction(fault_signals[i], &action, NULL);
	}
	installed = 1;
}
