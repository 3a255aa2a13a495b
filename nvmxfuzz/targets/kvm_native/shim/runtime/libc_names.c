/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Names that the kernel and libc share: the build renames the kernel's uses to k_*. They do not
 * allocate or lock, so that a call can be left in the middle of one.
 */
#include "runtime.h"
#include <ctype.h>
#include <string.h>

void *k_memcpy(void *to, const void *from, size_t size)
{
	return memcpy(to, from, size);
}

void *k_memmove(void *to, const void *from, size_t size)
{
	return memmove(to, from, size);
}

void *k_memset(void *to, int byte, size_t size)
{
	return memset(to, byte, size);
}

int k_memcmp(const void *a, const void *b, size_t size)
{
	return memcmp(a, b, size);
}

int k_strcmp(const char *a, const char *b)
{
	return strcmp(a, b);
}

int k_strncmp(const char *a, const char *b, size_t size)
{
	return strncmp(a, b, size);
}

int k_strncasecmp(const char *a, const char *b, size_t size)
{
	return strncasecmp(a, b, size);
}

size_t k_strlen(const char *string)
{
	return strlen(string);
}

char *k_strchr(const char *string, int byte)
{
	return strchr(string, byte);
}

char *strnchrnul(const char *string, size_t size, int byte)
{
	while (size-- && *string && *string != (char)byte)
		string++;
	return (char *)string;
}

/* May lie: there are no signals to mask. */
int k_sigprocmask(void)
{
	return 0;
}

int hex_to_bin(unsigned char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	digit |= 0x20;
	return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Equal but for a newline at the end. */
int sysfs_streq(const char *a, const char *b)
{
	size_t length = strcspn(a, "\n"), other = strcspn(b, "\n");

	return length == other && !memcmp(a, b, length);
}

typedef int (*comparison)(const void *a, const void *b);

void *k_bsearch(const void *key, const void *base, size_t count, size_t size, comparison compare)
{
	const char *low = base;

	while (count) {
		const char *middle = low + count / 2 * size;
		int order = compare(key, middle);

		if (!order)
			return (void *)middle;
		if (order > 0) {
			low = middle + size;
			count--;
		}
		count /= 2;
	}
	return NULL;
}

static void exchange(char *a, char *b, size_t size)
{
	while (size--) {
		char byte = *a;

		*a++ = *b;
		*b++ = byte;
	}
}

/* Insertion: the kernel's arrays here are short and nearly sorted. */
void sort(void *base, size_t count, size_t size, comparison compare, void *swap)
{
	size_t i, j;

	(void)swap;
	for (i = 1; i < count; i++)
		for (j = i; j; j--) {
			char *item = (char *)base + j * size;

			step();
			if (compare(item - size, item) <= 0)
				break;
			exchange(item - size, item, size);
		}
}
