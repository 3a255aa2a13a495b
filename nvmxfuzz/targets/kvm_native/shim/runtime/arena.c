/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The memory of the machine: one reservation, divided into regions.
 *
 *   small    objects below one page, one after the other
 *   class n  slots of 2^n pages, each followed by as many inaccessible ones
 *   large    blocks of any number of pages, each between inaccessible pages
 *   tables   the state of the slots, and one struct page for each page of the arena
 *
 * Whether a page of a class region is inaccessible depends on its address only, so a restore has
 * nothing to protect again. Memory that was never handed out is zero.
 *
 * The arena lies at the same address in each process where that is free: addresses of the heap
 * are the same from run to run.
 */
#include "runtime.h"
#include <string.h>
#include <sys/mman.h>

#define UNIT (64ul << 20)
#define SMALL_AT (0 * UNIT)
#define SMALL_SIZE (2 * UNIT)
#define LARGE_AT (9 * UNIT)
#define LARGE_SIZE (6 * UNIT)
#define TABLES_AT (15 * UNIT)
#define SLOTS_AT (TABLES_AT + 48ul * (1ul << 20))

#define ADDRESS 0x200000000000ul
#define ADDRESSES 512

static const struct { uint64_t at, size; } class_place[CLASSES] = {
	{ 2 * UNIT, 2 * UNIT }, { 4 * UNIT, UNIT }, { 5 * UNIT, UNIT },
	{ 6 * UNIT, UNIT }, { 7 * UNIT, UNIT }, { 8 * UNIT, UNIT },
};

struct arena arena;
KEPT char *arena_base;
KEPT uint32_t arena_guards[CLASSES];	/* slots whose guard pages stand */
unsigned long shim_page_offset, shim_vmemmap;

static char *reserve(void)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	char *base;
	int i;

	for (i = 0; i < ADDRESSES; i++) {
		base = mmap((void *)(ADDRESS + i * 2 * SHIM_ARENA_SIZE), SHIM_ARENA_SIZE,
			    PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE, -1, 0);
		if (base != MAP_FAILED)
			return base;
	}
	base = mmap(NULL, SHIM_ARENA_SIZE, PROT_READ | PROT_WRITE, flags, -1, 0);
	return base == MAP_FAILED ? NULL : base;
}

static int forbid(char *from, uint64_t size)
{
	return mprotect(from, size, PROT_NONE);
}

/* Before the first object of each region, and behind the last of the small ones. */
static int forbid_borders(void)
{
	int failed = forbid(arena_base + LARGE_AT, PAGE);
	int class;

	for (class = 0; class < CLASSES; class++)
		failed |= forbid(arena_base + class_place[class].at - PAGE, PAGE);
	return failed;
}

__attribute__((constructor)) static void make_arena(void)
{
	arena_base = reserve();
	if (arena_base && forbid_borders()) {
		munmap(arena_base, SHIM_ARENA_SIZE);
		arena_base = NULL;
	}
	if (!arena_base)
		return;		/* the first allocation is NVMX_FULL */
	shim_page_offset = (unsigned long)arena_base - SHIM_FIRST_PAGE * PAGE;
	shim_vmemmap = (unsigned long)arena_base + TABLES_AT;
	arena.large_used = PAGE;
}

/* ------------------------------------------------------------------ where things are */

char *arena_small(void)
{
	return arena_base + SMALL_AT;
}

static uint64_t stride(int class)
{
	return 2 * PAGE << class;
}

static uint32_t slots_of(int class)
{
	return class_place[class].size / stride(class);
}

char *arena_slot(int class, uint32_t index)
{
	return arena_base + class_place[class].at + index * stride(class);
}

struct slot *arena_slots(int class)
{
	return (struct slot *)(arena_base + SLOTS_AT + class * (1ul << 20));
}

char *arena_large(void)
{
	return arena_base + LARGE_AT;
}

void *arena_page_of(const void *address)
{
	uint64_t frame = ((uint64_t)address - shim_page_offset) / PAGE;

	return (void *)(shim_vmemmap + frame * shim_sizeof_page);
}

void *arena_address_of(const void *page)
{
	uint64_t frame = ((uint64_t)page - shim_vmemmap) / shim_sizeof_page;

	return (void *)(shim_page_offset + frame * PAGE);
}

/* Whether KVM may be given these bytes as memory of the machine. */
int arena_holds(const void *address, uint64_t size)
{
	uint64_t offset = (uint64_t)address - (uint64_t)arena_base;

	return arena_base && offset < TABLES_AT && size <= TABLES_AT - offset;
}

int arena_class_of(const void *address, uint32_t *index)
{
	uint64_t offset = (uint64_t)address - (uint64_t)arena_base;
	int class;

	if (!arena_holds(address, 1))
		return -3;
	if (offset < SMALL_SIZE)
		return -1;
	if (offset >= LARGE_AT)
		return -2;
	for (class = 0; class < CLASSES - 1; class++)
		if (offset < class_place[class + 1].at)
			break;
	*index = (offset - class_place[class].at) / stride(class);
	return class;
}

/* ------------------------------------------------------------------ handing out */

void *arena_take_small(uint64_t size)
{
	char *object = arena_small() + arena.small_used;

	if (!arena_base || arena.small_used + size > SMALL_SIZE - PAGE)
		stop(NVMX_FULL, "no memory for an object of %lu bytes", (unsigned long)size);
	arena.small_used += size;
	return object;
}

/* A slot that was never used: zero. */
char *arena_take_slot(int class, uint32_t *index)
{
	struct class_region *region = &arena.class[class];
	char *slot;

	if (!arena_base || region->used == slots_of(class))
		stop(NVMX_FULL, "no memory for %u pages", 1u << class);
	*index = region->used++;
	slot = arena_slot(class, *index);
	if (*index >= arena_guards[class]) {
		if (forbid(slot + (PAGE << class), PAGE << class))
			stop(NVMX_FULL, "no memory for the guard of %u pages", 1u << class);
		arena_guards[class] = *index + 1;
	}
	return slot;
}

/* A block that was never used, in whole pages: zero. */
struct large_block *arena_take_large(uint64_t size)
{
	uint64_t start = arena.large_used;
	struct large_block *block;

	if (!arena_base || arena.large_blocks == LARGE_BLOCKS ||
	    size > LARGE_SIZE || start + size + PAGE > LARGE_SIZE)
		stop(NVMX_FULL, "no memory for a block of %lu bytes", (unsigned long)size);
	if (forbid(arena_large() + start + size, PAGE))
		stop(NVMX_FULL, "no memory for the guard of %lu bytes", (unsigned long)size);
	block = &arena.large[arena.large_blocks++];
	block->start = start;
	block->size = size;
	arena.large_used = start + size + PAGE;
	return block;
}

nvmx_u64 nvmx_heap_used(void)
{
	uint64_t bytes = arena.small_used + arena.large_used;
	int class;

	for (class = 0; class < CLASSES; class++)
		bytes += (uint64_t)arena.class[class].used * (PAGE << class);
	return bytes;
}

void *nvmx_physical(nvmx_u64 address, nvmx_u64 size)
{
	void *memory = (void *)(address + shim_page_offset);

	if (address < SHIM_FIRST_PAGE * PAGE || !arena_holds(memory, size))
		return NULL;
	return memory;
}
