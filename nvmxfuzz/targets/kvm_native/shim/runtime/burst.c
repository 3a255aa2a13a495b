/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Bursts: the neighbours of an attempt, one VM entry after the other, without Python in between.
 *
 * Whatever a neighbour is told for, it is told by its edits, and whoever is told makes an input of
 * them: nothing that is found depends on this file. What it decides is what nobody looks at.
 */
#include "runtime.h"
#include <string.h>

#define NOWHERE 0xffff
#define PROBES 16
#define SAMPLE_OF 512		/* neighbours, of which one is told without a reason */
#define HEAP_OF 8		/* neighbours, behind one of which the heap is looked at */
#define EVERY_OTHER_BIT 0xaaaaaaaaaaaaaaaaull
#define NEAR 8			/* fields: what belongs together stands together */

enum { MP_RUNNABLE = 0, VECTOR_DB = 1, EXIT_VMCALL = 18, EXIT_PREEMPTION_TIMER = 52 };

#define ENTRY_FAILURE (1u << 31)
#define BASIC_REASON 0xffff
#define EXCEPTION_PENDING 0x100
#define RFLAGS_CF 1
#define RFLAGS_ZF 0x40

KEPT static char vmcs12[PAGE] = { 0 };
KEPT static char image[PAGE] = { 0 };

/* ------------------------------------------------------------------ drawing */

/* splitmix64 */
static uint64_t draw(uint64_t *state)
{
	uint64_t word = *state += 0x9e3779b97f4a7c15;

	word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
	word = (word ^ word >> 27) * 0x94d049bb133111eb;
	return word ^ word >> 31;
}

static uint64_t current(const struct nvmx_field *field)
{
	uint64_t value = 0;

	memcpy(&value, vmcs12 + field->at12, field->size);
	return value;
}

static uint64_t cut(const struct nvmx_field *field, uint64_t value)
{
	return field->size < 8 ? value & ((1ull << field->size * 8) - 1) : value;
}

static uint64_t near_one(const struct nvmx_burst *burst, uint32_t number, uint64_t chance)
{
	return current(&burst->field[(number + 1 + chance % NEAR) % burst->fields]);
}

/* A value at an edge, another bit, what a neighbour has, a step aside, or anything. */
static uint64_t drawn_value(const struct nvmx_burst *burst, uint32_t number, uint64_t *state)
{
	const struct nvmx_field *field = &burst->field[number];
	uint64_t way = draw(state), chance = draw(state), old = current(field), value;
	uint64_t flipped = old ^ 1ull << chance % (field->size * 8);

	switch (way % 8) {
	case 0 ... 3:
		value = burst->value[field->first + chance % field->values];
		break;
	case 4 ... 5:
		value = flipped;
		break;
	case 6:
		value = near_one(burst, number, chance);
		break;
	default:
		value = chance & 1 ? chance : old + (chance >> 8) % 33 - 16;
	}
	value = cut(field, value);
	return value == old ? flipped : value;
}

static void put(char *at, uint64_t value, uint32_t size)
{
	memcpy(at, &value, size);	/* little-endian, as the format of inputs */
}

static void edit(const struct nvmx_burst *burst, const struct nvmx_edit *edit)
{
	const struct nvmx_field *field = &burst->field[edit->field];
	uint32_t low = edit->value;

	put(vmcs12 + field->at12, edit->value, field->size);
	if (field->at == NOWHERE)
		return;
	put(image + field->at, field->rotated ?
	    low << field->rotated | low >> (32 - field->rotated) : edit->value, field->size);
}

/* One edit in half of the neighbours; each further one of a field close to that, or of any. */
static void draw_edits(const struct nvmx_burst *burst, struct nvmx_told *told, uint64_t *state)
{
	static const uint8_t counts[] = { 1, 1, 2, NVMX_EDITS };
	uint32_t count = counts[draw(state) % ARRAY_SIZE(counts)], number, i;

	memcpy(vmcs12, burst->vmcs12, burst->vmcs12_size);
	memcpy(image, burst->image, burst->alone.size);
	number = draw(state) % burst->fields;
	for (i = 0; i < count; i++) {
		uint64_t chance = draw(state);

		if (i)
			number = chance & 1 ? (chance >> 1) % burst->fields :
				 (number + (chance >> 1) % NEAR) % burst->fields;
		told->edit[i].field = number;
		told->edit[i].value = drawn_value(burst, number, state);
		edit(burst, &told->edit[i]);
	}
	told->edits = count;
}

/* The neighbour as an input: where it is found if the process dies of it. */
static void write_input(const struct nvmx_burst *burst, const struct nvmx_told *told)
{
	uint32_t at = burst->input_head, i;

	for (i = 0; i < told->edits; i++) {
		const struct nvmx_field *field = &burst->field[told->edit[i].field];

		put((char *)burst->input + at, field->slot, 2);
		put((char *)burst->input + at + 2, told->edit[i].value, field->size);
		at += 2 + field->size;
	}
	*burst->input_size = at;
}

/* ------------------------------------------------------------------ running */

static uint64_t mixed(uint64_t key, uint64_t word)
{
	uint64_t state = key ^ word;

	return draw(&state);
}

static struct nvmx_outcome is(uint32_t kind, uint32_t number, uint64_t qualification)
{
	return (struct nvmx_outcome){ kind, number, qualification };
}

static struct nvmx_outcome by_flags(const struct nvmx_ran *ran)
{
	if (ran->rflags & RFLAGS_CF)
		return is(NVMX_FAIL_INVALID, 0, 0);
	if (ran->rflags & RFLAGS_ZF)
		return is(NVMX_FAIL_VALID, ran->instruction_error, 0);
	return is(NVMX_NO_END, 0, 0);
}

static struct nvmx_outcome by_exit(const struct nvmx_ran *ran)
{
	if (!(ran->exit_reason & ENTRY_FAILURE))
		return is(NVMX_NO_END, 0, 0);
	return is(NVMX_EXIT, ran->exit_reason & BASIC_REASON, ran->exit_qualification);
}

/* nested_vmx_run() alone. */
static struct nvmx_outcome software_end(const struct nvmx_ran *ran)
{
	struct nvmx_outcome end;

	if (ran->in_l2)
		return is(NVMX_ENTERED, 0, 0);
	if (!ran->value)
		return is(NVMX_NO_END, 0, 0);
	if (ran->exception & EXCEPTION_PENDING && (ran->exception & 0xff) != VECTOR_DB)
		return is(NVMX_FAULT, ran->exception & 0xff, 0);
	end = by_flags(ran);
	return end.kind == NVMX_NO_END ? by_exit(ran) : end;
}

/* After KVM_RUN. */
static struct nvmx_outcome last_end(const struct nvmx_ran *ran)
{
	struct nvmx_outcome end = by_exit(ran);
	uint32_t reason = ran->exit_reason & BASIC_REASON;

	if (end.kind != NVMX_NO_END)
		return end;
	if (reason == EXIT_VMCALL || reason == EXIT_PREEMPTION_TIMER)
		return is(NVMX_ENTERED, 0, 0);
	return by_flags(ran);
}

static int begin_anew(const struct nvmx_burst *burst)
{
	int refused = nvmx_restore(burst->snapshot);
	uint32_t i;

	for (i = 0; !refused && i < burst->pieces; i++)
		memcpy(burst->piece[i].at, burst->piece[i].data, burst->piece[i].size);
	return refused;
}

/* Texts are told apart by where they lie in the object: addresses differ from run to run. */
static uint64_t place_of(const char *text)
{
	return object_offset((uint64_t)text);
}

/* The first check that failed, and the first warning. */
static uint64_t said(void)
{
	uint64_t check = nvmx_result.checks ? place_of(nvmx_result.check[0].text) : 0;
	const struct nvmx_site *warning = &nvmx_result.warning[0];

	if (!nvmx_result.warnings)
		return check;
	return mixed(mixed(check, place_of(warning->where)), warning->line);
}

/* How a call ended that did not return. */
static uint64_t stopped(uint64_t text)
{
	const char *at;

	text = mixed(mixed(text, nvmx_result.status), nvmx_result.fault_offset);
	for (at = nvmx_result.message; *at; at++)
		text = mixed(text, *at);
	return text;
}

/* nvmx_run_loop() does not run an L2 after KVM has said something. */
static int is_left(int32_t done, const struct nvmx_ran *ran)
{
	return nvmx_result.status == NVMX_RETURNED && !done && ran->in_l2 &&
	       ran->mp_state == MP_RUNNABLE;
}

/* What KVM said, for the key; `told` gets how it ended, `harm` whether KVM did not get over it. */
static uint64_t run_kvm(const struct nvmx_burst *burst, struct nvmx_told *told, int heap, int *harm)
{
	struct nvmx_ran *ran = burst->loop->ran;
	uint64_t text;
	int32_t done;

	done = nvmx_call((void *)nvmx_run_loop, (uint64_t)burst->loop, (uint64_t)burst->l1,
			 (uint64_t)vmcs12, burst->launch, 0, 0);
	text = said();
	*harm = nvmx_result.warnings;
	if (is_left(done, ran)) {
		nvmx_set_below(burst->loop->below);
		done = nvmx_call((void *)nvmx_run_l2, (uint64_t)burst->loop->vcpu,
				 burst->loop->file, (uint64_t)ran, 0, 0, 0);
		done = done ? done : 1;
		text = mixed(text, said());
	}
	*harm |= nvmx_result.warnings || done < 0;
	if (nvmx_result.status == NVMX_RETURNED && done >= 0)
		told->kvm = done ? last_end(ran) : software_end(ran);
	if (nvmx_result.status == NVMX_RETURNED && heap)
		nvmx_call((void *)nvmx_check_heap, 0, 0, 0, 0, 0, 0);
	if (nvmx_result.status == NVMX_RETURNED)
		return text;
	*harm = 1;
	return stopped(text);
}

static int panicked(const struct nvmx_function *function)
{
	uint64_t i;

	for (i = 0; i < function->end->lines; i++)
		if (function->end->line[i].level != function->harmless)
			return 1;
	return 0;
}

static struct nvmx_outcome run_alone(const struct nvmx_burst *burst)
{
	const struct nvmx_function *alone = &burst->alone;
	const struct nvmx_end *end = alone->end;
	struct nvmx_outcome outcome = is(NVMX_NO_END, 0, 0);

	alone->enter(alone->state, image, alone->instruction[!burst->launch]);
	if (end->missing)
		burst->forget();
	if (panicked(alone))
		return outcome;
	if (end->kind == alone->entered)
		outcome.kind = NVMX_ENTERED;
	else if (end->kind == alone->exited)
		outcome = is(NVMX_EXIT, end->argument[1] & BASIC_REASON, end->argument[2]);
	else if (end->kind == alone->faulted)
		outcome = is(NVMX_FAULT, end->argument[0] & 0xff, 0);
	else if (end->kind == alone->returned)
		outcome = *alone->error ? is(NVMX_FAIL_VALID, *alone->error, 0) :
					  is(NVMX_FAIL_INVALID, 0, 0);
	return outcome;
}

/* ------------------------------------------------------------------ what is told */

static uint64_t mixed_outcome(uint64_t key, const struct nvmx_outcome *outcome)
{
	key = mixed(key, (uint64_t)outcome->kind << 32 | outcome->number);
	return mixed(key, outcome->qualification);
}

/* How often there was such a one, with this one; 0 if there is no room to know. */
static uint64_t times(struct nvmx_burst *burst, uint64_t key)
{
	uint32_t i;

	key |= 1;	/* an empty place has none */
	for (i = 0; i < PROBES; i++) {
		struct nvmx_known *known = &burst->known[(key + i) & (burst->knowns - 1)];

		if (!known->key)
			known->key = key;
		if (known->key == key)
			return ++known->count;
	}
	return 0;
}

static int is_edge(const struct nvmx_burst *burst, const uint8_t *counters)
{
	int found = 0;
	uint32_t i;

	for (i = burst->first_edge; i < burst->last_edge; i++)
		if (counters[i] && !burst->edges[i]) {
			burst->edges[i] = 1;
			found = 1;
		}
	return found;
}

/* Of what neither lets pass, the field that was edited says nothing: most are broken before. */
static uint64_t kind_of(const struct nvmx_told *told, uint64_t text)
{
	uint64_t key = mixed_outcome(mixed_outcome(text, &told->kvm), &told->alone);

	if (told->kvm.kind == NVMX_ENTERED || told->alone.kind == NVMX_ENTERED)
		key = mixed(key, told->edit[0].field);
	return key;
}

static int differs(const struct nvmx_told *told)
{
	return told->alone.kind != NVMX_NO_END && told->kvm.kind != NVMX_NO_END &&
	       memcmp(&told->kvm, &told->alone, sizeof(told->kvm));
}

/*
 * Harm and differences are reasons ever more seldom: the 1st, 4th, 16th, 64th ... time, and where
 * there is no room to count.
 */
static void weigh(struct nvmx_burst *burst, struct nvmx_told *told, uint64_t text, int harm)
{
	uint64_t count = times(burst, kind_of(told, text));
	int due = !(count & (count - 1)) && !(count & EVERY_OTHER_BIT);

	burst->compared += told->alone.kind != NVMX_NO_END && told->kvm.kind != NVMX_NO_END;
	burst->different += differs(told);
	told->reasons |= (count == 1 ? NVMX_IS_NEW : 0) |
			 (due && differs(told) ? NVMX_IS_DIFFERENT : 0) |
			 (due && harm ? NVMX_IS_HARM : 0);
}

/* ------------------------------------------------------------------ the burst */

/* Whether it can go on. */
static int run_one(struct nvmx_burst *burst, uint64_t *state, unsigned char *counters)
{
	struct nvmx_told *told = &burst->told[burst->tolds];
	uint64_t text, chance;
	int harm;

	memset(told, 0, sizeof(*told));
	memset(counters + burst->first_edge, 0, burst->last_edge - burst->first_edge);
	draw_edits(burst, told, state);
	write_input(burst, told);
	chance = draw(state);
	text = run_kvm(burst, told, chance / SAMPLE_OF % HEAP_OF == 0, &harm);
	told->alone = run_alone(burst);
	burst->entries++;
	weigh(burst, told, text, harm);
	told->reasons |= (is_edge(burst, counters) ? NVMX_IS_EDGE : 0) |
			 (chance % SAMPLE_OF == 0 ? NVMX_IS_SAMPLE : 0);
	burst->tolds += told->reasons != 0;
	return nvmx_result.status == NVMX_RETURNED;
}

int nvmx_run_burst(struct nvmx_burst *burst)
{
	uint64_t state = burst->seed;
	unsigned char *counters;
	nvmx_u64 *table;
	int refused = 0;
	uint32_t i;

	if (guard.armed || guard.in_port)
		return NVMX_IN_CALL;
	nvmx_counters(&counters, &table);
	burst->tolds = 0;
	for (i = 0; i < burst->count; i++) {
		refused = begin_anew(burst);
		if (refused || !run_one(burst, &state, counters))
			break;
	}
	return refused ? refused : nvmx_restore(burst->snapshot);
}
