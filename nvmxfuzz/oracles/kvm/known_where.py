# SPDX-License-Identifier: GPL-2.0-only
"""The exact conditions of the known differences of KVM."""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry
from nvmxfuzz.arch.events import Activity, EventType, Interruptibility, PendingDebug
from nvmxfuzz.arch.paging import Pdpte
from nvmxfuzz.arch.registers import Cr0, Cr4, DebugCtl, Efer, Rflags
from nvmxfuzz.arch.segments import AccessRights, SegmentType, Selector
from nvmxfuzz.cpu.conditions import host_64
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.execution_apic import (
    checks_tpr_threshold_at_entry,
    exits_below_tpr_threshold,
    tpr_threshold_not_above_vtpr,
    tpr_threshold_reserved,
)
from nvmxfuzz.cpu.guest_pdptes import pae_guest_without_ept
from nvmxfuzz.cpu.msr_slots import MsrSlot, load_slots
from nvmxfuzz.cpu.msr_values import SYSENTER_ADDRESSES
from nvmxfuzz.cpu.predicates import canonical
from nvmxfuzz.cpu.rule import Subject
from nvmxfuzz.cpu.segment_view import GuestSegment
from nvmxfuzz.machine.vmcs import Vmcs

L1_MEMORY: Final = 4 << 20
"""Where the memory ends that the target gives L1; there is some everywhere below."""

_APIC_VIRTUALIZATION: Final = (
    Secondary.VIRTUALIZE_X2APIC_MODE
    | Secondary.APIC_REGISTER_VIRTUALIZATION
    | Secondary.VIRTUAL_INTERRUPT_DELIVERY
)
"""Controls that need the TPR shadow."""
_ADDRESSES_BY_LA57: Final = frozenset(
    {msr.MSR_LSTAR, msr.MSR_CSTAR, msr.MSR_KERNEL_GS_BASE, msr.MSR_IA32_BNDCFGS}
)
_PAGES: Final = -0x1000
_PDPTES: Final = 32
"""Size of the PDPTEs of PAE paging, in bytes."""
_DPL_SHIFT: Final = 5
_LA48: Final = 48
_BUSY_16_BIT_TSS: Final = 3
_RIGHTS_V8086: Final = 0xF3
_REPLACED: Final = AccessRights.P | AccessRights.DPL | AccessRights.RESERVED
"""What KVM takes for granted of a segment register of a virtual-8086 guest, or does not keep."""


# Control fields


def tsc_multiplier_unused(entry: Entry) -> bool:
    """The control "use TSC offsetting" is 0: KVM scales nothing for L2, whatever the multiplier."""
    return entry.primary & Primary.USE_TSC_OFFSETTING == 0


# What lies where L1 has no memory


def eptp_beyond_memory(entry: Entry) -> bool:
    """EPT is enabled, and its root is where L1 has no memory."""
    return entry.ept != 0 and entry.vmcs.ept_pointer & _PAGES >= L1_MEMORY


def paging_root_beyond_memory(entry: Entry) -> bool:
    """KVM has no EPT itself, and L2's page tables begin where L1 has no memory.

    With PAE paging they begin where the PDPTEs point as well; those in memory are meant, which
    KVM loads from where all of CR3 points.
    """
    vmcs = entry.vmcs
    if entry.caps.secondary_may & Secondary.ENABLE_EPT or vmcs.guest_cr0 & Cr0.PG == 0:
        return False
    if vmcs.guest_cr3 >= L1_MEMORY:
        return True
    if not pae_guest_without_ept(entry):
        return False
    start = vmcs.guest_cr3 & ~(_PDPTES - 1)
    pdptes = (entry.memory.read_int(start + at, 8) for at in range(0, _PDPTES, 8))
    return any(each & Pdpte.P and each >= L1_MEMORY for each in pdptes)


def apic_access_beyond_memory(entry: Entry) -> bool:
    """APIC accesses are virtualized, and the APIC-access page is where L1 has no memory."""
    return (
        entry.secondary & Secondary.VIRTUALIZE_APIC_ACCESSES != 0
        and entry.vmcs.apic_access_addr >= L1_MEMORY
    )


def virtual_apic_beyond_memory(entry: Entry) -> bool:
    """The TPR shadow is used, on a page where L1 has no memory, and KVM cannot do without."""
    return _virtual_apic_missing(entry) and (
        not _tpr_shadow_useless(entry) or entry.secondary & _APIC_VIRTUALIZATION != 0
    )


def tpr_shadow_dropped(entry: Entry) -> bool:
    """The TPR shadow is on a page where L1 has no memory, and of no use: KVM turns it off."""
    return _virtual_apic_missing(entry) and _tpr_shadow_useless(entry)


def late_vmfail_without_pae(entry: Entry) -> bool:
    """The processor refuses the TPR threshold to an L1 of 32 bits without PAE.

    KVM does not keep L2 to itself, and has a processor that cannot load EFER at VM entry. It
    offers L1 that all the same: such a processor is known by PAT, which came with it.
    """
    processor = entry.processor
    return (
        entry.caps.entry_may & VmEntry.LOAD_IA32_PAT == 0
        and processor.cr0 & Cr0.PG != 0
        and processor.cr4 & Cr4.PAE == 0
        and (virtual_apic_beyond_memory(entry) or _tpr_threshold_wrong(entry))
        and not keeps_l2_to_itself(entry)
    )


def _tpr_threshold_wrong(entry: Entry) -> bool:
    if tpr_shadow_dropped(entry):
        return False
    if exits_below_tpr_threshold(entry) and not tpr_threshold_reserved(entry):
        return True
    return bool(checks_tpr_threshold_at_entry(entry)) and not tpr_threshold_not_above_vtpr(entry)


def _virtual_apic_missing(entry: Entry) -> bool:
    return (
        entry.primary & Primary.USE_TPR_SHADOW != 0
        and entry.vmcs.virtual_apic_page_addr >= L1_MEMORY
    )


def _tpr_shadow_useless(entry: Entry) -> bool:
    """Every access to CR8 exits, and APIC accesses are not virtualized."""
    exits = Primary.CR8_LOAD_EXITING | Primary.CR8_STORE_EXITING
    return (
        entry.primary & exits == exits and entry.secondary & Secondary.VIRTUALIZE_APIC_ACCESSES == 0
    )


def pdptes_of_l1_invalid(entry: Entry) -> bool:
    """L1 uses PAE paging, L2 no EPT, and L1's own PDPTEs in memory would not load."""
    processor = entry.processor
    if (
        entry.ept != 0
        or processor.cr0 & Cr0.PG == 0
        or processor.cr4 & Cr4.PAE == 0
        or processor.efer & Efer.LMA != 0
    ):
        return False
    start = processor.cr3 & ~(_PDPTES - 1)
    pdptes = (entry.memory.read_int(start + at, 8) for at in range(0, _PDPTES, 8))
    reserved = Pdpte.RESERVED | -1 << entry.profile.maxphyaddr
    return start >= L1_MEMORY or any(each & Pdpte.P and each & reserved for each in pdptes)


# Segment registers: KVM looks at parts of them unless the guest is unrestricted


def unrestricted(segment: GuestSegment) -> bool:
    """The guest is unrestricted: KVM looks at no segment register."""
    return segment.entry.unrestricted != 0


def system_register_unseen(segment: GuestSegment) -> bool:
    """The guest is unrestricted or virtual-8086: KVM does not look at TR and LDTR."""
    return unrestricted(segment) or segment.entry.vmcs.guest_rflags & Rflags.VM != 0


def tss_of_16_bits_or_unseen(segment: GuestSegment) -> bool:
    """The type of TR is 3, which KVM takes in IA-32e mode as well; or it does not look at TR."""
    return system_register_unseen(segment) or segment.ar & AccessRights.TYPE == _BUSY_16_BIT_TSS


def unusable_beside_good_code(segment: GuestSegment) -> bool:
    """The register is unusable, and KVM finds nothing wrong with CS instead; or unrestricted."""
    return unrestricted(segment) or (
        segment.ar & AccessRights.UNUSABLE != 0 and _code_fits_its_rpl(segment.entry.vmcs)
    )


def code_fits_its_rpl(segment: GuestSegment) -> bool:
    """The DPL of CS is right for the RPL of CS, which KVM holds it against; or unrestricted."""
    return unrestricted(segment) or _code_fits_its_rpl(segment.entry.vmcs)


def _code_fits_its_rpl(vmcs: Vmcs) -> bool:
    dpl = (vmcs.guest_cs_ar_bytes & AccessRights.DPL) >> _DPL_SHIFT
    rpl = vmcs.guest_cs_selector & Selector.RPL
    return dpl <= rpl if vmcs.guest_cs_ar_bytes & SegmentType.CONFORMING else dpl == rpl


def rights_as_kvm_keeps_them(segment: GuestSegment) -> bool:
    """Of the access rights KVM's own form of a register keeps those of a virtual-8086 guest."""
    return unrestricted(segment) or segment.ar & ~_REPLACED == _RIGHTS_V8086 & ~_REPLACED


def code_rights_as_kvm_keeps_them(segment: GuestSegment) -> bool:
    """The same of CS, of which KVM does not look at the type either."""
    replaced = _REPLACED | AccessRights.TYPE
    return unrestricted(segment) or segment.ar & ~replaced == _RIGHTS_V8086 & ~replaced


def unusable_code(entry: Entry) -> bool:
    """CS of a restricted guest is unusable; in virtual-8086 mode that breaks a rule anyway."""
    return (
        entry.unrestricted == 0
        and entry.vmcs.guest_cs_ar_bytes & AccessRights.UNUSABLE != 0
        and entry.vmcs.guest_rflags & Rflags.VM == 0
    )


# Linear addresses


def host_address_of_57_bits(entry: Entry) -> bool:
    """L1 has CR4.LA57 = 0, and an address that it wants at VM exit needs 57 bits."""
    vmcs = entry.vmcs
    return entry.processor.cr4 & Cr4.LA57 == 0 and not all(
        canonical(address, _LA48)
        for address in (
            vmcs.host_ia32_sysenter_esp,
            vmcs.host_ia32_sysenter_eip,
            vmcs.host_fs_base,
            vmcs.host_gs_base,
            vmcs.host_gdtr_base,
            vmcs.host_idtr_base,
            vmcs.host_tr_base,
        )
    )


def host_rip_of_57_bits(entry: Entry) -> bool:
    """L1 has CR4.LA57 = 0, and a 64-bit host's RIP needs 57 bits."""
    return (
        entry.processor.cr4 & Cr4.LA57 == 0
        and host_64(entry) != 0
        and not canonical(entry.vmcs.host_rip, _LA48)
    )


def bndcfgs_of_57_bits(entry: Entry) -> bool:
    """L1 has CR4.LA57 = 0, and VM entry loads an IA32_BNDCFGS whose address needs 57 bits."""
    return (
        entry.processor.cr4 & Cr4.LA57 == 0
        and entry.vm_entry & VmEntry.LOAD_IA32_BNDCFGS != 0
        and not canonical(entry.vmcs.guest_bndcfgs & _PAGES, _LA48)
    )


# Activity state: KVM keeps it to itself


def keeps_l2_to_itself(subject: Subject) -> bool:
    """L2 waits for a SIPI, or halts with nothing that would end it: no processor runs it."""
    entry = subject if isinstance(subject, Entry) else subject.entry
    state = entry.vmcs.guest_activity_state
    window = entry.primary & Primary.INTERRUPT_WINDOW_EXITING
    return state == Activity.WAIT_FOR_SIPI or (
        state == Activity.HLT
        and entry.event == 0
        and entry.primary & Primary.NMI_WINDOW_EXITING == 0
        and not (window != 0 and entry.vmcs.guest_rflags & Rflags.IF != 0)
    )


# Loading MSRs


def loads_sysenter_address(slot: MsrSlot) -> bool:
    """The MSR is IA32_SYSENTER_ESP or IA32_SYSENTER_EIP."""
    return slot.index in SYSENTER_ADDRESSES


def loads_address_of_57_bits(slot: MsrSlot) -> bool:
    """The value is an address of 57 bits for a register of Intel 64, and L2 has CR4.LA57 = 0."""
    return (
        slot.index in _ADDRESSES_BY_LA57
        and slot.entry.vmcs.guest_cr4 & Cr4.LA57 == 0
        and not canonical(slot.value, _LA48)
        and canonical(slot.value, slot.entry.profile.linear_address_bits)
    )


def list_replaces_sysenter_esp(entry: Entry) -> bool:
    """IA32_SYSENTER_ESP is loaded from the VM-entry MSR-load area."""
    return any(slot.index == msr.MSR_IA32_SYSENTER_ESP for slot in load_slots(entry))


def list_replaces_sysenter_eip(entry: Entry) -> bool:
    """IA32_SYSENTER_EIP is loaded from the VM-entry MSR-load area."""
    return any(slot.index == msr.MSR_IA32_SYSENTER_EIP for slot in load_slots(entry))


# What KVM merges into vmcs02 otherwise


def freezes_in_smm_alone(entry: Entry) -> bool:
    """FREEZE_WHILE_SMM is the one bit of the guest's IA32_DEBUGCTL that L1 does not have."""
    allowed = entry.profile.debugctl_mask
    value = entry.vmcs.guest_ia32_debugctl
    return allowed is not None and value & ~allowed == DebugCtl.FREEZE_IN_SMM


def steps_over_branches(entry: Entry) -> bool:
    """TF is 1, and so is BTF in the guest's IA32_DEBUGCTL, which KVM does not have."""
    return (
        entry.vmcs.guest_rflags & Rflags.TF != 0
        and entry.vmcs.guest_ia32_debugctl & DebugCtl.BTF != 0
    )


def steps_over_branches_while_blocked(entry: Entry) -> bool:
    """The same, STI or MOV SS blocks, and BS is 0, as is right with BTF."""
    blocking = Interruptibility.BLOCKING_BY_STI | Interruptibility.BLOCKING_BY_MOV_SS
    return (
        steps_over_branches(entry)
        and entry.vmcs.guest_interruptibility_info & blocking != 0
        and entry.vmcs.guest_pending_dbg_exceptions & PendingDebug.BS == 0
    )


def halted_with_nothing_blocked(entry: Entry) -> bool:
    """L2 begins halted, and neither STI nor MOV SS blocks: only HLT says what BS must be."""
    blocking = Interruptibility.BLOCKING_BY_STI | Interruptibility.BLOCKING_BY_MOV_SS
    return (
        entry.vmcs.guest_activity_state == Activity.HLT
        and entry.vmcs.guest_interruptibility_info & blocking == 0
    )


def injects_nmi_with_nmis_blocked(entry: Entry) -> bool:
    """VM entry injects an NMI, NMIs are blocked, and L1 does not use virtual NMIs, but could."""
    return (
        entry.event_type == EventType.NMI
        and entry.vmcs.guest_interruptibility_info & Interruptibility.BLOCKING_BY_NMI != 0
        and entry.pin & Pin.VIRTUAL_NMIS == 0
        and entry.caps.pin_may & Pin.VIRTUAL_NMIS != 0
    )


# PDPTEs


def pdptes_at_high_address(entry: Entry) -> bool:
    """A guest with PAE paging, without EPT, has a CR3 with one of the bits 63:32."""
    return bool(pae_guest_without_ept(entry)) and entry.vmcs.guest_cr3 >> 32 != 0
