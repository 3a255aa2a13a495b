/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the runtime share. They are compiled with libc's headers only. */
#ifndef NVMX_RUNTIME_H
#define NVMX_RUNTIME_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include "nvmx.h"
#include "seam.h"

#define PAGE 4096ul
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

/*
 * What a restore leaves alone: results, the jump buffer, snapshots, settings, the port. Each
 * such object stands in this section.
 */
#define KEPT __attribute__((section("nvmx_keep")))

/* ------------------------------------------------------------------ result.c */

struct guard {			/* the guarded call that is running */
	sigjmp_buf jump;
	int armed;		/* a guarded call is running, and not in the port */
	int in_port;
	uint64_t calls;		/* how many have begun */
};

extern struct guard guard;

_Noreturn void stop(enum nvmx_status status, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

uint64_t object_offset(uint64_t address);	/* from the start of this object, or 0: not in it */

extern uint32_t signal_at;	/* of port.c: at which step a signal arrives, 0: at none */

static inline void step(void)
{
	if (unlikely(++nvmx_result.steps > nvmx_step_limit))
		stop(NVMX_STEPS, "more than %u steps", nvmx_step_limit);
	if (unlikely(nvmx_result.steps == signal_at))
		nvmx_signal_task();
}

const struct sigaction *faults_before(void);	/* who had SIGSEGV before this object */
void *fault_handler(void);

/* ------------------------------------------------------------------ touched.c */

void touched_forget(void);
void touched_add(void *memory, uint64_t offset, uint64_t size);	/* a piece of the state */
void touched_begin(void);	/* from now on it is known which pages are written, if it can be */
int touched_end(void);		/* and no longer */
int touched_is_known(void);
int touched_fault(const void *address, uint64_t error);
int touched_is_noting(void);	/* a call may not be ended now: a page would be forgotten */
int touched_join(const char *copy, const char *other);
void touched_restore(const char *copy);
int faults_go_to(const struct sigaction *action, void *handler);

/* ------------------------------------------------------------------ clock.c */

void clock_want(void);		/* a call begins: see that the time limit is watched */

/* ------------------------------------------------------------------ port.c */

int port_act(struct nvmx_entry *entry, const struct nvmx_action *action);	/* what a port returns */

/* ------------------------------------------------------------------ extable.c */

int extable_fix(uint64_t *rip, greg_t *registers);	/* 1: the fault has a fixup, it is applied */

/* ------------------------------------------------------------------ log.c */

void log_text(const char *format, va_list arguments);

/* ------------------------------------------------------------------ cpu.c */

void cpu_vm_exit(void);		/* what each VM exit does to DR7 and RFLAGS */

/* ------------------------------------------------------------------ arena.c */

#define CLASSES 6		/* regions of slots of 1, 2, 4 ... 32 pages */
#define LARGE_BLOCKS 256

struct slot {			/* of a class region */
	uint32_t size;		/* asked for; 0: free */
	uint32_t next;		/* of the free list: index + 1 */
};

struct class_region {
	uint32_t used;		/* slots ever handed out */
	uint32_t first_free, last_free, free;	/* first in, first out; index + 1 */
};

struct large_block {
	uint64_t start, size, asked;	/* asked 0: free */
};

struct arena {
	uint64_t small_used;	/* bytes */
	struct class_region class[CLASSES];
	uint64_t large_used;
	uint32_t large_blocks;
	struct large_block large[LARGE_BLOCKS];
};

extern struct arena arena;
extern char *arena_base;
extern uint32_t arena_guards[CLASSES];

char *arena_small(void);
char *arena_slot(int class, uint32_t index);
struct slot *arena_slots(int class);
char *arena_large(void);
char *arena_pages(uint64_t *bytes);	/* of the table of struct page */
void *arena_page_of(const void *address);
void *arena_address_of(const void *page);
int arena_holds(const void *address, uint64_t size);

void *arena_take_small(uint64_t size);
char *arena_take_slot(int class, uint32_t *index);
struct large_block *arena_take_large(uint64_t size);
int arena_class_of(const void *address, uint32_t *index);	/* -1: small, -2: large, -3: none */

/* ------------------------------------------------------------------ heap.c */

void *heap_take(uint64_t size, int zero);
void *heap_try(uint64_t size, int zero);	/* NULL where memory is refused */
void *heap_try_pages(unsigned int order, int zero);
void heap_give(void *object);
void *heap_take_pages(unsigned int order, int zero);
void *heap_take_mapping(uint64_t size);
int heap_has_page(const void *address);

#endif
