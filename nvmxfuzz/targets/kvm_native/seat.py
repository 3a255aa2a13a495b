# SPDX-License-Identifier: GPL-2.0-only
"""A vCPU of KVM on one processor, ready for L1's VM entries: each begins in the same state.

L1's memory reads as all ones where an attempt has none, as on a bus without a responder, and ends
where the VM's memory does: beyond, KVM finds nothing at all.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final, TypeAlias

from nvmxfuzz.arch.events import Vector
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import UNBACKED
from nvmxfuzz.machine.outcome import (
    ENTERED,
    FAIL_INVALID,
    Outcome,
    exit_on_entry,
    fail_valid,
    fault,
)
from nvmxfuzz.machine.processor import NO_POINTER
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.base import (
    Message,
    Observation,
    Target,
    no_opinion,
    not_representable,
    observed,
)
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native.direct import Direct, Ran, l1_of
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.judged import likeliest, refused
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.port import VMCALL, Answer, Answering, PortEntry, PortFailed
from nvmxfuzz.targets.kvm_native.results import Check
from nvmxfuzz.targets.kvm_native.virtual import virtual_profile
from nvmxfuzz.targets.kvm_native.vm import RAM, Fresh, fresh
from nvmxfuzz.targets.kvm_native.vmcs02 import attempt_of
from nvmxfuzz.targets.kvm_native.vmcs12 import Vmcs12Layout

_Regions: TypeAlias = tuple[tuple[int, bytes], ...]
_MOST_READY: Final = 3
"""Contents of memory that are kept as snapshots; the bases have two."""
_ENTRY_FAILURE: Final = 1 << 31
_BASIC_REASON: Final = 0xFFFF
_PENDING: Final = 0x100
_RUNNABLE: Final = 0
"""KVM_MP_STATE_RUNNABLE."""


@dataclass(frozen=True, slots=True)
class _Processor:
    """What an attempt may not have of KVM's L1, and the sentence that says so."""

    attribute: str
    usual: object
    sentence: str


_BEYOND_KVM: Final = (
    _Processor("in_smm", False, "KVM has no dual-monitor treatment of SMM"),
    _Processor("rtit_ctl", 0, "L1 has no Intel PT of its own"),
)


class Seat:
    """KVM on a processor like `host`, with one vCPU in VMX operation."""

    def __init__(self, library: Library, host: Profile, name: str) -> None:
        """Load KVM; IoctlError if it refuses the processor. `name` is that of what L1 gets."""
        self.host = host
        self._library = library
        made = fresh(library, hardware_of(host), irqchip=True)
        l1.prepare(made.vcpu, made.vm.memory)
        self._layout = Vmcs12Layout(library)
        self._vcpu = made.vcpu
        self._memory = made.vm.memory
        self._direct = Direct(library, made.vcpu.address)
        self.virtual = virtual_profile(made.vcpu, host, name)
        made.renew()
        made.discard()
        l1.prepare(made.vcpu, made.vm.memory)
        self._memory.write(0, bytes([UNBACKED]) * RAM)
        self._empty = made.keep()
        self._ready: dict[_Regions, Fresh] = {}
        self._before: _Regions | None = None

    def leave(self) -> None:
        """Give back the memory of the seat, which is then of no use."""
        for made in (self._empty, *self._ready.values()):
            made.discard()

    def beyond(self, attempt: Attempt) -> str:
        """Return why KVM cannot be shown an attempt, "" if it can."""
        for trait in _BEYOND_KVM:
            if getattr(attempt.processor, trait.attribute) != trait.usual:
                return trait.sentence
        if attempt.processor.vmxon_pointer == NO_POINTER:
            return "KVM has no vmcs12 of an L1 that is not in VMX operation"
        for start, data in attempt.memory.regions:
            if start + len(data) > RAM:
                return f"L1 has {RAM >> 20} MiB of memory, and none at {start:#x}"
        return ""

    def enter(self, attempt: Attempt) -> Observation:
        """Return what KVM's software makes of the attempt; Stopped if it does not return."""
        reason = self.beyond(attempt)
        if reason:
            return not_representable(reason)
        ran = self._run(attempt)
        return self._observation(ran, self._messages())

    def enter_on(self, attempt: Attempt, hardware: Target) -> Observation:
        """Return what L1 sees where `hardware`, a processor like the host, executes vmcs02."""
        reason = self.beyond(attempt)
        if reason:
            return not_representable(reason)
        ran = self._run(attempt)
        messages = self._messages()
        seen = self._observation(ran, messages)
        if seen.outcome != ENTERED or ran.mp_state != _RUNNABLE:
            # Where L2 halts at once, no processor executes anything.
            return seen
        port = _Below(hardware, self.host)
        try:
            self._vcpu.run(port)
        except IoctlError as error:
            return Observation("died", reason=str(error), messages=messages + self._messages())
        messages += self._messages()
        if port.no_opinion:
            return no_opinion(port.no_opinion, messages)
        end = self._end()
        if end is None:
            return no_opinion("KVM ends L2 for a reason of its own", messages)
        return observed(end, messages)

    def _renew(self, regions: _Regions) -> None:
        """Be as new, with these regions in memory. What comes again and again is kept ready."""
        ready = self._ready.get(regions)
        if ready is not None:
            ready.renew()
            return
        self._empty.renew()
        for start, data in regions:
            self._memory.write(start, data)
        if regions == self._before and len(self._ready) < _MOST_READY:
            self._ready[regions] = self._empty.keep()
        self._before = regions

    def _run(self, attempt: Attempt) -> Ran:
        self._renew(attempt.memory.regions)
        processor = attempt.processor
        self._direct.reset_l1(l1_of(processor))
        image = self._layout.pack(
            attempt.vmcs, attempt.launch_state == "launched", processor.current_vmcs_is_shadow
        )
        self._direct.run(image, attempt.instruction == "vmlaunch")
        return self._direct.ran()

    def _observation(self, ran: Ran, messages: tuple[Message, ...]) -> Observation:
        if ran.in_l2:
            return observed(ENTERED, messages)
        if ran.value == 0:
            return no_opinion(f"KVM leaves L1 to user space with reason {ran.exit_to_user}")
        if ran.exception & _PENDING and ran.exception & 0xFF != Vector.DB:
            return observed(fault(ran.exception & 0xFF), messages)
        # With TF in L1 a #DB is pending behind an instruction that is done, as it is after VMfail.
        outcome = _failure(ran.rflags, ran.instruction_error)
        if outcome is None:
            outcome = _exit(ran.exit_reason, ran.exit_qualification)
        if outcome is None:
            return no_opinion("KVM goes on in L1 as if nothing had happened", messages)
        return observed(outcome, messages)

    def _end(self) -> Outcome | None:
        """Return what L1 finds after KVM_RUN, in its flags and in the fields of vmcs12.

        None if that is no end of a VM entry.
        """
        image = ctypes.string_at(
            self._library.functions.nvmx_cached_vmcs12(self._vcpu.address), self._layout.size
        )
        vmcs12 = self._layout.unpack(image)
        exited = _exit(vmcs12.vm_exit_reason, vmcs12.exit_qualification)
        if exited is not None:
            return exited
        if vmcs12.vm_exit_reason & _BASIC_REASON == ExitReason.VMCALL:
            return ENTERED
        return _failure(self._vcpu.get_regs().rflags, vmcs12.vm_instruction_error)

    def _messages(self) -> tuple[Message, ...]:
        reader = self._library.reader
        if not reader.words[reader.CHECKS] | reader.words[reader.WARNINGS]:
            return ()
        result = self._library.result()
        checks = (_check_message(check) for check in result.checks)
        warnings = (Message(text, text) for text in (f"WARN {each}" for each in result.warnings))
        return (*checks, *warnings)


class _Below(Answering):
    """A target that judges what KVM runs for L2; in L1 nothing happens any more."""

    def __init__(self, target: Target, host: Profile) -> None:
        super().__init__(self._entered)
        self._target = target
        self._host = host
        self.no_opinion = ""

    def _entered(self, entry: PortEntry) -> Answer:
        if not entry.is_l2:
            return l1.OUT
        seen = self._target.run(attempt_of(entry, self._host))
        if seen.status == "died":
            raise PortFailed(f"{self._target.name} died: {seen.reason}")
        if seen.status != "outcome":
            self.no_opinion = f"{self._target.name}: {seen.status}: {seen.reason}"
            return VMCALL
        outcome = likeliest(seen.outcomes)
        return VMCALL if outcome == ENTERED else refused(outcome)


def _failure(rflags: int, error: int) -> Outcome | None:
    if rflags & Rflags.CF:
        return FAIL_INVALID
    return fail_valid(error) if rflags & Rflags.ZF else None


def _exit(reason: int, qualification: int) -> Outcome | None:
    if not reason & _ENTRY_FAILURE:
        return None
    return exit_on_entry(reason & _BASIC_REASON, qualification)


def _check_message(check: Check) -> Message:
    text = f"{check.text} in {check.function}"
    return Message(text, text)
