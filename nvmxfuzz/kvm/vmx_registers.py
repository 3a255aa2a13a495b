# SPDX-License-Identifier: GPL-2.0-only
"""vmx_set_efer(), vmx_set_cr0() and their like: a register of the vCPU, put into the loaded VMCS.

vmx/vmx.c and x86.c. What a guest asks for and what the processor is given differ: KVM keeps bits
for itself, switches EFER as it sees fit, and intercepts what it must. L1 and L2 share these.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.events import Vector
from nvmxfuzz.arch.msr import MSR_EFER
from nvmxfuzz.arch.registers import Cr0, Cr4, DebugCtl, Efer
from nvmxfuzz.arch.segments import AccessRights
from nvmxfuzz.kvm.check_values import nested_cpu_has2
from nvmxfuzz.kvm.guest_state_valid import guest_segments_valid
from nvmxfuzz.kvm.segments import (
    enter_pmode,
    enter_rmode,
    hardware_rflags,
    is_unrestricted_guest,
    read_segment,
    segment_of,
    vmx_segment_access_rights,
    write_segment,
)
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES

KVM_VM_CR0_ALWAYS_OFF = Cr0.NW | Cr0.CD
KVM_POSSIBLE_CR0_GUEST_BITS = Cr0.TS | Cr0.WP
KVM_POSSIBLE_CR4_GUEST_BITS = (
    Cr4.PVI | Cr4.DE | Cr4.PCE | Cr4.OSFXSR | Cr4.OSXMMEXCPT | Cr4.PGE | Cr4.TSD | Cr4.FSGSBASE
)
X86_CR4_TLBFLUSH_BITS = Cr4.PGE | Cr4.PCIDE | Cr4.PAE | Cr4.SMEP
X86_CR4_PDPTR_BITS = Cr4.PGE | Cr4.PSE | Cr4.PAE | Cr4.SMEP
CR3_EXITING_BITS = Primary.CR3_LOAD_EXITING | Primary.CR3_STORE_EXITING

DR7_VOLATILE = 0xFFFF_2BFF
DR7_FIXED_1 = 0x400

CET_FIELDS = ("guest_s_cet", "guest_ssp", "guest_intr_ssp_table")

_EFER_SWITCH = VmEntry.LOAD_IA32_EFER, VmExit.LOAD_IA32_EFER
_NOT_WITHOUT_PAGING = ~(Cr4.SMEP | Cr4.SMAP | Cr4.PKE)


def is_paging(vcpu: Vcpu) -> bool:
    """Whether CR0.PG is 1."""
    return vcpu.cr0 & Cr0.PG != 0


def is_pae_paging(vcpu: Vcpu) -> bool:
    """Whether the vCPU uses PAE paging, with PDPTEs in registers."""
    return vcpu.cr0 & Cr0.PG != 0 and vcpu.cr4 & Cr4.PAE != 0 and not vcpu.efer & Efer.LMA


def cpu_has_load_ia32_efer(vcpu: Vcpu) -> bool:
    """Whether KVM lets VM entry and VM exit switch EFER."""
    return vcpu.kvm.config.vmentry_ctrl & VmEntry.LOAD_IA32_EFER != 0


def vmx_guest_state_valid(vcpu: Vcpu) -> bool:
    """Whether hardware can run the guest with the segments of the loaded VMCS."""
    if is_unrestricted_guest(vcpu):
        return True
    vmcs = vcpu.vmcs if vcpu.rmode is None else _believed_segments(vcpu)
    return guest_segments_valid(vmcs, vcpu.cr0, vcpu.rflags)


def _believed_segments(vcpu: Vcpu) -> dict[str, int]:
    """Return the segments that a guest in real-address mode has, by the names of VMCS fields."""
    fields = {}
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        segment = read_segment(vcpu, name)
        fields[f"guest_{name}_base"] = segment.base
        fields[f"guest_{name}_limit"] = segment.limit
        fields[f"guest_{name}_selector"] = segment.selector
        absent = 0 if segment.present & 1 else int(AccessRights.UNUSABLE)
        fields[f"guest_{name}_ar_bytes"] = vmx_segment_access_rights(segment) | absent
    return fields


def vmx_need_pf_intercept(vcpu: Vcpu) -> bool:
    """Whether KVM must see the guest's page faults."""
    if not vcpu.params.ept:
        return True
    return (
        vcpu.params.allow_smaller_maxphyaddr
        and vcpu.virtual.maxphyaddr < vcpu.kvm.hardware.maxphyaddr
    )


def vmx_umip_emulated(vcpu: Vcpu) -> bool:
    """Whether KVM emulates UMIP by intercepting the descriptor-table instructions."""
    return (
        not vcpu.kvm.host_umip
        and vcpu.kvm.config.cpu_based_2nd_exec_ctrl & Secondary.DESCRIPTOR_TABLE_EXITING != 0
    )


def vmx_l1_guest_owned_cr0_bits(vcpu: Vcpu) -> int:
    """Return the bits of CR0 that L1 may change without KVM's notice."""
    bits = KVM_POSSIBLE_CR0_GUEST_BITS
    return bits if vcpu.params.ept else bits & ~Cr0.WP


def set_cr4_guest_host_mask(vcpu: Vcpu) -> None:
    """Compute which bits of CR4 the guest may change itself, and tell the loaded VMCS."""
    owned = KVM_POSSIBLE_CR4_GUEST_BITS & ~vcpu.virtual.cr4_reserved
    if not vcpu.params.ept:
        owned &= ~(X86_CR4_TLBFLUSH_BITS | X86_CR4_PDPTR_BITS)
    if vcpu.guest_mode:
        owned &= ~vcpu.vmcs12.cr4_guest_host_mask
    vcpu.cr4_guest_owned_bits = owned
    vcpu.vmcs["cr4_guest_host_mask"] = ALL_ONES & ~owned


def vmx_update_exception_bitmap(vcpu: Vcpu) -> None:
    """Set which exceptions cause VM exits: KVM's own, and L1's while L2 runs."""
    bitmap = 1 << Vector.UD | 1 << Vector.MC | 1 << Vector.DB | 1 << Vector.AC
    if vmx_need_pf_intercept(vcpu):
        bitmap |= 1 << Vector.PF
    if vcpu.params.vmware_backdoor:
        bitmap |= 1 << Vector.GP
    vmcs = vcpu.vmcs
    if vcpu.rmode is not None:
        bitmap = 0xFFFF_FFFF
    if vcpu.guest_mode:
        bitmap |= vcpu.vmcs12.exception_bitmap
    else:
        faults = vcpu.params.ept and bitmap & 1 << Vector.PF
        vmcs["page_fault_error_code_mask"] = 9 if faults else 0
        vmcs["page_fault_error_code_match"] = 1 if faults else 0
    vmcs["exception_bitmap"] = bitmap


def vmx_set_rflags(vcpu: Vcpu, rflags: int) -> None:
    """Set RFLAGS."""
    vcpu.rflags = rflags
    vcpu.vmcs["guest_rflags"] = hardware_rflags(vcpu, rflags)


def vmx_set_efer(vcpu: Vcpu, efer: int) -> None:
    """Set EFER, and with it the entry control for IA-32e mode and the way EFER is switched."""
    vcpu.efer = efer
    if efer & Efer.LMA:
        vcpu.vmcs["vm_entry_controls"] |= VmEntry.IA_32E_MODE_GUEST
    else:
        vcpu.vmcs["vm_entry_controls"] &= ~VmEntry.IA_32E_MODE_GUEST
    update_transition_efer(vcpu)


def update_transition_efer(vcpu: Vcpu) -> None:
    """Have EFER switched by VMCS field, by MSR list, or by KVM outside of the VMCS."""
    efer = vcpu.efer if vcpu.params.ept else vcpu.efer | Efer.NXE
    host = vcpu.kvm.host.efer
    by_field = cpu_has_load_ia32_efer(vcpu)
    if by_field or (vcpu.params.ept and (vcpu.efer ^ host) & Efer.NXE):
        if not efer & Efer.LMA:
            efer &= ~Efer.LME
        if efer != host:
            add_atomic_switch_msr(vcpu, efer, by_field)
        else:
            clear_atomic_switch_msr(vcpu, by_field)
        return
    clear_atomic_switch_msr(vcpu, by_field)
    vcpu.uret_efer = user_return_efer(vcpu)


def user_return_efer(vcpu: Vcpu) -> int:
    """Return what EFER is while the guest runs where KVM switches it outside of the VMCS.

    Bits that VM entry and VM exit switch themselves, or that do not matter, are the host's.
    """
    efer = vcpu.efer if vcpu.params.ept else vcpu.efer | Efer.NXE
    ignored = Efer.LMA | Efer.LME | (0 if efer & Efer.LMA else Efer.SCE)
    return efer & ~ignored | vcpu.kvm.host.efer & ignored


def add_atomic_switch_msr(vcpu: Vcpu, efer: int, by_field: bool) -> None:
    """Let VM entry and VM exit switch EFER."""
    vmcs = vcpu.vmcs
    if by_field:
        vmcs["guest_ia32_efer"] = efer
        vmcs["vm_entry_controls"] |= _EFER_SWITCH[0]
        vmcs["vm_exit_controls"] |= _EFER_SWITCH[1]
        return
    if MSR_EFER not in vcpu.msr_autoload:
        vmcs["vm_entry_msr_load_count"] = len(vcpu.msr_autoload) + 1
        vmcs["vm_exit_msr_load_count"] = len(vcpu.msr_autoload) + 1
    vcpu.msr_autoload[MSR_EFER] = efer, vcpu.kvm.host.efer


def clear_atomic_switch_msr(vcpu: Vcpu, by_field: bool) -> None:
    """Let VM entry and VM exit leave EFER alone."""
    vmcs = vcpu.vmcs
    if by_field:
        vmcs["vm_entry_controls"] &= ~_EFER_SWITCH[0]
        vmcs["vm_exit_controls"] &= ~_EFER_SWITCH[1]
    elif vcpu.msr_autoload.pop(MSR_EFER, None) is not None:
        vmcs["vm_entry_msr_load_count"] = len(vcpu.msr_autoload)
        vmcs["vm_exit_msr_load_count"] = len(vcpu.msr_autoload)


def enter_lmode(vcpu: Vcpu) -> None:
    """Paging was turned on with EFER.LME: EFER.LMA follows, and TR is made a 64-bit TSS."""
    rights = vcpu.vmcs["guest_tr_ar_bytes"]
    if rights & 0xF != 0xB:
        vcpu.vmcs["guest_tr_ar_bytes"] = rights & ~0xF | 0xB
    vmx_set_efer(vcpu, vcpu.efer | Efer.LMA)


def vmx_set_cr0(vcpu: Vcpu, cr0: int) -> None:
    """Set CR0: what the guest reads, what it has, and the EFER.LMA that follows from paging."""
    params = vcpu.params
    old_paging = vcpu.cr0 & Cr0.PG
    hw_cr0 = cr0 & ~KVM_VM_CR0_ALWAYS_OFF | Cr0.NE
    if not params.unrestricted_guest:
        hw_cr0 |= Cr0.PG | Cr0.PE
        if not params.ept:
            hw_cr0 |= Cr0.WP
        if vcpu.rmode is not None and cr0 & Cr0.PE:
            enter_pmode(vcpu)
            vmx_update_exception_bitmap(vcpu)
        elif vcpu.rmode is None and not cr0 & Cr0.PE:
            enter_rmode(vcpu)
            vmx_update_exception_bitmap(vcpu)
    vcpu.vmcs["cr0_read_shadow"] = cr0
    vcpu.vmcs["guest_cr0"] = hw_cr0
    vcpu.cr0 = cr0
    if vcpu.efer & Efer.LME:
        if not old_paging and cr0 & Cr0.PG:
            enter_lmode(vcpu)
        elif old_paging and not cr0 & Cr0.PG:
            vmx_set_efer(vcpu, vcpu.efer & ~Efer.LMA)
    if params.ept and not params.unrestricted_guest:
        _intercept_cr3(vcpu, cr0)
        if (old_paging ^ cr0) & Cr0.PG:
            vmx_set_cr4(vcpu, vcpu.cr4)


def _intercept_cr3(vcpu: Vcpu, cr0: int) -> None:
    # Without unrestricted guest, KVM runs a guest without paging on page tables of its own.
    controls = vcpu.vmcs["cpu_based_vm_exec_control"]
    if not cr0 & Cr0.PG:
        controls |= CR3_EXITING_BITS
    else:
        controls &= ~CR3_EXITING_BITS
        if vcpu.guest_mode:
            controls |= vcpu.vmcs12.cpu_based_vm_exec_control & CR3_EXITING_BITS
    vcpu.vmcs["cpu_based_vm_exec_control"] = controls


def vmx_set_cr4(vcpu: Vcpu, cr4: int) -> None:
    """Set CR4: what the guest reads and what it has."""
    params = vcpu.params
    vmcs = vcpu.vmcs
    hw_cr4 = vcpu.kvm.host.cr4 & Cr4.MCE | cr4 & ~Cr4.MCE | Cr4.VMXE
    if not params.unrestricted_guest:
        hw_cr4 |= Cr4.PAE
    if vmx_umip_emulated(vcpu):
        if cr4 & Cr4.UMIP:
            vmcs["secondary_vm_exec_control"] |= Secondary.DESCRIPTOR_TABLE_EXITING
            hw_cr4 &= ~Cr4.UMIP
        elif not vcpu.guest_mode or not nested_cpu_has2(
            vcpu.vmcs12, Secondary.DESCRIPTOR_TABLE_EXITING
        ):
            vmcs["secondary_vm_exec_control"] &= ~Secondary.DESCRIPTOR_TABLE_EXITING
    vcpu.cr4 = cr4
    if not params.unrestricted_guest:
        paging = is_paging(vcpu)
        if params.ept and not paging:
            hw_cr4 = hw_cr4 & ~Cr4.PAE | Cr4.PSE
        elif params.ept and not cr4 & Cr4.PAE:
            hw_cr4 &= ~Cr4.PAE
        if not paging:
            hw_cr4 &= _NOT_WITHOUT_PAGING
    vmcs["cr4_read_shadow"] = cr4
    vmcs["guest_cr4"] = hw_cr4


def kvm_set_dr7(vcpu: Vcpu, value: int) -> None:
    """kvm_set_dr(7): set DR7, of which only the bits that exist are kept; above bit 31, do nothing.

    Only a kernel that does not check vmcs12's DR7 gets there with such a value.
    """
    if value >> 32:
        return
    vcpu.dr7 = value & DR7_VOLATILE | DR7_FIXED_1
    vcpu.vmcs["guest_dr7"] = vcpu.dr7


def vmx_guest_debugctl_write(vcpu: Vcpu, value: int) -> None:
    """Set IA32_DEBUGCTL, in which FREEZE_WHILE_SMM is the host's."""
    frozen = vcpu.kvm.host.debugctl & DebugCtl.FREEZE_IN_SMM
    vcpu.vmcs["guest_ia32_debugctl"] = value | frozen


def vmx_guest_debugctl_read(vcpu: Vcpu) -> int:
    """Return IA32_DEBUGCTL without the host's bit."""
    return vcpu.vmcs["guest_ia32_debugctl"] & ~DebugCtl.FREEZE_IN_SMM


def vmx_set_segment(vcpu: Vcpu, name: str, selector: int, values: tuple[int, int, int]) -> None:
    """__vmx_set_segment(): set a segment to a selector and (base, limit, access rights)."""
    base, limit, rights = values
    if vcpu.rmode is not None:
        write_segment(vcpu, name, segment_of(selector, values))
        return
    if is_unrestricted_guest(vcpu) and name != "ldtr":
        rights |= 1
    vmcs = vcpu.vmcs
    vmcs[f"guest_{name}_base"] = base
    vmcs[f"guest_{name}_limit"] = limit
    vmcs[f"guest_{name}_selector"] = selector
    vmcs[f"guest_{name}_ar_bytes"] = rights


def cet_fields(vcpu: Vcpu) -> tuple[str, ...]:
    """Return the fields of CET state that KVM reads and writes for a vCPU with its features."""
    features = vcpu.virtual.features
    if not vcpu.behaviour.knows_cet:
        return ()
    if "cet-ss" in features:
        return CET_FIELDS
    return CET_FIELDS[:1] if "cet-ibt" in features else ()


UNUSABLE_SEGMENT = (0, 0, int(AccessRights.UNUSABLE))
