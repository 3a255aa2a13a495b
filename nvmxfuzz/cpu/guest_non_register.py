# SPDX-License-Identifier: GPL-2.0-only
"""The rules of the SDM's "Checks on Guest Non-Register State".

Activity state, interruptibility state, pending debug exceptions and VMCS link pointer.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Pin, Secondary
from nvmxfuzz.arch.events import (
    Activity,
    EventType,
    Interruptibility,
    OtherEvent,
    PendingDebug,
    Vector,
)
from nvmxfuzz.arch.registers import DebugCtl, Rflags
from nvmxfuzz.arch.sections import GUEST_NON_REGISTER
from nvmxfuzz.arch.segments import AccessRights
from nvmxfuzz.cpu.conditions import (
    does_not_return_from_smm,
    enters_smm,
    injects_external_interrupt,
    injects_nmi,
    outside_smm,
)
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.failures import GUEST_STATE, NMI_INJECTION, VMCS_LINK_POINTER
from nvmxfuzz.cpu.predicates import page_aligned
from nvmxfuzz.cpu.rule import UNKNOWN, Given, Section, Verdict, within

SECTION = Section(GUEST_NON_REGISTER, GUEST_STATE)

_BLOCKING_BY_STI_OR_MOV_SS = Interruptibility.BLOCKING_BY_STI | Interruptibility.BLOCKING_BY_MOV_SS
_NO_LINK = 0xFFFF_FFFF_FFFF_FFFF
_REVISION = 0x7FFF_FFFF
_SHADOW = 31
"""Vector of the event type "other event" that makes an MTF VM exit pending."""
_NOT_WITH_RTM = 0xFFFF_FFFF_FFFE_EFFF
"""Bits 11:0, 15:13 and 63:17 of the pending debug exceptions."""


# Activity state


@within("vmcs.guest_activity_state")
def inactive(entry: Entry) -> bool:
    """The activity state is HLT, shutdown or wait-for-SIPI."""
    return entry.vmcs.guest_activity_state <= Activity.WAIT_FOR_SIPI


@within("vmcs.guest_activity_state")
def halted(entry: Entry) -> bool:
    """The activity state is HLT."""
    return entry.vmcs.guest_activity_state == Activity.HLT


@within("vmcs.guest_activity_state")
def waits_for_sipi(entry: Entry) -> bool:
    """The activity state is wait-for-SIPI."""
    return entry.vmcs.guest_activity_state == Activity.WAIT_FOR_SIPI


@within("event")
def injects_while_halted(entry: Entry) -> bool:
    """VM entry injects an event in activity state HLT."""
    return entry.vmcs.guest_activity_state == Activity.HLT


@within("event")
def injects_while_shut_down(entry: Entry) -> bool:
    """VM entry injects an event in activity state shutdown."""
    return entry.vmcs.guest_activity_state == Activity.SHUTDOWN


blocking_by_sti_or_mov_ss = Given("vmcs.guest_interruptibility_info", _BLOCKING_BY_STI_OR_MOV_SS)
"""The interruptibility state indicates blocking by STI or by MOV SS."""


@SECTION.rule("guest.activity.value")
def known_state(entry: Entry) -> bool:
    """The activity state is 0 (active), 1 (HLT), 2 (shutdown) or 3 (wait-for-SIPI)."""
    return entry.vmcs.guest_activity_state <= Activity.WAIT_FOR_SIPI


@SECTION.rule("guest.activity.supported", when=inactive)
def supported_state(entry: Entry) -> bool:
    """The processor supports the activity state (IA32_VMX_MISC[8:6])."""
    return entry.caps.activity_supported >> entry.vmcs.guest_activity_state & 1 != 0


@SECTION.rule("guest.activity.hlt-dpl", when=halted)
def halted_at_cpl_0(entry: Entry) -> bool:
    """In activity state HLT the DPL of SS is 0."""
    return entry.vmcs.guest_ss_ar_bytes & AccessRights.DPL == 0


@SECTION.rule("guest.activity.blocking", when=blocking_by_sti_or_mov_ss)
def active_while_blocking(entry: Entry) -> bool:
    """The guest is active if there is blocking by STI or by MOV SS."""
    return entry.vmcs.guest_activity_state == Activity.ACTIVE


@SECTION.rule("guest.activity.hlt-event", when=injects_while_halted)
def event_wakes_from_hlt(entry: Entry) -> bool:
    """In HLT only external interrupts, NMIs, #DB, #MC and MTF VM exits can be injected."""
    return (
        entry.event_type in (EventType.EXTERNAL_INTERRUPT, EventType.NMI)
        or (
            entry.event_type == EventType.HARDWARE_EXCEPTION
            and entry.event_vector in (Vector.DB, Vector.MC)
        )
        or (
            entry.event_type == EventType.OTHER_EVENT
            and entry.event_vector == OtherEvent.PENDING_MTF_VM_EXIT
        )
    )


@SECTION.rule("guest.activity.shutdown-event", when=injects_while_shut_down)
def event_ends_shutdown(entry: Entry) -> bool:
    """In the shutdown state only NMIs and machine-check exceptions can be injected."""
    return entry.event_type == EventType.NMI or (
        entry.event_type == EventType.HARDWARE_EXCEPTION and entry.event_vector == Vector.MC
    )


@SECTION.rule("guest.activity.wait-for-sipi-event", when=waits_for_sipi)
def no_event_while_waiting(entry: Entry) -> bool:
    """In the wait-for-SIPI state nothing can be injected."""
    return entry.event == 0


@SECTION.rule("guest.activity.wait-for-sipi-smm", when=enters_smm)
def not_waiting_in_smm(entry: Entry) -> bool:
    """The guest is not in the wait-for-SIPI state if VM entry is to SMM."""
    return entry.vmcs.guest_activity_state != Activity.WAIT_FOR_SIPI


# Interruptibility state


blocking_by_sti = Given("vmcs.guest_interruptibility_info", Interruptibility.BLOCKING_BY_STI)
"""The interruptibility state indicates blocking by STI."""

enclave_interruption = Given(
    "vmcs.guest_interruptibility_info", Interruptibility.ENCLAVE_INTERRUPTION
)
"""The interruptibility state indicates enclave interruption."""


@within("event")
def injects_virtual_nmi(entry: Entry) -> bool:
    """VM entry injects an NMI and "virtual NMIs" is 1."""
    return entry.event_type == EventType.NMI and entry.pin & Pin.VIRTUAL_NMIS != 0


@SECTION.rule("guest.interruptibility.reserved")
def reserved_blocking_clear(entry: Entry) -> bool:
    """Bits 31:5 of the interruptibility state are 0."""
    return entry.vmcs.guest_interruptibility_info & Interruptibility.RESERVED == 0


@SECTION.rule("guest.interruptibility.sti-and-mov-ss")
def not_both_blockings(entry: Entry) -> bool:
    """There is not blocking by STI and blocking by MOV SS at once."""
    return (
        entry.vmcs.guest_interruptibility_info & _BLOCKING_BY_STI_OR_MOV_SS
        != _BLOCKING_BY_STI_OR_MOV_SS
    )


@SECTION.rule("guest.interruptibility.sti-if", when=blocking_by_sti)
def sti_has_set_if(entry: Entry) -> bool:
    """IF in RFLAGS is 1 if there is blocking by STI."""
    return entry.vmcs.guest_rflags & Rflags.IF != 0


@SECTION.rule("guest.interruptibility.interrupt-sti", when=injects_external_interrupt)
def interrupt_not_blocked_by_sti(entry: Entry) -> bool:
    """There is no blocking by STI when an external interrupt is injected."""
    return entry.vmcs.guest_interruptibility_info & Interruptibility.BLOCKING_BY_STI == 0


@SECTION.rule(
    "guest.interruptibility.interrupt-mov-ss",
    when=injects_external_interrupt,
    event="external interrupt",
)
@SECTION.rule("guest.interruptibility.nmi-mov-ss", when=injects_nmi, event="NMI")
def not_blocked_by_mov_ss(entry: Entry) -> bool:
    """There is no blocking by MOV SS when an {event} is injected."""
    return entry.vmcs.guest_interruptibility_info & Interruptibility.BLOCKING_BY_MOV_SS == 0


@SECTION.rule("guest.interruptibility.nmi-sti", when=injects_nmi, failure=NMI_INJECTION)
def nmi_not_blocked_by_sti(entry: Entry) -> Verdict:
    """There is no blocking by STI when an NMI is injected, on processors that demand it."""
    return (
        True
        if entry.vmcs.guest_interruptibility_info & Interruptibility.BLOCKING_BY_STI == 0
        else False
        if "nmi-requires-no-sti-blocking" in entry.profile.features
        else UNKNOWN
    )


@SECTION.rule("guest.interruptibility.smi-outside-smm", when=outside_smm)
def no_blocking_by_smi(entry: Entry) -> bool:
    """There is no blocking by SMI if the processor is not in SMM."""
    return entry.vmcs.guest_interruptibility_info & Interruptibility.BLOCKING_BY_SMI == 0


@SECTION.rule("guest.interruptibility.smi-entry-to-smm", when=enters_smm)
def blocking_by_smi(entry: Entry) -> bool:
    """There is blocking by SMI if VM entry is to SMM."""
    return entry.vmcs.guest_interruptibility_info & Interruptibility.BLOCKING_BY_SMI != 0


@SECTION.rule("guest.interruptibility.virtual-nmi", when=injects_virtual_nmi)
def virtual_nmi_not_blocked(entry: Entry) -> bool:
    """There is no blocking by NMI when an NMI is injected and "virtual NMIs" is 1."""
    return entry.vmcs.guest_interruptibility_info & Interruptibility.BLOCKING_BY_NMI == 0


@SECTION.rule("guest.interruptibility.enclave-mov-ss", when=enclave_interruption)
def no_mov_ss_in_enclave(entry: Entry) -> bool:
    """There is no blocking by MOV SS if enclave interruption is indicated."""
    return entry.vmcs.guest_interruptibility_info & Interruptibility.BLOCKING_BY_MOV_SS == 0


@SECTION.rule("guest.interruptibility.enclave-sgx", when=enclave_interruption)
def enclave_needs_sgx(entry: Entry) -> bool:
    """The processor supports SGX if enclave interruption is indicated."""
    return "sgx" in entry.profile.features


# Pending debug exceptions


@within("vmcs.guest_rflags", Rflags.TF)
def after_single_step(entry: Entry) -> int:
    """STI or MOV SS blocks or the guest is halted; TF steps over single instructions."""
    return entry.vmcs.guest_ia32_debugctl & DebugCtl.BTF == 0 and _between_instructions(entry)


def after_no_single_step(entry: Entry) -> int:
    """STI or MOV SS blocks or the guest is halted; TF does not step over instructions."""
    return _between_instructions(entry) and (
        entry.vmcs.guest_rflags & Rflags.TF == 0
        or entry.vmcs.guest_ia32_debugctl & DebugCtl.BTF != 0
    )


def _between_instructions(entry: Entry) -> int:
    return (
        entry.vmcs.guest_interruptibility_info & _BLOCKING_BY_STI_OR_MOV_SS
        or entry.vmcs.guest_activity_state == Activity.HLT
    )


rtm_pending = Given("vmcs.guest_pending_dbg_exceptions", PendingDebug.RTM)
"""Bit 16 (RTM) of the pending debug exceptions is 1."""


@SECTION.rule("guest.pending-debug.reserved")
def reserved_pending_clear(entry: Entry) -> bool:
    """Bits 10:4, 13, 15 and 63:17 of the pending debug exceptions are 0."""
    return entry.vmcs.guest_pending_dbg_exceptions & PendingDebug.RESERVED == 0


@SECTION.rule("guest.pending-debug.bus-lock")
def no_bus_lock_pending(entry: Entry) -> Verdict:
    """Bit 11 (bus lock) is 0; a processor with debug exceptions for bus locks may allow it.

    The SDM defines the bit for such a processor and still lists it among those that must be 0.
    """
    return (
        True
        if entry.vmcs.guest_pending_dbg_exceptions & PendingDebug.BLD == 0
        else UNKNOWN
        if "bus-lock-detect" in entry.profile.features
        else False
    )


@SECTION.rule("guest.pending-debug.bs-set", when=after_single_step)
def single_step_pending(entry: Entry) -> bool:
    """BS is 1 if STI or MOV SS blocks or the guest is halted, with TF = 1 and BTF = 0."""
    return entry.vmcs.guest_pending_dbg_exceptions & PendingDebug.BS != 0


@SECTION.rule("guest.pending-debug.bs-clear", when=after_no_single_step)
def no_single_step_pending(entry: Entry) -> bool:
    """BS is 0 if STI or MOV SS blocks or the guest is halted, with TF = 0 or BTF = 1."""
    return entry.vmcs.guest_pending_dbg_exceptions & PendingDebug.BS == 0


@SECTION.rule("guest.pending-debug.rtm-alone", when=rtm_pending)
def nothing_pending_beside_rtm(entry: Entry) -> bool:
    """Bits 11:0, 15:13 and 63:17 are 0 if bit 16 (RTM) is 1."""
    return entry.vmcs.guest_pending_dbg_exceptions & _NOT_WITH_RTM == 0


@SECTION.rule("guest.pending-debug.rtm-enabled-breakpoint", when=rtm_pending)
def breakpoint_enabled_with_rtm(entry: Entry) -> bool:
    """Bit 12 (enabled breakpoint) is 1 if bit 16 (RTM) is 1."""
    return entry.vmcs.guest_pending_dbg_exceptions & PendingDebug.ENABLED_BREAKPOINT != 0


@SECTION.rule("guest.pending-debug.rtm-support", when=rtm_pending)
def rtm_supported(entry: Entry) -> bool:
    """The processor supports RTM if bit 16 (RTM) is 1."""
    return "rtm" in entry.profile.features


@SECTION.rule("guest.pending-debug.rtm-mov-ss", when=rtm_pending)
def no_mov_ss_in_rtm(entry: Entry) -> bool:
    """There is no blocking by MOV SS if bit 16 (RTM) is 1."""
    return entry.vmcs.guest_interruptibility_info & Interruptibility.BLOCKING_BY_MOV_SS == 0


# VMCS link pointer


def links(entry: Entry) -> bool:
    """The VMCS link pointer names a VMCS: it is not all ones."""
    return entry.vmcs.vmcs_link_pointer != _NO_LINK


def links_to_page(entry: Entry) -> bool:
    """The VMCS link pointer names a page that can be read: what it refers to is checked."""
    return (
        entry.vmcs.vmcs_link_pointer != _NO_LINK
        and page_aligned(entry.vmcs.vmcs_link_pointer)
        and entry.vmcs.vmcs_link_pointer & entry.caps.physical_reserved == 0
    )


def links_and_stays(entry: Entry) -> bool:
    """A VMCS is linked, and the processor is outside SMM or VM entry is to SMM."""
    return entry.vmcs.vmcs_link_pointer != _NO_LINK and does_not_return_from_smm(entry)


@within("in_smm")
def links_while_leaving_smm(entry: Entry) -> bool:
    """A VMCS is linked, and VM entry returns from SMM."""
    return entry.vmcs.vmcs_link_pointer != _NO_LINK and not enters_smm(entry)


@SECTION.rule("guest.link-pointer.aligned", when=links, failure=VMCS_LINK_POINTER)
def link_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the VMCS link pointer are 0, unless it is all ones."""
    return page_aligned(entry.vmcs.vmcs_link_pointer)


@SECTION.rule("guest.link-pointer.width", when=links, failure=VMCS_LINK_POINTER)
def link_within_width(entry: Entry) -> bool:
    """The VMCS link pointer is within the physical-address width, unless it is all ones."""
    return entry.vmcs.vmcs_link_pointer & entry.caps.physical_reserved == 0


@SECTION.rule("guest.link-pointer.revision", when=links_to_page, failure=VMCS_LINK_POINTER)
def linked_revision(entry: Entry) -> bool:
    """Bits 30:0 of the linked VMCS are the VMCS revision identifier of the processor."""
    return entry.memory.read_int(entry.vmcs.vmcs_link_pointer, 4) & _REVISION == entry.caps.revision


@SECTION.rule("guest.link-pointer.shadow", when=links_to_page, failure=VMCS_LINK_POINTER)
def linked_shadow_indicator(entry: Entry) -> bool:
    """Bit 31 of the linked VMCS (shadow-VMCS indicator) equals the "VMCS shadowing" control."""
    return (entry.memory.read_int(entry.vmcs.vmcs_link_pointer, 4) >> _SHADOW != 0) == (
        entry.secondary & Secondary.VMCS_SHADOWING != 0
    )


@SECTION.rule("guest.link-pointer.current", when=links_and_stays, failure=VMCS_LINK_POINTER)
def link_not_current(entry: Entry) -> bool:
    """The VMCS link pointer is not the current VMCS, unless VM entry returns from SMM."""
    return entry.vmcs.vmcs_link_pointer != entry.processor.current_vmcs


@SECTION.rule(
    "guest.link-pointer.executive", when=links_while_leaving_smm, failure=VMCS_LINK_POINTER
)
def link_not_executive(entry: Entry) -> bool:
    """The VMCS link pointer is not the executive-VMCS pointer if VM entry returns from SMM."""
    return entry.vmcs.vmcs_link_pointer != entry.vmcs.executive_vmcs_pointer
