/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Included before anything else in each file compiled with the kernel's headers, after
 * linux/kconfig.h.
 */
/* The kernel's "i" constraints need symbols that nobody can interpose. */
#pragma GCC visibility push(hidden)

/* Nothing here patches code at run time. */
#undef CONFIG_HAVE_STATIC_CALL
#undef CONFIG_HAVE_STATIC_CALL_INLINE
#undef CONFIG_JUMP_LABEL
#undef CONFIG_TRACEPOINTS

#define CONFIG_HAVE_ARCH_PFN_VALID 1

#ifndef __ASSEMBLY__
#include "seam.h"

/* Only the arena has struct pages; there is no mem_section. */
#define pfn_valid(pfn) \
	((pfn) - SHIM_FIRST_PAGE < (SHIM_ARENA_SIZE >> 12))

/* Guest memory lies in the arena, beside the kernel's: PAGE_OFFSET is no border. */
#define KVM_HVA_ERR_BAD (-1UL)
#define KVM_HVA_ERR_RO_BAD (-2UL)
#define kvm_is_error_hva(address) ((unsigned long)(address) >= -4096UL)

/*
 * Instructions that a program may not execute, or that would read the real machine, by their
 * mnemonic: the assembler turns them into nothing or into a call of a trampoline that keeps
 * every other register (runtime/trampolines.c).
 */
asm(".macro cli\n.endm\n"
    ".macro sti\n.endm\n"
    ".macro hlt\n.endm\n"
    ".macro wbinvd\n.endm\n"
    ".macro stac\n.endm\n"
    ".macro clac\n.endm\n"
    ".macro xsetbv\n.endm\n"
    ".macro vmxoff\n.endm\n"
    ".macro vmxon operand:vararg\n.endm\n"
    ".macro lldt operand:vararg\n.endm\n"
    ".macro ltr operand:vararg\n.endm\n"
    ".macro lgdt operand:vararg\n.endm\n"
    ".macro lidt operand:vararg\n.endm\n"
    ".macro invlpg operand:vararg\n.endm\n"
    ".macro invpcid operand:vararg\n.endm\n"
    ".macro verw operand:vararg\n.endm\n"
    ".macro with_address trampoline, operand:vararg\n"
    "movq %rdi, -8(%rsp)\nleaq \\operand, %rdi\nleaq -8(%rsp), %rsp\n"
    "call \\trampoline\npopq %rdi\n.endm\n"
    ".macro cpuid\ncall shim_trampoline_cpuid\n.endm\n"
    ".macro rdtsc\ncall shim_trampoline_rdtsc\n.endm\n"
    ".macro rdtscp\ncall shim_trampoline_rdtsc\nxorl %ecx, %ecx\n.endm\n"
    ".macro rdpmc\nxorl %eax, %eax\nxorl %edx, %edx\n.endm\n"
    ".macro xgetbv\ncall shim_trampoline_xgetbv\n.endm\n"
    ".macro rdmsr\ncall shim_trampoline_rdmsr\n.endm\n"
    ".macro wrmsr\ncall shim_trampoline_wrmsr\n.endm\n"
    /* The FPU is this process's: it looks as after FNINIT, and is left alone. */
    ".macro fninit\n.endm\n"
    ".macro fxrstor operand:vararg\n.endm\n"
    ".macro fnstcw operand:vararg\nmovw $0x37f, \\operand\n.endm\n"
    ".macro fnstsw operand:vararg\nmovw $0, \\operand\n.endm\n"
    ".macro fxsave operand:vararg\nwith_address shim_trampoline_fxsave, \\operand\n.endm\n"
    ".macro vmcall\nud2\n.endm\n"
    ".macro vmmcall\nud2\n.endm\n"
    /* Descriptor tables and task register: as on the first CPU of a 64-bit kernel. */
    ".macro sgdt operand:vararg\nwith_address shim_trampoline_sgdt, \\operand\n.endm\n"
    ".macro sidt operand:vararg\nwith_address shim_trampoline_sidt, \\operand\n.endm\n"
    ".macro sldt operand:vararg\nmovw $0, \\operand\n.endm\n"
    ".macro str operand:vararg\nmov $0x40, \\operand\n.endm\n");
#endif
