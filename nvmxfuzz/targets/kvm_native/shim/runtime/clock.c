/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The time limit: a timer of the calling thread's processor time ticks while there are guarded
 * calls; a call that has seen enough ticks is in a loop without a step in it. It is armed by a
 * call and disarms itself after ticks without one, so that it costs a call nothing.
 */
#include "runtime.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TICKS 4		/* a second */
#define NUMBER SIGVTALRM
#define IDLE 8		/* ticks without a call, until the timer is stopped */

static struct {
	int exists, ticking, hooked;
	timer_t timer;
	uint64_t call;		/* the one seen at the last tick */
	uint32_t ticks, idle;
	struct sigaction previous;
} watch KEPT = { .exists = 0 };

static void set_interval(long nanoseconds)
{
	struct itimerspec interval = {
		.it_interval.tv_nsec = nanoseconds, .it_value.tv_nsec = nanoseconds,
	};

	timer_settime(watch.timer, 0, &interval, NULL);
	watch.ticking = nanoseconds != 0;
}

static void unblock(void)
{
	sigset_t ticks;

	sigemptyset(&ticks);
	sigaddset(&ticks, NUMBER);
	pthread_sigmask(SIG_UNBLOCK, &ticks, NULL);
}

static void tick(void)
{
	int same = watch.call == guard.calls;

	watch.idle = same && !guard.armed ? watch.idle + 1 : 0;
	watch.ticks = same && guard.armed ? watch.ticks + 1 : 0;
	watch.call = guard.calls;
	if (watch.idle > IDLE)
		set_interval(0);
	if (nvmx_seconds && watch.ticks > nvmx_seconds * TICKS && !touched_is_noting()) {
		unblock();	/* the jump does not */
		stop(NVMX_TIME, "no end within %u seconds", nvmx_seconds);
	}
}

static void on_tick(int number, siginfo_t *info, void *context)
{
	int error = errno;

	if (info->si_code == SI_TIMER && info->si_value.sival_ptr == &watch)
		tick();
	else if (watch.previous.sa_flags & SA_SIGINFO)
		watch.previous.sa_sigaction(number, info, context);
	else if (watch.previous.sa_handler != SIG_DFL && watch.previous.sa_handler != SIG_IGN)
		watch.previous.sa_handler(number);
	errno = error;
}

/* A child process has none of its parent's timers. */
static void forget_timer(void)
{
	watch.exists = watch.ticking = 0;
}

/* The timers of many objects may tick at once: one at a time, or the handlers' stack is used up. */
static void hook(void)
{
	struct sigaction action = {
		.sa_sigaction = on_tick,
		.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART,
	};

	sigaction(NUMBER, &action, &watch.previous);
	pthread_atfork(NULL, NULL, forget_timer);
	watch.hooked = 1;
}

static void start(void)
{
	struct sigevent event = {
		.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = NUMBER,
		.sigev_value.sival_ptr = &watch,
	};

	event._sigev_un._tid = syscall(SYS_gettid);
	if (!watch.hooked)
		hook();
	if (!watch.exists)
		watch.exists = !timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &watch.timer);
	watch.ticks = watch.idle = 0;
	if (watch.exists)
		set_interval(1000000000L / TICKS);
	else
		watch.ticking = 1;	/* no timers here: do not ask at each call */
}

void clock_want(void)
{
	if (unlikely(!watch.ticking && nvmx_seconds))
		start();
}
