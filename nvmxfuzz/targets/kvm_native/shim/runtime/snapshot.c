/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Snapshots of everything: the object's writable data and the used part of the arena are copied.
 * Copying was measured against private mappings of a file: for the state of a VM (about half a
 * megabyte) it is ten times faster, since no page faults follow. Guest memory, which is large and
 * mostly untouched, is the exception: it is mapped privately from the snapshot's file, and only
 * its touched pages are dropped.
 *
 * From the second restore of one snapshot in a row on, only what was written since is copied, guest
 * memory too (touched.c): that is how a loop over cases goes. Snapshots that are alike share it.
 *
 * What a restore must not touch stands in sections of its own: nvmx_keep, and the counters of
 * coverage. Their table of places never changes, and is larger than all the rest.
 */
#include "runtime.h"
#include <dlfcn.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SNAPSHOTS NVMX_SNAPSHOTS
#define RANGES 16

struct range { char *at; uint64_t size; };

struct snapshot {
	char *copy;		/* NULL: free; the large region stands behind all the rest */
	uint64_t size;
	uint64_t large_at;	/* where, in the copy */
	uint32_t family;	/* whose members are alike; 0 is none */
	struct arena arena;
	int large;		/* file of the large region, or -1 */
};

KEPT static struct range ranges[RANGES] = { { 0, 0 } };
KEPT static int range_count = 0;
KEPT static struct snapshot snapshots[SNAPSHOTS] = { { 0 } };
KEPT static int mapped = -1;	/* snapshot whose file the large region is mapped from */
KEPT static uint32_t family = 0;	/* the latest one: it counts while touched_is_known() */

/* ------------------------------------------------------------------ what is the object's data */

#define SECTION(name)								\
	extern char __start_##name[] __attribute__((weak, visibility("hidden")));	\
	extern char __stop_##name[] __attribute__((weak, visibility("hidden")))

SECTION(nvmx_keep);
SECTION(__sancov_cntrs);
SECTION(__sancov_pcs);
SECTION(nvmx_gcov);

static void add_range(char *from, char *to);

static void add_without(char *from, char *to, char *start, char *stop)
{
	if (start < stop && start >= from && stop <= to) {
		add_range(from, start);
		add_range(stop, to);
	} else if (from < to && range_count < RANGES) {
		ranges[range_count++] = (struct range){ from, to - from };
	}
}

/* Less the first kept section in it; what is left is looked at again. */
static void add_range(char *from, char *to)
{
	struct { char *start, *stop; } kept[] = {
		{ __start_nvmx_keep, __stop_nvmx_keep },
		{ __start___sancov_cntrs, __stop___sancov_cntrs },
		{ __start___sancov_pcs, __stop___sancov_pcs },
		{ __start_nvmx_gcov, __stop_nvmx_gcov },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(kept); i++)
		if (kept[i].start < kept[i].stop && kept[i].start >= from && kept[i].stop <= to)
			break;
	if (i < ARRAY_SIZE(kept))
		add_without(from, to, kept[i].start, kept[i].stop);
	else
		add_without(from, to, NULL, NULL);
}

static int add_segments(struct dl_phdr_info *info, size_t size, void *base)
{
	uint64_t relro = 0;
	int i;

	(void)size;
	if ((void *)info->dlpi_addr != base)
		return 0;
	for (i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_GNU_RELRO)
			relro = info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz;
	for (i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
		uint64_t from = segment->p_vaddr, to = from + segment->p_memsz;

		if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_W))
			continue;
		if (relro > from && relro <= to)
			from = relro & -PAGE;
		add_range((char *)info->dlpi_addr + from, (char *)info->dlpi_addr + to);
	}
	return 1;
}

static void find_ranges(void)
{
	Dl_info info;

	if (!range_count && dladdr((void *)nvmx_snapshot, &info))
		dl_iterate_phdr(add_segments, info.dli_fbase);
}

/* ------------------------------------------------------------------ walking the state */

/* Called for each piece of memory that is copied. */
typedef void (*visitor)(void *memory, uint64_t size, char **copy);

static void count_bytes(void *memory, uint64_t size, char **copy)
{
	(void)memory;
	*copy += size;
}

static void save(void *memory, uint64_t size, char **copy)
{
	memcpy(*copy, memory, size);
	*copy += size;
}

static void load(void *memory, uint64_t size, char **copy)
{
	memcpy(memory, *copy, size);
	*copy += size;
}

static void clear(void *memory, uint64_t size, char **copy)
{
	uint64_t dropped = 0;

	(void)copy;
	if (size >= 256 * PAGE && !((uint64_t)memory % PAGE) &&
	    !madvise(memory, size & -PAGE, MADV_DONTNEED))
		dropped = size & -PAGE;
	memset((char *)memory + dropped, 0, size - dropped);
}

static void visit_pages(uint64_t from, uint64_t to, visitor visit, char **copy)
{
	char *first = arena_page_of((void *)from), *last = arena_page_of((void *)to);

	if (first < last)
		visit(first, last - first, copy);
}

/* Slots from..to of a class, their table and their struct pages. */
static void visit_class(int class, uint32_t from, uint32_t to, visitor visit, char **copy)
{
	uint32_t i;

	if (from >= to)
		return;
	for (i = from; i < to; i++)
		visit(arena_slot(class, i), PAGE << class, copy);
	visit(arena_slots(class) + from, (to - from) * sizeof(struct slot), copy);
	visit_pages((uint64_t)arena_slot(class, from), (uint64_t)arena_slot(class, to), visit,
		    copy);
}

static void visit_arena(const struct arena *state, visitor visit, char **copy)
{
	int class;

	visit(arena_small(), state->small_used, copy);
	for (class = 0; class < CLASSES; class++)
		visit_class(class, 0, state->class[class].used, visit, copy);
	visit_pages((uint64_t)arena_large(), (uint64_t)arena_large() + state->large_used, visit,
		    copy);
}

static void visit_data(visitor visit, char **copy)
{
	int i;

	for (i = 0; i < range_count; i++)
		visit(ranges[i].at, ranges[i].size, copy);
}

/* Memory that was handed out after the snapshot was never used again. */
static void clear_newer(const struct arena *then, const struct arena *now)
{
	int class;

	if (now->small_used > then->small_used)
		clear(arena_small() + then->small_used, now->small_used - then->small_used, NULL);
	for (class = 0; class < CLASSES; class++)
		visit_class(class, then->class[class].used, now->class[class].used, clear, NULL);
}

/* ------------------------------------------------------------------ the large region */

static int is_zero(const char *page)
{
	return !page[0] && !memcmp(page, page + 1, PAGE - 1);
}

static int write_block(int file, const struct large_block *block)
{
	const char *memory = arena_large() + block->start;
	uint64_t at;

	for (at = 0; at < block->size; at += PAGE)
		if (!is_zero(memory + at) &&
		    pwrite(file, memory + at, PAGE, block->start + at) != (ssize_t)PAGE)
			return -1;
	return 0;
}

static int map_block(int file, const struct large_block *block)
{
	void *at = mmap(arena_large() + block->start, block->size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, file, block->start);

	return at == MAP_FAILED ? -1 : 0;
}

/* If it fails, nobody's file is mapped as a whole: the next restore maps everything anew. */
static int map_large(struct snapshot *snapshot, int number)
{
	uint32_t i;

	mapped = -1;
	for (i = 0; i < snapshot->arena.large_blocks; i++)
		if (map_block(snapshot->large, &snapshot->arena.large[i]))
			return -1;
	mapped = number;
	return 0;
}

static int save_large(struct snapshot *snapshot)
{
	uint32_t i;

	snapshot->large = -1;
	if (!snapshot->arena.large_blocks)
		return 0;
	snapshot->large = memfd_create("nvmx", MFD_CLOEXEC);
	if (snapshot->large < 0 || ftruncate(snapshot->large, snapshot->arena.large_used))
		return -1;
	for (i = 0; i < snapshot->arena.large_blocks; i++)
		if (write_block(snapshot->large, &snapshot->arena.large[i]))
			return -1;
	return mmap(snapshot->copy + snapshot->large_at, snapshot->arena.large_used, PROT_READ,
		    MAP_SHARED | MAP_FIXED, snapshot->large, 0) == MAP_FAILED ? -1 : 0;
}

/* Accessible, zero, and of no file: as if never handed out. */
static int unmap_newer(const struct arena *then, const struct arena *now)
{
	void *at;

	if (now->large_used <= then->large_used)
		return 0;
	at = mmap(arena_large() + then->large_used, now->large_used - then->large_used,
		  PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return at == MAP_FAILED ? -1 : 0;
}

static int guard_large(const struct arena *state)
{
	uint32_t i;

	for (i = 0; i < state->large_blocks; i++)
		if (mprotect(arena_large() + state->large[i].start + state->large[i].size, PAGE,
			     PROT_NONE))
			return -1;
	return 0;
}

/* What the guest has touched becomes the file's again. */
static int drop_large(const struct arena *state)
{
	uint32_t i;

	for (i = 0; i < state->large_blocks; i++)
		if (madvise(arena_large() + state->large[i].start, state->large[i].size,
			    MADV_DONTNEED))
			return -1;
	return 0;
}

static int restore_large(struct snapshot *snapshot, int number, const struct arena *now)
{
	int is_mapped = mapped == number;

	mapped = -1;
	if (unmap_newer(&snapshot->arena, now))
		return -1;
	if (is_mapped) {
		if (drop_large(&snapshot->arena))
			return -1;
		mapped = number;
		return 0;
	}
	if (unmap_newer(now, &snapshot->arena) || guard_large(&snapshot->arena))
		return -1;
	return map_large(snapshot, number);
}

/* ------------------------------------------------------------------ families */

static void track(void *memory, uint64_t size, char **copy)
{
	touched_add(memory, (uint64_t)*copy, size);
	*copy += size;
}

/* The state is that of `snapshot` now. */
static void begin_family(struct snapshot *snapshot)
{
	char *copy = NULL;
	uint32_t i;

	touched_forget();
	visit_data(track, &copy);
	visit_arena(&snapshot->arena, track, &copy);
	for (i = 0; i < snapshot->arena.large_blocks; i++)
		touched_add(arena_large() + snapshot->arena.large[i].start,
			    snapshot->large_at + snapshot->arena.large[i].start,
			    snapshot->arena.large[i].size);
	touched_begin();
	snapshot->family = ++family;
}

static const struct snapshot *any_member(void)
{
	int number;

	for (number = 0; number < SNAPSHOTS; number++)
		if (snapshots[number].copy && snapshots[number].family == family)
			return &snapshots[number];
	return NULL;
}

/* Blocks of the same total may be cut otherwise: their guard pages stand elsewhere then. */
static int has_blocks_of(const struct arena *one, const struct arena *other)
{
	uint32_t i;

	for (i = 0; i < one->large_blocks; i++)
		if (one->large[i].start != other->large[i].start)
			return 0;
	return one->large_used == other->large_used && one->large_blocks == other->large_blocks;
}

static int has_shape_of(const struct arena *one, const struct arena *other)
{
	int class;

	for (class = 0; class < CLASSES; class++)
		if (one->class[class].used != other->class[class].used)
			return 0;
	return one->small_used == other->small_used && has_blocks_of(one, other);
}

static int is_member(struct snapshot *snapshot)
{
	const struct snapshot *member;

	if (!touched_is_known())
		return 0;
	if (snapshot->family == family)
		return 1;
	member = any_member();
	if (!member || !has_shape_of(&member->arena, &snapshot->arena) ||
	    touched_join(member->copy, snapshot->copy))
		return 0;
	snapshot->family = family;
	return 1;
}

/* ------------------------------------------------------------------ the interface */

static int free_number(void)
{
	int number;

	for (number = 0; number < SNAPSHOTS; number++)
		if (!snapshots[number].copy)
			return number;
	return -1;
}

static struct snapshot *snapshot_of(int number)
{
	if (number < 0 || number >= SNAPSHOTS || !snapshots[number].copy)
		return NULL;
	return &snapshots[number];
}

int nvmx_snapshot(void)
{
	struct snapshot *snapshot;
	int number = free_number();
	char *copy = NULL;

	if (guard.armed || guard.in_port)
		return NVMX_IN_CALL;
	if (number < 0)
		return NVMX_NO_SNAPSHOT;
	if (!arena_base)
		return NVMX_NO_MEMORY;
	find_ranges();
	snapshot = &snapshots[number];
	snapshot->arena = arena;
	visit_data(count_bytes, &copy);
	visit_arena(&arena, count_bytes, &copy);
	snapshot->family = 0;
	snapshot->large_at = ((uint64_t)copy + PAGE - 1) & -PAGE;
	snapshot->size = snapshot->large_at + arena.large_used;
	copy = mmap(NULL, snapshot->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
	if (copy == MAP_FAILED)
		return NVMX_NO_MEMORY;
	snapshot->copy = copy;
	visit_data(save, &copy);
	visit_arena(&snapshot->arena, save, &copy);
	if (save_large(snapshot) || touched_end() || map_large(snapshot, number)) {
		nvmx_discard(number);
		return NVMX_NO_MEMORY;
	}
	return number;
}

int nvmx_restore(int number)
{
	struct snapshot *snapshot = snapshot_of(number);
	struct arena now = arena;
	int is_again = mapped == number;
	char *copy;

	if (guard.armed || guard.in_port)
		return NVMX_IN_CALL;
	if (!snapshot)
		return NVMX_NO_SNAPSHOT;
	/* First, since it can fail: `arena` still says what there is, and it can be tried again. */
	if (is_member(snapshot)) {
		if (unmap_newer(&snapshot->arena, &now))
			return NVMX_NO_MEMORY;
		touched_restore(snapshot->copy);
		clear_newer(&snapshot->arena, &now);
		return 0;
	}
	if (touched_end() || restore_large(snapshot, number, &now))
		return NVMX_NO_MEMORY;
	copy = snapshot->copy;
	visit_data(load, &copy);
	visit_arena(&snapshot->arena, load, &copy);
	clear_newer(&snapshot->arena, &now);
	if (is_again)
		begin_family(snapshot);
	return 0;
}

void nvmx_discard(int number)
{
	struct snapshot *snapshot = snapshot_of(number);

	if (!snapshot)
		return;
	munmap(snapshot->copy, snapshot->size);
	if (snapshot->large >= 0)
		close(snapshot->large);
	snapshot->copy = NULL;
	if (mapped == number)
		mapped = -1;	/* what is mapped stays, but is nobody's to drop */
}
