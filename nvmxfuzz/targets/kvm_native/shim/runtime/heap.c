/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel's allocators. An object has a canary behind it, a freed one is filled with a pattern
 * that is looked at again before the memory is used anew; freed memory is used again in the order
 * it was freed, and only when some has gathered. Objects of one page and more start at a page and
 * have inaccessible pages behind them.
 * May lie: never -ENOMEM, no NUMA, no sleeping, no accounting; memory that the kernel leaves
 * undefined is a fixed pattern.
 */
#include "runtime.h"
#include <string.h>

#define UNDEFINED 0xa5		/* fresh memory without __GFP_ZERO */
#define FREED 0x6b
#define CANARY 0xc5
#define HEADER 64		/* keeps objects aligned to a cache line */
#define LIVE 0x11feb10c
#define DEAD 0xdeadb10c
#define SMALL_CLASSES 6		/* 128 bytes ... 4 KiB, header and canary within */
#define WAITING 16		/* freed objects that gather before one is used again */

struct header {
	uint32_t state, size;
	uint64_t next;		/* of the free list: offset + 1 */
};

static struct { uint64_t first, last; uint32_t count; } freed[SMALL_CLASSES];

static struct header *header_at(uint64_t link)
{
	return (struct header *)(arena_small() + link - 1);
}

static uint64_t link_of(const struct header *header)
{
	return (const char *)header - arena_small() + 1;
}

static int small_class(uint64_t size)
{
	int class = 0;

	while ((128ul << class) < size + HEADER + 8)
		class++;
	return class;
}

/* ------------------------------------------------------------------ patterns */

static int all_bytes(const char *bytes, uint64_t size, int value)
{
	return !size || ((unsigned char)bytes[0] == value && !memcmp(bytes, bytes + 1, size - 1));
}

static void expect_canary(const char *end, uint64_t slack, uint64_t size)
{
	if (unlikely(!all_bytes(end, slack, CANARY)))
		stop(NVMX_HEAP, "overrun of an object of %lu bytes", (unsigned long)size);
}

static void expect_freed(const char *object, uint64_t room, uint64_t size)
{
	if (unlikely(!all_bytes(object, room, FREED)))
		stop(NVMX_HEAP, "use after free of an object of %lu bytes", (unsigned long)size);
}

static void fill(char *object, uint64_t size, uint64_t room, int zero)
{
	memset(object, zero ? 0 : UNDEFINED, size);
	memset(object + size, CANARY, room - size);
}

/* ------------------------------------------------------------------ below one page */

static uint64_t small_room(const struct header *header)
{
	return (128ul << small_class(header->size)) - HEADER;
}

static struct header *reuse_small(int class)
{
	struct header *header = header_at(freed[class].first);

	freed[class].first = header->next;
	freed[class].count--;
	expect_freed((char *)header + HEADER, small_room(header), header->size);
	return header;
}

static void *take_small(uint64_t size, int zero)
{
	int class = small_class(size);
	struct header *header;

	if (freed[class].count > WAITING)
		header = reuse_small(class);
	else
		header = arena_take_small(128ul << class);
	header->state = LIVE;
	header->size = size;
	fill((char *)header + HEADER, size, (128ul << class) - HEADER, zero);
	return (char *)header + HEADER;
}

static void give_small(char *object)
{
	struct header *header = (struct header *)(object - HEADER);
	int class;

	if (object < arena_small() + HEADER || (uint64_t)object % HEADER)
		stop(NVMX_HEAP, "free of what was not allocated");
	if (header->state == DEAD)
		stop(NVMX_HEAP, "double free of an object of %u bytes", header->size);
	if (header->state != LIVE)
		stop(NVMX_HEAP, "free of what was not allocated");
	expect_canary(object + header->size, small_room(header) - header->size, header->size);
	class = small_class(header->size);
	memset(object, FREED, small_room(header));
	header->state = DEAD;
	header->next = 0;
	if (freed[class].count++)
		header_at(freed[class].last)->next = link_of(header);
	else
		freed[class].first = link_of(header);
	freed[class].last = link_of(header);
}

/* ------------------------------------------------------------------ up to 32 pages */

static char *reuse_slot(int class, uint32_t *index)
{
	struct class_region *region = &arena.class[class];
	char *slot;

	*index = region->first_free - 1;
	region->first_free = arena_slots(class)[*index].next;
	region->free--;
	slot = arena_slot(class, *index);
	expect_freed(slot, PAGE << class, PAGE << class);
	return slot;
}

static char *take_slot(int class, uint64_t size, int zero)
{
	uint32_t index;
	char *slot;

	if (arena.class[class].free > WAITING)
		slot = reuse_slot(class, &index);
	else
		slot = arena_take_slot(class, &index);
	arena_slots(class)[index].size = size;
	fill(slot, size, PAGE << class, zero);
	return slot;
}

static void give_slot(int class, uint32_t index, char *object)
{
	struct class_region *region = &arena.class[class];
	struct slot *slots = arena_slots(class);
	uint64_t size = slots[index].size;

	if (object != arena_slot(class, index) || index >= region->used)
		stop(NVMX_HEAP, "free of what was not allocated");
	if (!size)
		stop(NVMX_HEAP, "double free of %u pages", 1u << class);
	expect_canary(object + size, (PAGE << class) - size, size);
	memset(object, FREED, PAGE << class);
	slots[index].size = 0;
	slots[index].next = 0;
	if (region->free++)
		slots[region->last_free - 1].next = index + 1;
	else
		region->first_free = index + 1;
	region->last_free = index + 1;
}

/* ------------------------------------------------------------------ more */

static struct large_block *find_large(const void *object)
{
	uint32_t i;

	for (i = 0; i < arena.large_blocks; i++)
		if (arena_large() + arena.large[i].start == object)
			return &arena.large[i];
	stop(NVMX_HEAP, "free of what was not allocated");
}

static struct large_block *reuse_large(uint64_t size)
{
	uint32_t i;

	for (i = 0; i < arena.large_blocks; i++)
		if (!arena.large[i].asked && arena.large[i].size == size)
			return &arena.large[i];
	return NULL;
}

static uint64_t whole_pages(uint64_t size)
{
	if (size > SHIM_ARENA_SIZE)	/* before it wraps */
		stop(NVMX_FULL, "no memory for a block of %lu bytes", (unsigned long)size);
	return (size + PAGE - 1) & -PAGE;
}

static void *take_large(uint64_t size, int zero)
{
	uint64_t whole = whole_pages(size);
	struct large_block *block = reuse_large(whole);
	char *object;

	if (block) {
		object = arena_large() + block->start;
		memset(object, zero ? 0 : UNDEFINED, size);
	} else {
		block = arena_take_large(whole);	/* zero: guest memory stays untouched */
		object = arena_large() + block->start;
	}
	block->asked = size;
	memset(object + size, CANARY, whole - size);
	return object;
}

static void give_large(char *object)
{
	struct large_block *block = find_large(object);

	if (!block->asked)
		stop(NVMX_HEAP, "double free of a block of %lu bytes", (unsigned long)block->size);
	expect_canary(object + block->asked, block->size - block->asked, block->asked);
	block->asked = 0;
	memset(object, FREED, block->size);
}

/* ------------------------------------------------------------------ all sizes */

static int page_class(uint64_t size)
{
	int class = 0;

	while (class < CLASSES && (PAGE << class) < size)
		class++;
	return class;
}

void *heap_take(uint64_t size, int zero)
{
	int class;

	step();
	if (size < PAGE - HEADER - 8)
		return take_small(size ? size : 1, zero);
	class = page_class(size);
	return class < CLASSES ? take_slot(class, size, zero) : take_large(size, zero);
}

void heap_give(void *object)
{
	uint32_t index;
	int class;

	if ((uint64_t)object <= 16)	/* NULL and ZERO_SIZE_PTR */
		return;
	class = arena_class_of(object, &index);
	if (class == -3)
		stop(NVMX_HEAP, "free of what was not allocated");
	else if (class == -2)
		give_large(object);
	else if (class == -1)
		give_small(object);
	else
		give_slot(class, index, object);
}

void *heap_take_pages(unsigned int order, int zero)
{
	void *pages;

	if (order > 10)
		stop(NVMX_FULL, "allocation of order %u", order);
	pages = heap_take(PAGE << order, zero);
	shim_pages_born(arena_page_of(pages), 1ul << order);
	return pages;
}

/* The allocation of KVM's, counted from now, that finds no memory; 0: none. */
static uint32_t until_refusal;

void nvmx_refuse_memory(nvmx_u32 number)
{
	until_refusal = number;
}

static int refused(void)
{
	return unlikely(until_refusal) && !--until_refusal;
}

void *heap_try(uint64_t size, int zero)
{
	return refused() ? NULL : heap_take(size, zero);
}

void *heap_try_pages(unsigned int order, int zero)
{
	return refused() ? NULL : heap_take_pages(order, zero);
}

/* What user space maps: whole pages of zeroes. */
void *heap_take_mapping(uint64_t size)
{
	uint64_t whole = whole_pages(size);
	void *pages;

	if (!whole)
		return NULL;
	pages = heap_take(whole, 1);
	shim_pages_born(arena_page_of(pages), whole / PAGE);
	return pages;
}

static int in_large(const char *address)
{
	uint32_t i;

	for (i = 0; i < arena.large_blocks; i++) {
		const struct large_block *block = &arena.large[i];

		if (block->asked && (uint64_t)(address - arena_large()) - block->start < block->size)
			return 1;
	}
	return 0;
}

/* Whether a page is handed out: as user space would have to have mapped it. */
int heap_has_page(const void *address)
{
	uint32_t index;
	int class = arena_class_of(address, &index);

	if (class == -2)
		return in_large(address);
	return class >= 0 && index < arena.class[class].used && arena_slots(class)[index].size &&
	       (uint64_t)((const char *)address - arena_slot(class, index)) < PAGE << class;
}

void *shim_alloc_mapping(unsigned long size)
{
	return heap_take_mapping(size);
}

/* ------------------------------------------------------------------ a common shape */

#define ROUND_SMALL (128ul << 10)
#define ROUND_PAGES 128

static void take_slots(int class, uint32_t step)
{
	uint32_t index;

	while (arena.class[class].used % step) {
		fill(arena_take_slot(class, &index), PAGE << class, PAGE << class, 0);
		arena_slots(class)[index].size = PAGE << class;
	}
}

/*
 * Fill what is used up to round numbers with objects that are never freed. Snapshots of machines
 * that allocated a little more or less than others have one shape then, and can be alike: what
 * one of them keeps in reserve (a processor without EPT has 40 pages more) looks like the filling.
 */
void nvmx_round_heap(void)
{
	int class;

	while (arena.small_used % PAGE)
		take_small(1, 1);
	while (arena.small_used % ROUND_SMALL)
		take_small(PAGE - HEADER - 8, 1);
	for (class = 0; class < CLASSES; class++)
		take_slots(class, ROUND_PAGES >> 2 * class ? ROUND_PAGES >> 2 * class : 1);
}

/* ------------------------------------------------------------------ looking at all of it */

static void check_small(void)
{
	uint64_t at = 0;

	while (at < arena.small_used) {
		struct header *header = (struct header *)(arena_small() + at);
		char *object = (char *)header + HEADER;

		if (header->state == LIVE)
			expect_canary(object + header->size,
				      small_room(header) - header->size, header->size);
		else if (header->state == DEAD)
			expect_freed(object, small_room(header), header->size);
		else
			stop(NVMX_HEAP, "overrun into the header of an object");
		at += 128ul << small_class(header->size);
	}
}

static void check_class(int class)
{
	struct slot *slots = arena_slots(class);
	uint32_t i;

	for (i = 0; i < arena.class[class].used; i++) {
		char *object = arena_slot(class, i);

		if (slots[i].size)
			expect_canary(object + slots[i].size, (PAGE << class) - slots[i].size,
				      slots[i].size);
		else
			expect_freed(object, PAGE << class, PAGE << class);
	}
}

/* Every canary and every freed object; stops with NVMX_HEAP. */
void shim_check_heap(void)
{
	int class;

	check_small();
	for (class = 0; class < CLASSES; class++)
		check_class(class);
}
