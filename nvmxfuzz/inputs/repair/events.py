# SPDX-License-Identifier: GPL-2.0-only
"""The event that VM entry injects.

SDM: "VM-Entry Control Fields" of the checks on VMX controls, and for what an idle or blocked
guest takes, "Checks on Guest Non-Register State".
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.controls import Pin, Primary
from nvmxfuzz.arch.events import (
    VECTORS_WITH_ERROR_CODE,
    Activity,
    EventType,
    Interruptibility,
    InterruptionInfo,
    Vector,
)
from nvmxfuzz.arch.registers import Cr0, Cr4, Rflags
from nvmxfuzz.inputs.repair.draft import Coin, Draft

_DELIVER: Final = InterruptionInfo.DELIVER_ERROR_CODE
_MAX_VECTOR_OF_EXCEPTION: Final = 31
_MAX_LENGTH: Final = 15
_BLOCKED: Final = Interruptibility.BLOCKING_BY_STI | Interruptibility.BLOCKING_BY_MOV_SS
_MACHINE_STATES_OF_IDLE: Final = (Vector.DB, Vector.MC)


def settle_event(draft: Draft) -> None:
    """A consistent event, and a guest that can take it; nothing where no event is valid."""
    vmcs = draft.vmcs
    info = vmcs.vm_entry_intr_info_field
    if not info & InterruptionInfo.VALID:
        return
    kind = _kind(draft, info >> 8 & 7)
    vector = _vector(draft, kind, info & InterruptionInfo.VECTOR)
    info &= ~(InterruptionInfo.RESERVED | InterruptionInfo.TYPE | InterruptionInfo.VECTOR)
    if not draft.caps.nested_exception or kind != EventType.HARDWARE_EXCEPTION:
        info &= ~InterruptionInfo.NESTED_EXCEPTION
    info = _error_code_bit(draft, info, kind, vector) | kind << 8 | vector
    if info & _DELIVER:
        vmcs.vm_entry_exception_error_code &= 0xFFFF
    _instruction_length(draft, kind, vector)
    if not _taken_when_idle(vmcs.guest_activity_state, kind, vector):
        if draft.coin(Coin.IDLE_EVENT):
            info &= ~InterruptionInfo.VALID
        else:
            vmcs.guest_activity_state = Activity.ACTIVE
    vmcs.vm_entry_intr_info_field = info
    if info & InterruptionInfo.VALID:
        _unblock(draft, kind)


def _kind(draft: Draft, kind: int) -> int:
    """Return an event type that the processor knows, and that this entry may inject."""
    if kind == EventType.RESERVED:
        return (EventType.EXTERNAL_INTERRUPT, EventType.HARDWARE_EXCEPTION)[
            draft.coin(Coin.EVENT_TYPE)
        ]
    if kind == EventType.OTHER_EVENT and not _trap_flag(draft) and not _fred(draft):
        return EventType.SOFTWARE_EXCEPTION
    return kind


def _trap_flag(draft: Draft) -> bool:
    """A pending MTF VM exit can be injected: not into VMX root operation."""
    return draft.caps.primary_may & Primary.MONITOR_TRAP_FLAG != 0 and not draft.to_root


def _fred(draft: Draft) -> bool:
    return draft.vmcs.guest_cr4 & Cr4.FRED != 0


def _vector(draft: Draft, kind: int, vector: int) -> int:
    if kind == EventType.NMI:
        return Vector.NMI
    if kind == EventType.HARDWARE_EXCEPTION:
        return vector & _MAX_VECTOR_OF_EXCEPTION
    if kind == EventType.OTHER_EVENT:
        lowest = 0 if _trap_flag(draft) else 1
        highest = 2 if _fred(draft) else 0
        return max(lowest, vector if vector <= highest else vector & highest)
    return vector


def _error_code_bit(draft: Draft, info: int, kind: int, vector: int) -> int:
    real = draft.unrestricted and not draft.vmcs.guest_cr0 & Cr0.PE
    if kind != EventType.HARDWARE_EXCEPTION or real:
        return info & ~_DELIVER
    if draft.caps.any_exception_may_deliver_error_code:
        return info
    return info | _DELIVER if VECTORS_WITH_ERROR_CODE >> vector & 1 else info & ~_DELIVER


def _instruction_length(draft: Draft, kind: int, vector: int) -> None:
    vmcs = draft.vmcs
    if kind < EventType.SOFTWARE_INTERRUPT or (kind == EventType.OTHER_EVENT and not vector):
        return
    if vmcs.vm_entry_instruction_len > _MAX_LENGTH:
        vmcs.vm_entry_instruction_len &= _MAX_LENGTH
    if not vmcs.vm_entry_instruction_len and not draft.caps.zero_length_injection:
        vmcs.vm_entry_instruction_len = 1


def _taken_when_idle(activity: int, kind: int, vector: int) -> bool:
    if activity == Activity.ACTIVE:
        return True
    machine_check = kind == EventType.HARDWARE_EXCEPTION and vector == Vector.MC
    if activity == Activity.SHUTDOWN:
        return kind == EventType.NMI or machine_check
    if activity == Activity.HLT:
        return (
            kind in (EventType.EXTERNAL_INTERRUPT, EventType.NMI)
            or (kind == EventType.HARDWARE_EXCEPTION and vector in _MACHINE_STATES_OF_IDLE)
            or (kind == EventType.OTHER_EVENT and vector == 0)
        )
    return False


def _unblock(draft: Draft, kind: int) -> None:
    """Interrupts and NMIs are not injected into a guest that blocks them."""
    vmcs = draft.vmcs
    if kind in (EventType.EXTERNAL_INTERRUPT, EventType.NMI):
        vmcs.guest_interruptibility_info &= ~_BLOCKED
    if kind == EventType.EXTERNAL_INTERRUPT:
        vmcs.guest_rflags |= Rflags.IF
    if kind == EventType.NMI and draft.pin & Pin.VIRTUAL_NMIS:
        vmcs.guest_interruptibility_info &= ~Interruptibility.BLOCKING_BY_NMI
