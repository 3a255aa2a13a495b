/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What an exported program uses of kvm-unit-tests' x86/vmx.h and x86/vmx_tests.c, over a VMCS that
 * can be looked at: it is read from stdin ("ENCODING VALUE" lines), printed at each VM entry, and
 * what comes of the last VM entry are the arguments: VMfail, error, exit reason, qualification.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

enum Encoding { VMX_INST_ERROR = 0x4400, EXI_REASON = 0x4402, EXI_QUALIFICATION = 0x6400, LAST = 0x7fff };

union exit_reason {
	struct {
		u32 basic : 16, reserved : 15, failed_vmentry : 1;
	};
	u32 full;
};

struct vmentry_result {
	const char *instr;
	bool vm_fail;
	union exit_reason exit_reason;
	unsigned long flags;
};

#define SPARE_PAGE 0x5a5a5000

static u64 vmcs[LAST + 1];
static int launches, finished;
static char **outcome;
static void (*guest)(void);

static inline void vmcall(void)
{
}

static inline int vmcs_write(enum Encoding field, u64 value)
{
	vmcs[field] = value;
	return 0;
}

static inline u64 vmcs_read(enum Encoding field)
{
	return vmcs[field];
}

static inline void *alloc_page(void)
{
	return vmcs;
}

static inline u64 virt_to_phys(const void *address)
{
	return address == vmcs ? SPARE_PAGE : 0;
}

static void test_set_guest(void (*function)(void))
{
	guest = function;
}

static void test_set_guest_finished(void)
{
	finished = 1;
}

static void __enter_guest(u8 abort_flag, struct vmentry_result *result)
{
	int field;

	(void)abort_flag;
	if (!guest)
		abort();
	printf("entry %d\n", launches++);
	for (field = 0; field <= LAST; field++)
		if (vmcs[field])
			printf("0x%x 0x%llx\n", field, (unsigned long long)vmcs[field]);
	result->vm_fail = atoi(outcome[1]);
	vmcs[VMX_INST_ERROR] = strtoul(outcome[2], NULL, 0);
	result->exit_reason.full = strtoul(outcome[3], NULL, 0);
	vmcs[EXI_QUALIFICATION] = strtoul(outcome[4], NULL, 0);
}

static void report(bool holds, const char *format, ...)
{
	va_list list;

	printf("%s: ", holds ? "PASS" : "FAIL");
	va_start(list, format);
	vprintf(format, list);
	va_end(list);
	puts("");
}

static void TEST_UNDER_TEST(void);

int main(int argc, char **argv)
{
	unsigned int field;
	unsigned long long value;

	if (argc != 5)
		return 2;
	outcome = argv;
	while (scanf("%x %llx", &field, &value) == 2)
		vmcs[field & LAST] = value;
	TEST_UNDER_TEST();
	return finished ? 0 : 1;
}
