/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Instructions that became calls in the assembler (force_include.h): each trampoline changes the
 * registers that the instruction changes, and no other.
 */
#include "runtime.h"
#include <string.h>

struct frame {			/* as trampoline_entry pushes it */
	uint64_t r11, r10, r9, r8, rdi, rsi, rdx, rcx, rbx, rax;
};

uint64_t shim_rdtsc(void);
uint64_t shim_xgetbv(uint32_t index);

__attribute__((used)) static void emulate_cpuid(struct frame *frame)
{
	unsigned int out[4];

	shim_cpuid(frame->rax, frame->rcx, out);
	frame->rax = out[0];
	frame->rbx = out[1];
	frame->rcx = out[2];
	frame->rdx = out[3];
}

static void set_halves(struct frame *frame, uint64_t value)
{
	frame->rax = (uint32_t)value;
	frame->rdx = value >> 32;
}

__attribute__((used)) static void emulate_rdtsc(struct frame *frame)
{
	set_halves(frame, shim_rdtsc());
}

__attribute__((used)) static void emulate_xgetbv(struct frame *frame)
{
	set_halves(frame, shim_xgetbv(frame->rcx));
}

__attribute__((used)) static void emulate_rdmsr(struct frame *frame)
{
	set_halves(frame, shim_rdmsr(frame->rcx));
}

__attribute__((used)) static void emulate_wrmsr(struct frame *frame)
{
	shim_wrmsr(frame->rcx, frame->rdx << 32 | (uint32_t)frame->rax);
}

/* 512 bytes at RDI. */
__attribute__((used)) static void emulate_fxsave(struct frame *frame)
{
	char *image = (char *)frame->rdi;

	memset(image, 0, 512);
	memcpy(image, &(uint16_t){ 0x37f }, 2);		/* FCW */
	memcpy(image + 24, &(uint32_t){ 0x1f80 }, 4);	/* MXCSR */
}

static void store_table(struct frame *frame, uint16_t limit, uint64_t base)
{
	char *operand = (char *)frame->rdi;

	memcpy(operand, &limit, sizeof(limit));
	memcpy(operand + 2, &base, sizeof(base));
}

__attribute__((used)) static void emulate_sgdt(struct frame *frame)
{
	store_table(frame, 0x7f, 0xfffffe0000001000);
}

__attribute__((used)) static void emulate_sidt(struct frame *frame)
{
	store_table(frame, 0xfff, 0xfffffe0000000000);
}

/* The kernel is compiled without SSE: only general registers and flags can be live. */
#define TRAMPOLINE(name)						\
	asm(".text\n.globl shim_trampoline_" #name "\n"			\
	    ".hidden shim_trampoline_" #name "\n"			\
	    ".type shim_trampoline_" #name ",@function\n"		\
	    "shim_trampoline_" #name ":\n"				\
	    "pushfq\npush %rax\npush %rbx\npush %rcx\npush %rdx\n"	\
	    "push %rsi\npush %rdi\npush %r8\npush %r9\n"		\
	    "push %r10\npush %r11\n"					\
	    "mov %rsp, %rdi\npush %rbp\nmov %rsp, %rbp\n"		\
	    "and $-16, %rsp\n"						\
	    "call emulate_" #name "\n"					\
	    "mov %rbp, %rsp\npop %rbp\n"				\
	    "pop %r11\npop %r10\npop %r9\npop %r8\npop %rdi\n"		\
	    "pop %rsi\npop %rdx\npop %rcx\npop %rbx\npop %rax\n"	\
	    "popfq\nret\n")

TRAMPOLINE(cpuid);
TRAMPOLINE(rdtsc);
TRAMPOLINE(xgetbv);
TRAMPOLINE(rdmsr);
TRAMPOLINE(wrmsr);
TRAMPOLINE(fxsave);
TRAMPOLINE(sgdt);
TRAMPOLINE(sidt);
