# SPDX-License-Identifier: GPL-2.0-only
"""The exact conditions of the known differences of Bochs."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Pin, Primary
from nvmxfuzz.arch.events import EventType, Interruptibility, PendingDebug, Vector
from nvmxfuzz.arch.segments import AccessRights
from nvmxfuzz.arch.vmx_msr import VmxBasic
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.msr_slots import MsrSlot
from nvmxfuzz.cpu.predicates import aligned, page_aligned
from nvmxfuzz.cpu.segment_view import GuestSegment
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile

_LOW_HALF: Final = 0xFFFF_FFFF
_ALL: Final = 0xFFFF_FFFF_FFFF_FFFF
_DESCRIPTOR_SIZE: Final = 64
_MSR_SIZE: Final = 16
_NULL: Final = 3
"""Null selectors are 0 to 3: their RPL does not count."""


def taken_for_ordinary_vmcs(attempt: Attempt) -> Attempt:
    """Return the attempt with a current VMCS that is no shadow VMCS."""
    if not attempt.processor.current_vmcs_is_shadow:
        return attempt
    return replace(attempt, processor=replace(attempt.processor, current_vmcs_is_shadow=False))


def taken_for_wide_addresses(attempt: Attempt) -> Attempt:
    """Return the attempt on a processor that does not limit addresses to 32 bits."""
    profile = attempt.profile
    if profile.caps.address_limit_bits >= profile.maxphyaddr:
        return attempt
    return replace(attempt, profile=_with_wide_addresses(profile))


@lru_cache(maxsize=64)
def _with_wide_addresses(profile: Profile) -> Profile:
    basic = profile.msrs[msr.MSR_IA32_VMX_BASIC] & ~VmxBasic.PHYSICAL_ADDRESSES_32_BIT
    return replace(profile, msrs={**profile.msrs, msr.MSR_IA32_VMX_BASIC: basic})


def descriptor_within_page(entry: Entry) -> bool:
    """Interrupts are posted to a descriptor at 64 bytes' alignment, but not a page's."""
    address = entry.vmcs.posted_intr_desc_addr
    return (
        entry.pin & Pin.PROCESS_POSTED_INTERRUPTS != 0
        and not no_tpr_shadow(entry)
        and aligned(address, _DESCRIPTOR_SIZE)
        and not page_aligned(address)
    )


def no_tpr_shadow(entry: Entry) -> bool:
    """The control "use TPR shadow" is 0."""
    return entry.primary & Primary.USE_TPR_SHADOW == 0


def high_exit_controls_only(entry: Entry) -> bool:
    """Of the secondary VM-exit controls none is reserved but of bits 63:32."""
    return entry.vmcs.secondary_vm_exit_controls & ~entry.caps.exit2_may & _LOW_HALF == 0


def wrapped_store_area_fits(entry: Entry) -> bool:
    """The VM-exit MSR-store area ends within the address width, as Bochs reckons."""
    vmcs = entry.vmcs
    return _fits(entry, vmcs.vm_exit_msr_store_addr, vmcs.vm_exit_msr_store_count)


def wrapped_exit_load_area_fits(entry: Entry) -> bool:
    """The VM-exit MSR-load area ends within the address width, as Bochs reckons."""
    vmcs = entry.vmcs
    return _fits(entry, vmcs.vm_exit_msr_load_addr, vmcs.vm_exit_msr_load_count)


def wrapped_entry_load_area_fits(entry: Entry) -> bool:
    """The VM-entry MSR-load area ends within the address width, as Bochs reckons."""
    vmcs = entry.vmcs
    return _fits(entry, vmcs.vm_entry_msr_load_addr, vmcs.vm_entry_msr_load_count)


def store_area_wraps_to_nothing(entry: Entry) -> bool:
    """The VM-exit MSR-store area lies at 0, and is empty as Bochs reckons."""
    vmcs = entry.vmcs
    return _ends_before_0(vmcs.vm_exit_msr_store_addr, vmcs.vm_exit_msr_store_count)


def exit_load_area_wraps_to_nothing(entry: Entry) -> bool:
    """The VM-exit MSR-load area lies at 0, and is empty as Bochs reckons."""
    vmcs = entry.vmcs
    return _ends_before_0(vmcs.vm_exit_msr_load_addr, vmcs.vm_exit_msr_load_count)


def entry_load_area_wraps_to_nothing(entry: Entry) -> bool:
    """The VM-entry MSR-load area lies at 0, and is empty as Bochs reckons."""
    vmcs = entry.vmcs
    return _ends_before_0(vmcs.vm_entry_msr_load_addr, vmcs.vm_entry_msr_load_count)


def _wrapped_size(count: int) -> int:
    return count * _MSR_SIZE & _LOW_HALF


def _fits(entry: Entry, address: int, count: int) -> bool:
    end = address + _wrapped_size(count) - 1 & _ALL
    return end & entry.caps.physical_reserved == 0


def _ends_before_0(address: int, count: int) -> bool:
    return address == 0 and count != 0 and _wrapped_size(count) == 0


def other_event_without_mtf(entry: Entry) -> bool:
    """VM entry injects an event of type 7 on a processor without the monitor trap flag."""
    return (
        entry.event_type == EventType.OTHER_EVENT
        and entry.caps.primary_may & Primary.MONITOR_TRAP_FLAG == 0
    )


def null_ss_in_64_bit_code(segment: GuestSegment) -> bool:
    """The guest runs 64-bit code, and the selector of SS is null."""
    entry = segment.entry
    return (
        segment.selector <= _NULL
        and entry.ia32e_guest != 0
        and entry.vmcs.guest_cs_ar_bytes & AccessRights.L != 0
    )


def vector_of_machine_check(entry: Entry) -> bool:
    """VM entry injects an event with the vector of the machine-check exception."""
    return entry.event_vector == Vector.MC


def nmi_while_sti_blocks(entry: Entry) -> bool:
    """VM entry injects an NMI into a guest with blocking by STI."""
    return (
        entry.event_type == EventType.NMI
        and entry.vmcs.guest_interruptibility_info & Interruptibility.BLOCKING_BY_STI != 0
    )


def high_pending_bits_only(entry: Entry) -> bool:
    """Of the pending debug exceptions no reserved bit is set but of bits 63:32."""
    return entry.vmcs.guest_pending_dbg_exceptions & PendingDebug.RESERVED & _LOW_HALF == 0


def msr_missing_in_bochs(slot: MsrSlot) -> bool:
    """The MSR is IA32_DEBUGCTL or IA32_PERF_GLOBAL_CTRL."""
    return slot.index in (msr.MSR_IA32_DEBUGCTLMSR, msr.MSR_CORE_PERF_GLOBAL_CTRL)
