/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The seam between code compiled with the kernel's headers and the runtime, which is compiled
 * with libc's: what each calls in the other. Plain C types only.
 */
#ifndef NVMX_SEAM_H
#define NVMX_SEAM_H

/* ------------------------------------------------------------------ the runtime, for the kernel */

/* runtime/result.c */
void shim_unresolved(const char *name);
void shim_warn(const char *file, int line);
_Noreturn void shim_bug(const char *file, int line);
void shim_check(const char *text, const char *function, int line, unsigned int code);
void shim_next_case(void);
_Noreturn void shim_stop(unsigned int status, const char *message);
void shim_step(void);

/* runtime/cpu.c; the _safe forms return 0 or -EIO */
unsigned long long shim_rdmsr(unsigned int index);
void shim_wrmsr(unsigned int index, unsigned long long value);
int shim_rdmsr_safe(unsigned int index, unsigned long long *value);
int shim_wrmsr_safe(unsigned int index, unsigned long long value);
unsigned long shim_read_cr(int number);
void shim_write_cr(int number, unsigned long value);
unsigned long shim_read_dr(int number);
void shim_write_dr(int number, unsigned long value);
void shim_cpuid(unsigned int leaf, unsigned int subleaf, unsigned int *out);
extern unsigned long shim_interrupts;	/* RFLAGS.IF of the processor: 0x200 or 0 */

/* runtime/port.c */
void shim_run_begins(unsigned int mp_state);	/* KVM_RUN */

/* runtime/vmcs.c; physical addresses */
unsigned long shim_vmread(unsigned long field);
void shim_vmwrite(unsigned long field, unsigned long value);
void shim_vmptrld(unsigned long long address);
void shim_vmclear(unsigned long long address);

/* runtime/heap.c and arena.c */
void *shim_alloc_mapping(unsigned long size);
void shim_check_heap(void);
void *shim_new_cache(unsigned int size, void (*construct)(void *object));
extern unsigned long shim_page_offset, shim_vmemmap;
#define SHIM_ARENA_SIZE (1ul << 30)
#define SHIM_FIRST_PAGE 0x100ul		/* page frame of the arena's first page */

long shim_return0(void);

/* ------------------------------------------------------------------ the kernel, for the runtime */

extern const unsigned long shim_sizeof_page;	/* sizeof(struct page) */
extern const unsigned int shim_gfp_zero;	/* __GFP_ZERO */
void shim_pages_born(void *pages, unsigned long count);	/* each page has one user */
void shim_page_get(void *page);
void nvmx_signal_task(void);	/* a signal is pending until the next ioctl */

#endif
