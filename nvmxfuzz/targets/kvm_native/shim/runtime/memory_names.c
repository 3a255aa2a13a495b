/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The allocators under the names that the kernel's headers call, before and since 6.10 (_noprof).
 * One that nvmx_refuse_memory() names finds none. May lie: see heap.c; a cache is its size and its constructor, and all caches share one heap.
 */
#include "runtime.h"
#include <string.h>

typedef unsigned int gfp;

static int zero(gfp flags)
{
	return (flags & shim_gfp_zero) != 0;
}

/* ------------------------------------------------------------------ kmalloc and vmalloc */

#define SIZE_FLAGS(name)				\
	void *name(unsigned long size, gfp flags)	\
	{						\
		return heap_try(size, zero(flags));	\
	}

#define SIZE_FLAGS_NODE(name)					\
	void *name(unsigned long size, gfp flags, int node)	\
	{							\
		(void)node;					\
		return heap_try(size, zero(flags));		\
	}

#define CACHE_FLAGS_SIZE(name)						\
	void *name(void *cache, gfp flags, unsigned long size)		\
	{								\
		(void)cache;						\
		return heap_try(size, zero(flags));			\
	}

#define ZEROED(name)				\
	void *name(unsigned long size)		\
	{					\
		return heap_try(size, 1);	\
	}

#define ZEROED_ARRAY(name)						\
	void *name(unsigned long count, unsigned long size, gfp flags)	\
	{								\
		(void)flags;						\
		return heap_try(count * size, 1);			\
	}

SIZE_FLAGS(__kmalloc)
SIZE_FLAGS(__kmalloc_noprof)
SIZE_FLAGS(kmalloc_large)
SIZE_FLAGS(__kmalloc_large_noprof)
SIZE_FLAGS(__vmalloc)
SIZE_FLAGS(__vmalloc_noprof)
SIZE_FLAGS_NODE(__kmalloc_node)
SIZE_FLAGS_NODE(__kmalloc_node_noprof)
SIZE_FLAGS_NODE(kvmalloc_node)
SIZE_FLAGS_NODE(__kvmalloc_node_noprof)
CACHE_FLAGS_SIZE(kmalloc_trace)
CACHE_FLAGS_SIZE(__kmalloc_cache_noprof)
ZEROED(vzalloc)
ZEROED(vzalloc_noprof)
ZEROED(__alloc_percpu)
ZEROED(pcpu_alloc_noprof)
ZEROED_ARRAY(__vcalloc)
ZEROED_ARRAY(__vcalloc_noprof)

void kfree(void *object)
{
	heap_give(object);
}

void vfree(void *object)
{
	heap_give(object);
}

void kvfree(void *object)
{
	heap_give(object);
}

void free_percpu(void *object)
{
	heap_give(object);
}

/* ------------------------------------------------------------------ caches */

struct cache { unsigned long size; void (*construct)(void *object); };

static void *new_cache(unsigned long size, void (*construct)(void *object))
{
	struct cache *cache = heap_take(sizeof(*cache), 1);

	cache->size = size;
	cache->construct = construct;
	return cache;
}

void *kmem_cache_create(const char *name, unsigned int size, unsigned int align,
			unsigned int flags, void (*construct)(void *object))
{
	(void)name, (void)align, (void)flags;
	return new_cache(size, construct);
}

void *kmem_cache_create_usercopy(const char *name, unsigned int size, unsigned int align,
				 unsigned int flags, unsigned int offset, unsigned int length,
				 void (*construct)(void *object))
{
	(void)name, (void)align, (void)flags, (void)offset, (void)length;
	return new_cache(size, construct);
}

void *shim_new_cache(unsigned int size, void (*construct)(void *object))
{
	return new_cache(size, construct);
}

void kmem_cache_destroy(void *cache)
{
	heap_give(cache);
}

static void *from_cache(const struct cache *cache, gfp flags)
{
	void *object = heap_try(cache->size, zero(flags));

	if (object && cache->construct)
		cache->construct(object);
	return object;
}

void *kmem_cache_alloc(const struct cache *cache, gfp flags)
{
	return from_cache(cache, flags);
}

void *kmem_cache_alloc_noprof(const struct cache *cache, gfp flags)
{
	return from_cache(cache, flags);
}

void *kmem_cache_alloc_lru(const struct cache *cache, void *list, gfp flags)
{
	(void)list;
	return from_cache(cache, flags);
}

void *kmem_cache_alloc_lru_noprof(const struct cache *cache, void *list, gfp flags)
{
	(void)list;
	return from_cache(cache, flags);
}

void kmem_cache_free(void *cache, void *object)
{
	(void)cache;
	heap_give(object);
}

/* ------------------------------------------------------------------ pages */

static void *page_of(void *address)
{
	return address ? arena_page_of(address) : NULL;
}

void *__get_free_pages(gfp flags, unsigned int order)
{
	return heap_try_pages(order, zero(flags));
}

void *get_free_pages_noprof(gfp flags, unsigned int order)
{
	return heap_try_pages(order, zero(flags));
}

void *get_zeroed_page(gfp flags)
{
	(void)flags;
	return heap_try_pages(0, 1);
}

void *get_zeroed_page_noprof(gfp flags)
{
	(void)flags;
	return heap_try_pages(0, 1);
}

void *__alloc_pages(gfp flags, unsigned int order)
{
	return page_of(heap_try_pages(order, zero(flags)));
}

void *__alloc_pages_noprof(gfp flags, unsigned int order)
{
	return page_of(heap_try_pages(order, zero(flags)));
}

void free_pages(unsigned long address, unsigned int order)
{
	(void)order;
	heap_give((void *)address);
}

void __free_pages(void *page, unsigned int order)
{
	(void)order;
	heap_give(arena_address_of(page));
}

/* The last user of a page has gone; guest memory is never given back that way. */
void __folio_put(void *page)
{
	heap_give(arena_address_of(page));
}
