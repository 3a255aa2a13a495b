/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * User memory. Copies have entries in the exception table, so that an address nobody may access
 * comes back as the bytes not copied, or as -EFAULT, as in the kernel.
 * May lie: user space is this whole process; only memory of the arena has pages to pin.
 */
#include "runtime.h"
#include <errno.h>
#include <string.h>

#define FUNCTION(name, body)						\
	asm(".text\n.globl " name "\n.hidden " name "\n"		\
	    ".type " name ",@function\n" name ":\n" body)

#define FIXUP(from, to)							\
	".pushsection __ex_table, \"a\"\n.balign 4\n"			\
	".long " from " - .\n.long " to " - .\n.long 3\n.popsection\n"

/* What the kernel's inline code calls: address in RAX, value in RDX, error in EAX. */
#define GET_USER(name, load)						\
	FUNCTION(name, "1: " load "\nxorl %eax, %eax\nret\n"		\
		 "2: movl $-14, %eax\nxorl %edx, %edx\nret\n" FIXUP("1b", "2b"))

GET_USER("__get_user_1", "movzbl (%rax), %edx");
GET_USER("__get_user_2", "movzwl (%rax), %edx");
GET_USER("__get_user_4", "movl (%rax), %edx");
GET_USER("__get_user_8", "movq (%rax), %rdx");
GET_USER("__get_user_nocheck_1", "movzbl (%rax), %edx");
GET_USER("__get_user_nocheck_2", "movzwl (%rax), %edx");
GET_USER("__get_user_nocheck_4", "movl (%rax), %edx");
GET_USER("__get_user_nocheck_8", "movq (%rax), %rdx");

/* Value in RAX, address in RCX, error in ECX. */
#define PUT_USER(name, store)						\
	FUNCTION(name, "1: " store "\nxorl %ecx, %ecx\nret\n"		\
		 "2: movl $-14, %ecx\nret\n" FIXUP("1b", "2b"))

PUT_USER("__put_user_1", "movb %al, (%rcx)");
PUT_USER("__put_user_2", "movw %ax, (%rcx)");
PUT_USER("__put_user_4", "movl %eax, (%rcx)");
PUT_USER("__put_user_8", "movq %rax, (%rcx)");
PUT_USER("__put_user_nocheck_1", "movb %al, (%rcx)");
PUT_USER("__put_user_nocheck_2", "movw %ax, (%rcx)");
PUT_USER("__put_user_nocheck_4", "movl %eax, (%rcx)");
PUT_USER("__put_user_nocheck_8", "movq %rax, (%rcx)");

/* To RDI, from RSI, count in EDX; the bytes not copied in EAX. */
#define COPY_USER(name)							\
	FUNCTION(name, "movl %edx, %ecx\n1: rep movsb\n2: movl %ecx, %eax\nret\n" \
		 FIXUP("1b", "2b"))

COPY_USER("copy_user_generic_unrolled");
COPY_USER("copy_user_generic_string");
COPY_USER("copy_user_enhanced_fast_string");

/* To RDI, from RSI, count in RCX, which keeps the bytes not copied. */
FUNCTION("rep_movs_alternative", "1: rep movsb\n2: ret\n" FIXUP("1b", "2b"));

static unsigned long copy(void *to, const void *from, unsigned long size)
{
	unsigned long left = size;

	step();
	asm volatile("1: rep movsb\n2:\n" FIXUP("1b", "2b")
		     : "+D"(to), "+S"(from), "+c"(left) : : "memory");
	return left;
}

#define USER_END 0x7ffffffff000ul
unsigned long USER_PTR_MAX = USER_END;

static int is_user(const void *address, unsigned long size)
{
	return size <= USER_END && (unsigned long)address <= USER_END - size;
}

unsigned long _copy_from_user(void *to, const void *from, unsigned long size)
{
	unsigned long left = is_user(from, size) ? copy(to, from, size) : size;

	memset((char *)to + size - left, 0, left);
	return left;
}

unsigned long _copy_to_user(void *to, const void *from, unsigned long size)
{
	return is_user(to, size) ? copy(to, from, size) : size;
}

long copy_to_user_nofault(void *to, const void *from, unsigned long size)
{
	return _copy_to_user(to, from, size) ? -EFAULT : 0;
}

static void *error_pointer(long error)
{
	return (void *)error;
}

void *memdup_user(const void *from, unsigned long size)
{
	void *object = heap_take(size, 0);

	if (!_copy_from_user(object, from, size))
		return object;
	heap_give(object);
	return error_pointer(-EFAULT);
}

void *vmemdup_user(const void *from, unsigned long size)
{
	return memdup_user(from, size);
}

void *memdup_user_nul(const void *from, unsigned long size)
{
	char *object = heap_take(size + 1, 1);

	if (!_copy_from_user(object, from, size))
		return object;
	heap_give(object);
	return error_pointer(-EFAULT);
}

/* ------------------------------------------------------------------ pinning pages */

static int pin(uint64_t address, void **pages)
{
	char *page = (char *)(address & -PAGE);

	step();
	if (!heap_has_page(page))
		return 0;
	shim_page_get(arena_page_of(page));
	*pages = arena_page_of(page);
	return 1;
}

long get_user_pages_unlocked(uint64_t address, uint64_t count, void **pages, unsigned int flags)
{
	void *page;

	(void)count, (void)flags;
	return pin(address, pages ? pages : &page) ? 1 : -EFAULT;
}

long get_user_pages_fast(uint64_t address, int count, unsigned int flags, void **pages)
{
	(void)count, (void)flags;
	return pin(address, pages) ? 1 : -EFAULT;
}

int get_user_pages_fast_only(uint64_t address, int count, unsigned int flags, void **pages)
{
	(void)count, (void)flags;
	return pin(address, pages);
}

long pin_user_pages_fast(uint64_t address, int count, unsigned int flags, void **pages)
{
	return get_user_pages_fast(address, count, flags, pages);
}

/* Nothing is paged out: what cannot be pinned cannot be faulted in either. */
long get_user_pages(void)
{
	return -EFAULT;
}

long get_user_pages_remote(void)
{
	return -EFAULT;
}

long fixup_user_fault(void)
{
	return -EFAULT;
}

/* Nor is anything mapped that is not memory. */
void *mtree_load(void)
{
	return NULL;
}

void *find_vma(void)
{
	return NULL;
}

long follow_pte(void)
{
	return -EINVAL;
}

long follow_pfnmap_start(void)
{
	return -EINVAL;
}

void follow_pfnmap_end(void)
{
}

void *memremap(void)
{
	return NULL;
}

void memunmap(void)
{
}

void *vmalloc_to_page(const void *address)
{
	return arena_page_of(address);
}

unsigned long vm_mmap(void *file, unsigned long address, unsigned long size)
{
	(void)file, (void)address;
	return (unsigned long)heap_take_mapping(size);
}

int vm_munmap(unsigned long address, unsigned long size)
{
	(void)size;
	heap_give((void *)address);
	return 0;
}
