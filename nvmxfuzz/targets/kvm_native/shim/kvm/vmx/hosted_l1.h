/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * L1 put back into a given state after whatever an entry did to it: part of hosted_nested.c.
 * May lie: written are the registers, segments and modes that VM entry and VM exit change, not
 * the MSRs that an MSR-load list may name; a snapshot brings those back.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
#define RUN_PENDING(vcpu) ((vcpu)->arch.nested_run_pending)
#else
#define RUN_PENDING(vcpu) (to_vmx(vcpu)->nested.nested_run_pending)
#endif

#define NO_VMCS (~0ull)
#define L1_PAT 0x0007040600070406ull
#define FLAT_CODE_64 0xa09b
#define FLAT_CODE_32 0xc09b
#define FLAT_DATA 0xc093

/* Fields of vmcs01 that are the same in each L1. */
static const struct { u32 field; u64 value; } l1_fields[] = {
	{ GUEST_ES_SELECTOR, 16 }, { GUEST_ES_BASE, 0 },
	{ GUEST_ES_LIMIT, 0xffffffff }, { GUEST_ES_AR_BYTES, FLAT_DATA },
	{ GUEST_DS_SELECTOR, 16 }, { GUEST_DS_BASE, 0 },
	{ GUEST_DS_LIMIT, 0xffffffff }, { GUEST_DS_AR_BYTES, FLAT_DATA },
	{ GUEST_FS_SELECTOR, 16 }, { GUEST_FS_BASE, 0 },
	{ GUEST_FS_LIMIT, 0xffffffff }, { GUEST_FS_AR_BYTES, FLAT_DATA },
	{ GUEST_GS_SELECTOR, 16 }, { GUEST_GS_BASE, 0 },
	{ GUEST_GS_LIMIT, 0xffffffff }, { GUEST_GS_AR_BYTES, FLAT_DATA },
	{ GUEST_CS_BASE, 0 }, { GUEST_CS_LIMIT, 0xffffffff },
	{ GUEST_SS_BASE, 0 }, { GUEST_SS_LIMIT, 0xffffffff },
	{ GUEST_LDTR_SELECTOR, 0 }, { GUEST_LDTR_BASE, 0 },
	{ GUEST_LDTR_LIMIT, 0 }, { GUEST_LDTR_AR_BYTES, 0x10082 },
	{ GUEST_TR_SELECTOR, 24 }, { GUEST_TR_BASE, 0 },
	{ GUEST_TR_LIMIT, 0x67 }, { GUEST_TR_AR_BYTES, 0x8b },
	{ GUEST_GDTR_BASE, 0 }, { GUEST_GDTR_LIMIT, 0xff },
	{ GUEST_IDTR_BASE, 0 }, { GUEST_IDTR_LIMIT, 0xff },
	{ GUEST_SYSENTER_CS, 0 }, { GUEST_SYSENTER_ESP, 0 }, { GUEST_SYSENTER_EIP, 0 },
	{ GUEST_IA32_DEBUGCTL, 0 }, { GUEST_DR7, 0x400 }, { GUEST_IA32_PAT, L1_PAT },
	{ GUEST_PENDING_DBG_EXCEPTIONS, 0 }, { GUEST_BNDCFGS, 0 },
	{ GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_ACTIVE },
	{ VM_ENTRY_INTR_INFO_FIELD, 0 },
};

static void leave_l2(struct kvm_vcpu *vcpu)
{
	RUN_PENDING(vcpu) = 0;
	to_vmx(vcpu)->fail = 0;
	if (is_guest_mode(vcpu))
		nested_vmx_vmexit(vcpu, -1, 0, 0);	/* writes no exit into vmcs12 */
	RUN_PENDING(vcpu) = 0;
}

static void drop_events(struct kvm_vcpu *vcpu)
{
	vcpu->requests = 0;
	kvm_clear_exception_queue(vcpu);
	kvm_clear_interrupt_queue(vcpu);
	vcpu->arch.nmi_injected = false;
	vcpu->arch.nmi_pending = 0;
	vcpu->arch.mp_state = KVM_MP_STATE_RUNNABLE;
}

static void write_modes(struct kvm_vcpu *vcpu, const struct nvmx_l1 *l1)
{
	bool same = kvm_read_cr0(vcpu) == l1->cr0 && kvm_read_cr4(vcpu) == l1->cr4 &&
		    vcpu->arch.efer == l1->efer && kvm_read_cr3(vcpu) == l1->cr3;

	if (same)
		return;
	vcpu->arch.cr3 = l1->cr3;
	kvm_register_mark_dirty(vcpu, VCPU_EXREG_CR3);
	vmx_set_efer(vcpu, l1->efer);
	vmx_set_cr0(vcpu, l1->cr0);
	vcpu->arch.cr0 = l1->cr0;
	vmx_set_cr4(vcpu, l1->cr4);
	kvm_mmu_reset_context(vcpu);
}

static void write_segments(struct kvm_vcpu *vcpu, const struct nvmx_l1 *l1)
{
	u32 dpl = (l1->cpl & 3) << 5;
	int i;

	for (i = 0; i < ARRAY_SIZE(l1_fields); i++)
		shim_vmwrite(l1_fields[i].field, l1_fields[i].value);
	vmcs_write16(GUEST_CS_SELECTOR, 8 | (l1->cpl & 3));
	vmcs_write16(GUEST_SS_SELECTOR, 16 | (l1->cpl & 3));
	vmcs_write32(GUEST_CS_AR_BYTES, (l1->cs_l ? FLAT_CODE_64 : FLAT_CODE_32) | dpl);
	vmcs_write32(GUEST_SS_AR_BYTES, FLAT_DATA | dpl);
	vmcs_write32(GUEST_INTERRUPTIBILITY_INFO, l1->interruptibility);
	to_vmx(vcpu)->segment_cache.bitmask = 0;
	vcpu->arch.pat = L1_PAT;
}

static void write_registers(struct kvm_vcpu *vcpu, const struct nvmx_l1 *l1)
{
	kvm_rip_write(vcpu, 0x1000);
	kvm_rsp_write(vcpu, 0x7000);
	vmx_set_rflags(vcpu, l1->rflags | X86_EFLAGS_FIXED);
	vcpu->arch.dr7 = 0x400;
}

static void write_vmx_operation(struct kvm_vcpu *vcpu, const struct nvmx_l1 *l1)
{
	struct vcpu_vmx *vmx = to_vmx(vcpu);

	if (l1->vmxon_pointer == NO_VMCS) {
		free_nested(vcpu);
		vmx->nested.vmxon_ptr = NO_VMCS;
		return;
	}
	vmx->nested.vmxon_ptr = l1->vmxon_pointer;
	if (!vmx->nested.vmxon && enter_vmx_operation(vcpu))
		shim_stop(NVMX_BUG, "the vCPU cannot enter VMX operation");
	if (vmx->nested.current_vmptr == l1->current_vmcs)
		return;
	if (l1->current_vmcs == NO_VMCS)
		vmx->nested.current_vmptr = NO_VMCS;
	else
		set_current_vmptr(vmx, l1->current_vmcs);
}

static void reset_l1(struct kvm_vcpu *vcpu, const struct nvmx_l1 *l1)
{
	leave_l2(vcpu);
	drop_events(vcpu);
	write_modes(vcpu, l1);
	write_segments(vcpu, l1);
	write_registers(vcpu, l1);
	write_vmx_operation(vcpu, l1);
}
