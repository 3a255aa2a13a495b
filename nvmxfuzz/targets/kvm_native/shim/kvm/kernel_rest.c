// SPDX-License-Identifier: GPL-2.0-only
/*
 * Small things that need the kernel's types: timers, notifiers, pages, caches.
 * May lie: no timer ever fires, no notifier is ever called but at the end of a VM.
 */
#include <linux/kvm_host.h>
#include <linux/hrtimer.h>
#include <linux/mmu_notifier.h>
#include <linux/msi.h>
#include <linux/refcount.h>
#include <linux/slab.h>
#include <linux/version.h>
#include "nvmx.h"

/* ------------------------------------------------------------------ timers and notifiers */

static struct hrtimer_clock_base clock = { .get_time = ktime_get };

void hrtimer_init(struct hrtimer *timer, clockid_t which, enum hrtimer_mode mode)
{
	memset(timer, 0, sizeof(*timer));
	timer->base = &clock;
}

/* The process that owns the VM goes away with it. */
void mmu_notifier_unregister(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	if (notifier->ops->release)
		notifier->ops->release(notifier, mm);
}

/* No time passes for the task. */
void task_cputime_adjusted(struct task_struct *task, u64 *user, u64 *system)
{
	*user = *system = 0;
}

/* The APIC that a message is for; an extended ID has 24 more bits. */
u32 x86_msi_msg_get_destid(struct msi_msg *message, bool extended)
{
	u32 low = message->arch_addr_lo.destid_0_7;

	return extended ? low | message->arch_addr_hi.destid_8_31 << 8 : low;
}

/* ------------------------------------------------------------------ pages */

const unsigned long shim_sizeof_page = sizeof(struct page);
const unsigned int shim_gfp_zero = (__force unsigned int)__GFP_ZERO;

void shim_pages_born(void *pages, unsigned long count)
{
	struct page *page = pages;

	memset(page, 0, count * sizeof(*page));
	while (count--)
		set_page_count(page++, 1);
}

void shim_page_get(void *page)
{
	page_ref_inc(page);
}

/* ------------------------------------------------------------------ caches, counters */

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
struct kmem_cache *__kmem_cache_create_args(const char *name, unsigned int size,
					    struct kmem_cache_args *arguments, slab_flags_t flags)
{
	return shim_new_cache(size, arguments->ctor);
}
#endif

void refcount_warn_saturate(refcount_t *counter, enum refcount_saturation_type type)
{
	WARN(1, "reference counter saturated or used after free, kind %d\n", type);
}
