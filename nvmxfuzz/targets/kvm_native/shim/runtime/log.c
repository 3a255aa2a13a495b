/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel's log: the common conversions of printk. A pointer prints as "(pointer)" whatever the
 * extension, so that a line is the same in each process.
 */
#include "runtime.h"
#include <stdio.h>
#include <string.h>

struct text {
	char *at;
	size_t room;		/* with the terminating zero */
	size_t length;		/* of all, as snprintf() counts */
};

struct conversion {
	char flags[24];		/* "%-08.3": with the stars filled in */
	int longs;		/* 0, 1: l or z or t, 2: ll; -1: h, -2: hh */
	char letter;
};

/* A va_list that a function can move on. */
struct arguments {
	va_list list;
};

static void put(struct text *text, const char *bytes, size_t count)
{
	text->length += count;
	if (!text->room)
		return;
	if (count > text->room - 1)
		count = text->room - 1;
	memcpy(text->at, bytes, count);
	text->at += count;
	text->room -= count;
	*text->at = 0;
}

/* ------------------------------------------------------------------ reading a conversion */

static const char *read_flags(const char *format, struct conversion *into, struct arguments *from)
{
	size_t used = 0;

	into->flags[used++] = '%';
	while (*format && strchr("-+ #0123456789.*", *format)) {
		int star = *format == '*' ? va_arg(from->list, int) : 0;

		if (used < sizeof(into->flags) - 12)
			used += *format == '*' ? (size_t)sprintf(into->flags + used, "%d", star) :
						 (into->flags[used] = *format, 1u);
		format++;
	}
	into->flags[used] = 0;
	return format;
}

static const char *read_length(const char *format, struct conversion *into)
{
	into->longs = 0;
	for (;; format++) {
		if (*format == 'l')
			into->longs++;
		else if (*format == 'z' || *format == 't' || *format == 'j')
			into->longs = 1;
		else if (*format == 'h')
			into->longs--;
		else
			return format;
	}
}

/* ------------------------------------------------------------------ printing one */

static uint64_t integer(const struct conversion *conversion, struct arguments *from)
{
	int is_signed = conversion->letter == 'd' || conversion->letter == 'i';

	if (conversion->longs > 0)
		return va_arg(from->list, uint64_t);
	switch (conversion->longs) {
	case -1:
		return is_signed ? (uint64_t)(short)va_arg(from->list, int) :
				   (unsigned short)va_arg(from->list, int);
	case 0:
		return is_signed ? (uint64_t)va_arg(from->list, int) :
				   va_arg(from->list, unsigned int);
	default:
		return is_signed ? (uint64_t)(signed char)va_arg(from->list, int) :
				   (unsigned char)va_arg(from->list, int);
	}
}

static void format_text(struct text *text, const char *format, struct arguments *from);

struct va_format { const char *format; va_list *list; };	/* what %pV points to */

static const char *print_pointer(struct text *text, const char *format, struct arguments *from)
{
	const void *pointer = va_arg(from->list, const void *);

	if (*format == 'V') {
		const struct va_format *nested = pointer;
		struct arguments inner;

		va_copy(inner.list, *nested->list);
		format_text(text, nested->format, &inner);
		va_end(inner.list);
	} else {
		put(text, "(pointer)", 9);
	}
	while ((*format >= 'a' && *format <= 'z') || (*format >= 'A' && *format <= 'Z') ||
	       (*format >= '0' && *format <= '9'))
		format++;
	return format;
}

static void print_string(struct text *text, const char *flags, const char *string)
{
	char buffer[160], specification[32];

	snprintf(specification, sizeof(specification), "%ss", flags);
	snprintf(buffer, sizeof(buffer), specification, string ? string : "(null)");
	put(text, buffer, strlen(buffer));
}

static const char *print_one(struct text *text, const char *format, struct arguments *from)
{
	struct conversion conversion;
	char buffer[96], specification[32];

	format = read_length(read_flags(format, &conversion, from), &conversion);
	conversion.letter = *format;
	if (!*format)
		return format;
	format++;
	switch (conversion.letter) {
	case 'p':
		return print_pointer(text, format, from);
	case 's':
		print_string(text, conversion.flags, va_arg(from->list, const char *));
		return format;
	case 'c':
		buffer[0] = va_arg(from->list, int);
		put(text, buffer, 1);
		return format;
	case 'd': case 'i': case 'u': case 'x': case 'X': case 'o':
		snprintf(specification, sizeof(specification), "%sl%c", conversion.flags,
			 conversion.letter);
		snprintf(buffer, sizeof(buffer), specification, integer(&conversion, from));
		put(text, buffer, strlen(buffer));
		return format;
	default:
		put(text, &conversion.letter, 1);	/* "%%" */
		return format;
	}
}

static void format_text(struct text *text, const char *format, struct arguments *from)
{
	while (*format) {
		size_t plain = strcspn(format, "%");

		put(text, format, plain);
		format += plain;
		if (*format)
			format = print_one(text, format + 1, from);
	}
}

static int format_into(char *buffer, size_t size, const char *format, va_list list)
{
	struct text text = { buffer, size, 0 };
	struct arguments from;

	if (size)
		*buffer = 0;
	va_copy(from.list, list);
	format_text(&text, format, &from);
	va_end(from.list);
	return text.length;
}

/* ------------------------------------------------------------------ lines */

static void add_line(const char *line, size_t length)
{
	char *to;

	if (nvmx_result.lines++ >= NVMX_LINES)
		return;
	to = nvmx_result.log[nvmx_result.lines - 1];
	if (length > NVMX_LINE - 1)
		length = NVMX_LINE - 1;
	memcpy(to, line, length);
	to[length] = 0;
}

void log_text(const char *format, va_list list)
{
	char buffer[512], *line = buffer;

	format_into(buffer, sizeof(buffer), format, list);
	while (*line) {
		size_t length;

		if (*line == 1 && line[1])	/* the level: a control character and a digit */
			line += 2;
		length = strcspn(line, "\n");
		if (length)
			add_line(line, length);
		line += length;
		line += *line == '\n';
	}
}

int _printk(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	log_text(format, list);
	va_end(list);
	return 0;
}

void __warn_printk(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	log_text(format, list);
	va_end(list);
}

int ___ratelimit(void)
{
	return 1;	/* may lie: nothing is suppressed, so that a case prints the same each time */
}

/* ------------------------------------------------------------------ the kernel's sprintf family */

int k_snprintf(char *buffer, size_t size, const char *format, ...)
{
	va_list list;
	int length;

	va_start(list, format);
	length = format_into(buffer, size, format, list);
	va_end(list);
	return length;
}

int k_vsnprintf(char *buffer, size_t size, const char *format, va_list list)
{
	return format_into(buffer, size, format, list);
}

int k_sprintf(char *buffer, const char *format, ...)
{
	va_list list;
	int length;

	va_start(list, format);
	length = format_into(buffer, 4096, format, list);
	va_end(list);
	return length;
}

int scnprintf(char *buffer, size_t size, const char *format, ...)
{
	va_list list;
	int length;

	va_start(list, format);
	length = format_into(buffer, size, format, list);
	va_end(list);
	return !size ? 0 : length < (int)size ? length : (int)size - 1;
}

char *kasprintf(unsigned int flags, const char *format, ...)
{
	char buffer[512];
	char *copy;
	va_list list;

	(void)flags;
	va_start(list, format);
	format_into(buffer, sizeof(buffer), format, list);
	va_end(list);
	copy = heap_take(strlen(buffer) + 1, 0);
	strcpy(copy, buffer);
	return copy;
}
