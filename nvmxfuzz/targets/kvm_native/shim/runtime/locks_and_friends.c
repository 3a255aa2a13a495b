/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What KVM calls in the rest of the kernel and what has nothing to do here. There is one thread,
 * one processor, nobody else. Each group says why it may lie.
 */
#include "runtime.h"
#include <errno.h>

#define NOTHING(name) long name(void) { return 0; }
#define ANSWER(name, value) long name(void) { return value; }
#define OBJECT(name, size) void *name(void) { return heap_take(size, 1); }
#define FREES(name) long name(void *object) { heap_give(object); return 0; }

long shim_return0(void)
{
	return 0;
}

/* Locks: nobody contends. May lie: a lock taken twice, or left taken, is not noticed. */
NOTHING(mutex_lock)
NOTHING(mutex_unlock)
NOTHING(mutex_lock_killable)
NOTHING(mutex_lock_interruptible)
ANSWER(mutex_trylock, 1)
ANSWER(mutex_is_locked, 1)
NOTHING(__mutex_init)
NOTHING(mutex_init_generic)
NOTHING(__init_rwsem)
NOTHING(down_read)
NOTHING(up_read)
NOTHING(down_write)
NOTHING(up_write)
NOTHING(debug_locks_off)
NOTHING(__init_swait_queue_head)

/* SRCU: as locks. call_rcu() is in kernel_files.c. */
NOTHING(init_srcu_struct)
NOTHING(cleanup_srcu_struct)
NOTHING(__srcu_read_lock)
NOTHING(__srcu_read_unlock)
NOTHING(synchronize_srcu)
NOTHING(synchronize_srcu_expedited)
NOTHING(synchronize_rcu)

/* Scheduling: nobody else runs. May lie: nothing is ever preempted or migrated. */
NOTHING(__cond_resched)
NOTHING(__cond_resched_rwlock_read)
NOTHING(__cond_resched_rwlock_write)
NOTHING(__local_bh_enable_ip)
NOTHING(preempt_notifier_inc)
NOTHING(preempt_notifier_dec)
NOTHING(preempt_notifier_register)
NOTHING(preempt_notifier_unregister)
NOTHING(preempt_schedule_thunk)
NOTHING(migrate_disable)
NOTHING(migrate_enable)
ANSWER(single_task_running, 1)
NOTHING(yield_to)
NOTHING(rcuwait_wake_up)
NOTHING(set_user_nice)
NOTHING(wake_up_process)
NOTHING(complete)
NOTHING(wait_for_completion)
NOTHING(__delay)
NOTHING(__ndelay)

/* Work, threads, timers: started and never run. May lie: whatever they would have changed. */
OBJECT(alloc_workqueue, 64)
OBJECT(alloc_workqueue_noprof, 64)
FREES(destroy_workqueue)
NOTHING(queue_work_on)
NOTHING(queue_delayed_work_on)
NOTHING(cancel_work_sync)
NOTHING(cancel_delayed_work_sync)
NOTHING(flush_work)
NOTHING(__flush_workqueue)
OBJECT(kthread_create_worker, 256)
OBJECT(kthread_create_worker_on_node, 256)
FREES(kthread_destroy_worker)
NOTHING(kthread_queue_work)
NOTHING(kthread_flush_work)
OBJECT(kthread_create_on_node, 8192)
NOTHING(kthread_park)
NOTHING(kthread_unpark)
NOTHING(kthread_parkme)
FREES(kthread_stop)
NOTHING(kthread_should_stop)
OBJECT(vhost_task_create, 64)
NOTHING(vhost_task_start)
FREES(vhost_task_stop)
NOTHING(vhost_task_wake)
NOTHING(irq_work_queue)
NOTHING(irq_work_sync)
NOTHING(hrtimer_cancel)
NOTHING(hrtimer_try_to_cancel)
NOTHING(hrtimer_start_range_ns)
NOTHING(__hrtimer_get_remaining)
NOTHING(init_timer_key)
NOTHING(timer_init_key)
ANSWER(__msecs_to_jiffies, 1)

/* Registrations with subsystems that are not there: none of them ever calls back. */
NOTHING(mmu_notifier_register)
NOTHING(__mmdrop)
NOTHING(mmput)
NOTHING(register_syscore_ops)
NOTHING(unregister_syscore_ops)
NOTHING(register_syscore)
NOTHING(unregister_syscore)
NOTHING(register_reboot_notifier)
NOTHING(unregister_reboot_notifier)
NOTHING(__cpuhp_remove_state)
NOTHING(pvclock_gtod_register_notifier)
NOTHING(pvclock_gtod_unregister_notifier)
NOTHING(perf_register_guest_info_callbacks)
NOTHING(perf_unregister_guest_info_callbacks)
NOTHING(cpu_emergency_register_virt_callback)
NOTHING(cpu_emergency_unregister_virt_callback)
NOTHING(x86_virt_register_emergency_callback)
NOTHING(x86_virt_unregister_emergency_callback)
NOTHING(x86_virt_get_ref)
NOTHING(x86_virt_put_ref)
NOTHING(kvm_set_posted_intr_wakeup_handler)
NOTHING(register_shrinker)
NOTHING(unregister_shrinker)
OBJECT(shrinker_alloc, 256)
NOTHING(shrinker_register)
FREES(shrinker_free)
NOTHING(user_return_notifier_register)
NOTHING(user_return_notifier_unregister)
NOTHING(irq_bypass_unregister_consumer)
NOTHING(kobject_uevent_env)
NOTHING(add_uevent_var)
NOTHING(devm_add_action)
NOTHING(__devm_add_action)
NOTHING(kvm_gmem_init)
NOTHING(kvm_gmem_exit)
NOTHING(kvm_gmem_bind)
NOTHING(kvm_gmem_unbind)

/* Tasks and files beyond KVM's own: there are none. */
NOTHING(put_pid)
NOTHING(get_task_pid)
NOTHING(get_pid_task)
NOTHING(pid_vnr)
NOTHING(__put_task_struct)
NOTHING(send_sig_mceerr)
NOTHING(fget)
NOTHING(fdget)
NOTHING(__fdget)
ANSWER(eventfd_ctx_fdget, -EBADF)
ANSWER(eventfd_ctx_fileget, -EINVAL)
NOTHING(eventfd_signal_mask)

/* Host state that a return to user space would bring back. May lie: the FPU is never switched. */
NOTHING(load_direct_gdt)
NOTHING(load_fixmap_gdt)
NOTHING(current_save_fsgs)
NOTHING(asm_load_gs_index)
NOTHING(switch_fpu_return)
NOTHING(fpu_enable_guest_xfd_features)
NOTHING(fpu_sync_guest_vmexit_xfd_state)
NOTHING(fpu_swap_kvm_fpstate)
NOTHING(fpu_update_guest_xfd)
NOTHING(fpstate_clear_xstate_component)
ANSWER(xstate_get_guest_group_perm, 7)
NOTHING(write_ibpb)

/* The handlers of the host's interrupts and NMIs find nothing to do. */
NOTHING(vmx_do_interrupt_irqoff)
NOTHING(vmx_do_nmi_irqoff)
NOTHING(vmx_do_interrupt_nmi_irqoff)
NOTHING(x86_entry_from_kvm)
NOTHING(handle_guest_split_lock)

/* What the host knows of its processor and platform: nothing out of the ordinary. */
NOTHING(x86_match_cpu)
ANSWER(cpu_mitigations_off, 1)
ANSWER(gds_ucode_mitigated, 1)
NOTHING(check_tsc_unstable)
NOTHING(mark_tsc_unstable)
ANSWER(pat_enabled, 1)
NOTHING(pat_pfn_immune_to_uc_mtrr)
NOTHING(e820__mapped_raw_any)
NOTHING(intel_pt_handle_vmx)
NOTHING(intel_pt_validate_cap)
NOTHING(intel_pt_validate_hw_cap)
NOTHING(sgx_set_attribute)
NOTHING(set_memory_decrypted)
NOTHING(set_memory_encrypted)
NOTHING(mark_page_accessed)

/* Performance events: the host has none to give. */
NOTHING(perf_guest_get_msrs)
ANSWER(perf_get_hw_event_config, 0xc0)	/* KVM warns of 0; the event itself is never counted */
NOTHING(x86_perf_get_lbr)
ANSWER(perf_event_create_kernel_counter, -ENOENT)
NOTHING(perf_load_guest_context)
NOTHING(perf_put_guest_context)
NOTHING(perf_load_guest_lvtpc)
NOTHING(perf_put_guest_lvtpc)
NOTHING(perf_create_mediated_pmu)
NOTHING(perf_release_mediated_pmu)

/* A hypervisor below that takes pages of L0 away: there is none. */
NOTHING(kvm_read_and_reset_apf_flags)

/* Hyper-V below, where KVM asks for its hypercalls. May lie: flushes have nothing to do. */
NOTHING(hyperv_flush_guest_mapping)
NOTHING(hyperv_flush_guest_mapping_range)

void *get_cpu_entry_area(void)
{
	static void *area;

	if (!area)
		area = heap_take(64 * PAGE, 1);
	return area;
}

/* The processor is this one. */
int __cpuhp_setup_state(int state, const char *name, int invoke, int (*startup)(unsigned int cpu))
{
	(void)state, (void)name;
	return invoke && startup ? startup(0) : 0;
}

int smp_call_function_single(int cpu, void (*function)(void *argument), void *argument)
{
	unsigned long before = shim_interrupts;

	(void)cpu;
	shim_interrupts = 0;
	function(argument);
	shim_interrupts = before;
	return 0;
}

void on_each_cpu_cond_mask(int (*condition)(int cpu, void *argument),
			   void (*function)(void *argument), void *argument)
{
	if (!condition || (condition(0, argument) & 1))
		smp_call_function_single(0, function, argument);
}
