# SPDX-License-Identifier: GPL-2.0-only
"""Events on their way to the guest: queued, injected at VM entry, taken back if it is not made.

x86.c and vmx/vmx.c. A queue that is cleared keeps what was in it, and KVM_GET_VCPU_EVENTS shows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from nvmxfuzz.arch.events import EventType, Interruptibility, InterruptionInfo, Vector

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
INTERRUPT_SHADOW: Final = int(
    Interruptibility.BLOCKING_BY_STI | Interruptibility.BLOCKING_BY_MOV_SS
)
"""Interruptibility that ends with the next instruction."""
CONTRIBUTORY: Final = frozenset({Vector.DE, Vector.TS, Vector.NP, Vector.SS, Vector.GP})
"""Exceptions of which two make a double fault."""


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
class QueuedInterrupt:
    """struct kvm_queued_interrupt."""

    injected: bool = False
    vector: int = 0
    soft: bool = False


@dataclass(slots=True)
class Events:
    """What is pending, injected or blocked: struct kvm_vcpu_events, and the requests behind it."""

    exception: QueuedException = field(default_factory=QueuedException)
    exception_vmexit: QueuedException = field(default_factory=QueuedException)
    """An exception of L2 that L1 gets as a VM exit."""
    exception_from_userspace: bool = False
    """Nobody has asked yet whether L1 intercepts it."""
    interrupt: QueuedInterrupt = field(default_factory=QueuedInterrupt)
    instruction_length: int = 0
    """event_exit_inst_len: of the instruction that raises a software event."""
    nmi_injected: bool = False
    nmi_pending: int = 0
    nmi_queued: int = 0
    nmi_request: bool = False
    smi_pending: bool = False
    smi_request: bool = False
    init_pending: bool = False
    sipi_pending: bool = False
    sipi_vector: int = 0
    triple_fault: bool = False
    get_nested_state_pages: bool = False
    emulated_delivery: bool = False
    """KVM has delivered an event itself, and looks for further ones before it enters the guest."""

    @property
    def exception_pending(self) -> bool:
        """kvm_is_exception_pending(): a triple fault that is requested counts too."""
        return self.exception.pending or self.exception_vmexit.pending or self.triple_fault

    @property
    def need_reinjection(self) -> bool:
        """kvm_event_needs_reinjection()."""
        return self.exception.injected or self.interrupt.injected or self.nmi_injected

    @property
    def init_or_sipi(self) -> bool:
        """kvm_apic_has_pending_init_or_sipi()."""
        return self.init_pending or self.sipi_pending


def has_error_code(vector: int) -> bool:
    """Whether an exception with that vector pushes an error code in protected mode."""
    return vector in _WITH_ERROR_CODE


def is_soft(vector: int) -> bool:
    """Whether an exception with that vector is raised by an instruction of its own."""
    return vector in _SOFT


def clear_exception_queue(events: Events) -> None:
    """kvm_clear_exception_queue()."""
    events.exception.pending = events.exception.injected = False
    events.exception_vmexit.pending = False


def clear_event_queues(events: Events) -> None:
    """Nothing is to be injected again."""
    events.nmi_injected = events.interrupt.injected = False
    clear_exception_queue(events)


def exception_type(vector: int) -> int:
    """Return the interruption type of an exception."""
    return EventType.SOFTWARE_EXCEPTION if is_soft(vector) else EventType.HARDWARE_EXCEPTION


def interruption_info(queued: QueuedException) -> int:
    """Return VM-entry interruption information for an exception."""
    info = InterruptionInfo.VALID | queued.vector
    if queued.has_error_code:
        info |= InterruptionInfo.DELIVER_ERROR_CODE
    return info | exception_type(queued.vector) << _TYPE


def interrupt_info(queued: QueuedInterrupt) -> int:
    """Return the same for an interrupt."""
    kind = EventType.SOFTWARE_INTERRUPT if queued.soft else EventType.EXTERNAL_INTERRUPT
    return InterruptionInfo.VALID | kind << _TYPE | queued.vector


NMI_INFO: Final = int(InterruptionInfo.VALID | EventType.NMI << _TYPE | Vector.NMI)
"""The same for an NMI."""


def is_nmi(info: int) -> bool:
    """Whether VM-entry interruption information is of an NMI."""
    valid = info & InterruptionInfo.VALID != 0
    return valid and (info & InterruptionInfo.TYPE) >> _TYPE == EventType.NMI


def vmx_complete_interrupts(events: Events, vmcs: dict[str, int]) -> None:
    """Take the event back that VM entry was to inject, and has not."""
    info = vmcs["vm_entry_intr_info_field"]
    clear_event_queues(events)
    if not info & InterruptionInfo.VALID:
        return
    vector = info & _VECTOR
    kind = (info & InterruptionInfo.TYPE) >> _TYPE
    if kind in (EventType.SOFTWARE_EXCEPTION, EventType.SOFTWARE_INTERRUPT):
        events.instruction_length = vmcs["vm_entry_instruction_len"]
    if kind == EventType.NMI:
        events.nmi_injected = True
        vmcs["guest_interruptibility_info"] &= ~8
    elif kind in (EventType.HARDWARE_EXCEPTION, EventType.SOFTWARE_EXCEPTION):
        has_code = info & InterruptionInfo.DELIVER_ERROR_CODE != 0
        code = vmcs["vm_entry_exception_error_code"] if has_code else 0
        events.exception = QueuedException(
            injected=True, vector=vector, has_error_code=has_code, error_code=code
        )
    elif kind in (EventType.EXTERNAL_INTERRUPT, EventType.SOFTWARE_INTERRUPT):
        soft = kind == EventType.SOFTWARE_INTERRUPT
        events.interrupt = QueuedInterrupt(True, vector, soft)
