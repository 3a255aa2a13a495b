# SPDX-License-Identifier: GPL-2.0-only
"""Exceptions on their way to the guest: queued, injected at VM entry, taken back if it is not made.

x86.c and vmx/vmx.c. A queue that is cleared keeps what was in it, and KVM_GET_VCPU_EVENTS shows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nvmxfuzz.arch.events import EventType, InterruptionInfo, Vector

_TYPE = InterruptionInfo.TYPE.position
_VECTOR = 0xFF
_WITH_ERROR_CODE = frozenset({Vector.GP, Vector.SS, Vector.PF, Vector.TS, Vector.NP, Vector.AC})
_SOFT = (Vector.BP, Vector.OF)
FAULTS = 0xFFFF_FFFF & ~(
    1 << Vector.DB
    | 1 << Vector.NMI
    | 1 << Vector.BP
    | 1 << Vector.OF
    | 1 << Vector.DF
    | 1 << Vector.MC
)
"""Bit n is 1 where exception n is of the class whose delivery sets RF."""


class NotModelledError(Exception):
    """What happens next the model does not know; the message says what that is."""


@dataclass(slots=True)
class QueuedException:
    """struct kvm_queued_exception."""

    pending: bool = False
    injected: bool = False
    vector: int = 0
    has_error_code: bool = False
    error_code: int = 0
    has_payload: bool = False
    payload: int = 0


@dataclass(slots=True)
class Events:
    """What is pending, injected or blocked: struct kvm_vcpu_events, and the requests behind it."""

    exception: QueuedException = field(default_factory=QueuedException)
    nmi_injected: bool = False
    nmi_pending: int = 0
    nmi_masked: bool = False
    smi_pending: bool = False
    triple_fault: bool = False
    get_nested_state_pages: bool = False


def queue_exception(
    events: Events, vector: int, error_code: int | None = None, payload: int | None = None
) -> None:
    """kvm_multiple_exception() where no other exception is in the queue."""
    if events.exception.pending or events.exception.injected:
        raise NotModelledError("one exception on top of another")
    events.exception = QueuedException(
        pending=True,
        vector=int(vector),
        has_error_code=error_code is not None,
        error_code=error_code or 0,
        has_payload=payload is not None,
        payload=payload or 0,
    )


def has_error_code(vector: int) -> bool:
    """Whether an exception with that vector pushes an error code in protected mode."""
    return vector in _WITH_ERROR_CODE


def clear_exception_queue(events: Events) -> None:
    """kvm_clear_exception_queue()."""
    events.exception.pending = events.exception.injected = False


def interruption_info(queued: QueuedException) -> int:
    """Return VM-entry interruption information for an exception."""
    info = InterruptionInfo.VALID | queued.vector
    if queued.has_error_code:
        info |= InterruptionInfo.DELIVER_ERROR_CODE
    soft = queued.vector in _SOFT
    kind = EventType.SOFTWARE_EXCEPTION if soft else EventType.HARDWARE_EXCEPTION
    return info | kind << _TYPE


def vmx_complete_interrupts(events: Events, info: int, error_code: int) -> None:
    """Take an event back that VM entry has not delivered; `info` as for VM entry."""
    events.nmi_injected = False
    clear_exception_queue(events)
    if not info & InterruptionInfo.VALID:
        return
    kind = (info & InterruptionInfo.TYPE) >> _TYPE
    if kind not in (EventType.HARDWARE_EXCEPTION, EventType.SOFTWARE_EXCEPTION):
        raise NotModelledError("an interrupt or NMI that is not delivered")
    has_code = info & InterruptionInfo.DELIVER_ERROR_CODE != 0
    events.exception = QueuedException(
        injected=True,
        vector=info & _VECTOR,
        has_error_code=has_code,
        error_code=error_code if has_code else 0,
    )
