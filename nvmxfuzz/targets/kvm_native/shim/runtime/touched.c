/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which pages of the state have been written since a restore: a call writes a dozen of the
 * hundreds there are, and no more than those need to be restored.
 *
 * Pages are made read-only, and a page is noted at its first write, which faults. It stays writable
 * then and is restored each time, until after EPOCH restores all begin anew: what is written each
 * time faults once an epoch, and what was written once is not copied for ever.
 *
 * Several snapshots whose state has the same shape can be alike but for some pages. They are a
 * family: those pages are restored each time, and going from one to the other costs nothing else.
 *
 * Where a piece of the state has no whole page to itself, it is restored each time.
 */
#include "runtime.h"
#include <dlfcn.h>
#include <string.h>
#include <sys/mman.h>

#define RUNS 2048
#define PIECES 2048
#define MOST_DIFFERENT 256	/* pages; beyond, snapshots are not alike */
#define EPOCH 256
#define IS_WRITE 2		/* of a page fault's error code */

struct piece { char *at; uint64_t offset, size; };	/* `offset`: in the copy of a snapshot */
struct pieces { uint32_t count; struct piece list[PIECES]; };

KEPT static struct piece runs[RUNS] = { { 0 } };	/* whole pages, the read-only ones among them */
KEPT static uint32_t run_count = 0;
KEPT static struct pieces always = { 0 };
KEPT static struct pieces written = { 0 };	/* pages, in this epoch */
KEPT static uint32_t restores = 0;
KEPT static int active = 0, overflowed = 0;
KEPT static volatile int noting = 0;	/* a page is writable, and not noted yet */
KEPT static void *known_handler = NULL;

static void add(struct pieces *pieces, char *at, uint64_t offset, uint64_t size)
{
	if (!size)
		return;
	if (pieces->count == PIECES)
		overflowed = 1;
	else
		pieces->list[pieces->count++] = (struct piece){ at, offset, size };
}

static struct piece *find(struct pieces *pieces, const char *at)
{
	uint32_t i;

	for (i = 0; i < pieces->count; i++)
		if (pieces->list[i].at == at)
			return &pieces->list[i];
	return NULL;
}

/* ------------------------------------------------------------------ who gets the faults */

int nvmx_passes_faults_to(void *handler)
{
	return faults_go_to(faults_before(), handler);
}

/* Another instance of this object may have come later: it says whether it passes them on. */
int faults_go_to(const struct sigaction *action, void *handler)
{
	int (*passes)(void *);
	void *object = NULL;
	Dl_info info;

	if (!(action->sa_flags & SA_SIGINFO))
		return 0;
	if ((void *)action->sa_sigaction == handler)
		return 1;
	if (!dladdr1((void *)action->sa_sigaction, &info, &object, RTLD_DL_LINKMAP))
		return 0;
	passes = (int (*)(void *))dlsym(object, "nvmx_passes_faults_to");
	return passes && (void *)passes != (void *)nvmx_passes_faults_to && passes(handler);
}

static int faults_come_here(void)
{
	struct sigaction now;

	if (sigaction(SIGSEGV, NULL, &now))
		return 0;
	if ((void *)now.sa_sigaction != known_handler && faults_go_to(&now, fault_handler()))
		known_handler = (void *)now.sa_sigaction;
	return (void *)now.sa_sigaction == known_handler;
}

/* ------------------------------------------------------------------ beginning and ending */

void touched_forget(void)
{
	run_count = always.count = written.count = restores = 0;
	overflowed = 0;
}

void touched_add(void *memory, uint64_t offset, uint64_t size)
{
	char *at = memory, *end = at + size;
	char *first = (char *)(((uint64_t)at + PAGE - 1) & -PAGE);
	char *last = (char *)((uint64_t)end & -PAGE);

	if (first >= last) {
		add(&always, at, offset, size);
		return;
	}
	add(&always, at, offset, first - at);
	add(&always, last, offset + (last - at), end - last);
	if (run_count == RUNS)
		overflowed = 1;
	else
		runs[run_count++] = (struct piece){ first, offset + (first - at), last - first };
}

static int protect(int protection)
{
	uint32_t i;

	for (i = 0; i < run_count; i++)
		if (mprotect(runs[i].at, runs[i].size, protection))
			return -1;
	return 0;
}

/* All that was added is as in a snapshot now. */
void touched_begin(void)
{
	active = !overflowed && faults_come_here();
	if (active && protect(PROT_READ))
		touched_end();
}

int touched_end(void)
{
	int was_active = active;

	active = 0;
	return was_active ? protect(PROT_READ | PROT_WRITE) : 0;
}

/* The end of the process writes here once more, when ours may be no handler any more. */
__attribute__((destructor)) static void let_go(void)
{
	touched_end();
}

/* Somebody may have put another handler before ours, to whom writing is a crash. */
int touched_is_known(void)
{
	if (active && (overflowed || !faults_come_here()))
		touched_end();
	return active;
}

/* ------------------------------------------------------------------ while it is known */

static const struct piece *run_of(const char *page)
{
	uint32_t i;

	for (i = 0; i < run_count; i++)
		if ((uint64_t)(page - runs[i].at) < runs[i].size)
			return &runs[i];
	return NULL;
}

int touched_is_noting(void)
{
	return noting;
}

static int note_page(const struct piece *run, char *page)
{
	if (mprotect(page, PAGE, PROT_READ | PROT_WRITE))
		overflowed = 1;		/* the process has as many mappings as it may have */
	else
		add(&written, page, run->offset + (page - run->at), PAGE);
	/* Else what is written from now on cannot be noted. */
	return !overflowed || !protect(PROT_READ | PROT_WRITE);
}

/* 1: the fault was the first write to a page, which can go on now. */
int touched_fault(const void *address, uint64_t error)
{
	char *page = (char *)((uint64_t)address & -PAGE);
	const struct piece *run = active && error & IS_WRITE ? run_of(page) : NULL;
	int goes_on;

	if (!run || find(&written, page) || find(&always, page))
		return 0;
	noting = 1;
	goes_on = note_page(run, page);
	noting = 0;
	return goes_on;
}

static int differs(const struct piece *run, uint64_t at, const char *copy, const char *other)
{
	uint64_t offset = run->offset + at;

	return memcmp(copy + offset, other + offset, PAGE) && !find(&always, run->at + at);
}

static int always_restore(const struct piece *run, uint64_t at)
{
	char *page = run->at + at;
	struct piece *known = find(&written, page);

	if (known)
		*known = written.list[--written.count];
	else if (mprotect(page, PAGE, PROT_READ | PROT_WRITE))
		return -1;
	add(&always, page, run->offset + at, PAGE);
	return 0;
}

/* Let a snapshot join the family that `copy` belongs to; -1 if it is not alike. */
int touched_join(const char *copy, const char *other)
{
	uint32_t i, count = 0;
	uint64_t at;

	for (i = 0; i < run_count; i++)
		for (at = 0; at < runs[i].size; at += PAGE)
			if (differs(&runs[i], at, copy, other) &&
			    (++count > MOST_DIFFERENT || always_restore(&runs[i], at)))
				return -1;
	return overflowed ? -1 : 0;
}

static void restore_pieces(const struct pieces *pieces, const char *copy)
{
	uint32_t i;

	for (i = 0; i < pieces->count; i++)
		memcpy(pieces->list[i].at, copy + pieces->list[i].offset, pieces->list[i].size);
}

void touched_restore(const char *copy)
{
	restore_pieces(&always, copy);
	restore_pieces(&written, copy);
	if (++restores % EPOCH)
		return;
	while (written.count)
		if (mprotect(written.list[--written.count].at, PAGE, PROT_READ)) {
			written.count++;	/* it stays one that is restored */
			return;
		}
}
