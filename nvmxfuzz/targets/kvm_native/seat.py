# SPDX-License-Identifier: GPL-2.0-only
"""A vCPU of KVM on one processor, ready for L1's VM entries: each begins in the same state.

L1's memory reads as all ones where an attempt has none, as on a bus without a responder, and ends
where the VM's memory does: beyond, KVM finds nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from nvmxfuzz.arch.events import Vector
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags
from nvmxfuzz.inputs.bases import base, default_base
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
from nvmxfuzz.machine.processor import NO_POINTER, Processor
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.base import (
    Message,
    Observation,
    Target,
    died,
    no_opinion,
    not_representable,
    observed,
)
from nvmxfuzz.targets.kvm_native import l1, native
from nvmxfuzz.targets.kvm_native.below import Below
from nvmxfuzz.targets.kvm_native.below_in_c import BelowInC
from nvmxfuzz.targets.kvm_native.direct import Direct, l1_of
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.guest_memory import GuestMemory
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.ioctl_numbers import EXIT_REASONS
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.looking import Looker
from nvmxfuzz.targets.kvm_native.port import FailedEntry, Script
from nvmxfuzz.targets.kvm_native.results import CallResult, Check, Stopped
from nvmxfuzz.targets.kvm_native.vcpu import blameless, sentence_of
from nvmxfuzz.targets.kvm_native.virtual import virtual_profile
from nvmxfuzz.targets.kvm_native.vm import RAM, fresh
from nvmxfuzz.targets.kvm_native.vmcs12 import Vmcs12Layout
from nvmxfuzz.targets.passage import Passage

_Regions: TypeAlias = tuple[tuple[int, bytes], ...]
_MOST_SAID: Final = 1024
"""Lists of failed checks whose messages are kept."""
_IN_L2: Final = 1
_MP_STATE: Final = 9
"""Places of numbers of `Direct.numbers`."""
_ENTERED: Final = observed(ENTERED)
_ENTRY_FAILURE: Final = 1 << 31
_BASIC_REASON: Final = 0xFFFF
_PENDING: Final = 0x100
_L2_BEGAN: Final = frozenset({int(ExitReason.VMCALL), int(ExitReason.PREEMPTION_TIMER)})
"""VM exits of an L2 that has begun: what each does, and a timer that runs out while it halts."""
_VMLAUNCH_EXIT: Final = {
    **l1.VMLAUNCH.writes(),
    "guest_rip": 0x1000,
    "guest_rsp": 0x7000,
    "guest_pending_dbg_exceptions": 0,
}
"""What the exit that took L1's instruction to KVM left in vmcs01."""
_DRY_RUN: Final = ("nested_early_check", "early_consistency_checks")
"""What the module parameter is called that selects the dry run."""
_BREAKPOINT: Final = 0x602
"""DR7 of a host with one breakpoint, as the kernel enables it; each VM exit disables it."""
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


@dataclass(frozen=True, slots=True)
class Stand:
    """A seat that is ready for an attempt, and whatever is to be done so that it is again.

    That is to restore the snapshot, and to put `memory` at those guest-physical addresses.
    """

    loop: native.Loop
    l1: native.L1
    image: bytes
    snapshot: int
    memory: tuple[tuple[int, bytes], ...]


class Seat:
    """KVM on a processor like `host`, with one vCPU in VMX operation."""

    def __init__(
        self,
        library: Library,
        host: Profile,
        name: str,
        hardware: Target,
        parameters: Mapping[str, int] | None = None,
    ) -> None:
        """Load KVM with module parameters; IoctlError if it refuses the processor.

        `name` is that of what L1 gets, `hardware` a target that stands for the processor. Where
        there is a dry run, it is not the first thing that vmcs02 is used for.
        """
        self.host = host
        self._library = library
        self._check_heap = library.prepare("nvmx_check_heap")
        self._hardware = hardware
        self._port = Below(hardware, host)
        made = fresh(library, hardware_of(host), parameters, irqchip=True)
        l1.prepare(made.vcpu, made.vm.memory)
        self._layout = Vmcs12Layout(library)
        self._vcpu = made.vcpu
        self._memory = made.vm.memory
        self._direct = Direct(library, made.vcpu.address)
        self._in_c = BelowInC(hardware, host, library, made.vcpu.address)
        self._loop = self._direct.loop(made.vcpu.file, self._in_c.native)
        self._software = self._direct.loop(made.vcpu.file, None)
        processor = base(default_base(host), host).processor
        self._last_l1 = processor, l1_of(processor)
        self.virtual = virtual_profile(made.vcpu, host, name)
        made.renew()
        made.discard()
        l1.prepare(made.vcpu, made.vm.memory)
        self._memory.write(0, bytes([UNBACKED]) * RAM)
        self._has_dry_run = _has_dry_run(library)
        self._settle()
        # Going from the seat of one processor to that of another one is the cheaper for it.
        library.functions.nvmx_round_heap()
        self._fresh = made.keep()
        self._said: dict[bytes, tuple[Message, ...]] = {}
        self._usual: _Regions = ()
        self._before: _Regions = ()

    def _settle(self) -> None:
        """Let L1 have run: what KVM makes at its first VM entry is there, not again each time."""
        processor = base(default_base(self.virtual), self.virtual).processor
        self._direct.reset_l1(l1_of(processor))
        # The one way back to user space behind which nothing is left to be done.
        self._vcpu.run(Script(FailedEntry(ExitReason.INVALID_STATE)))
        self._vmcs01: int = self._library.functions.nvmx_vmcs(self._vcpu.address, 1)
        for name, value in _VMLAUNCH_EXIT.items():
            self._write(name, value)
        if self._has_dry_run:
            # As KVM_SET_NESTED_STATE of an L2 leaves it. KVM itself writes it only behind the dry
            # run, which fails for that: docs/findings/dry-run-tsc-multiplier.md.
            vmcs02 = self._library.functions.nvmx_vmcs(self._vcpu.address, 2)
            encoding = FIELD_BY_NAME["tsc_multiplier"].encoding
            read, write = (
                getattr(self._library.functions, f"nvmx_vmcs_{verb}") for verb in ("read", "write")
            )
            write(vmcs02, encoding, read(self._vmcs01, encoding))

    def _write(self, name: str, value: int) -> None:
        """Set a field of vmcs01."""
        encoding = FIELD_BY_NAME[name].encoding
        self._library.functions.nvmx_vmcs_write(self._vmcs01, encoding, value)

    @property
    def library(self) -> Library:
        """The instance of KVM that it is a part of."""
        return self._library

    @property
    def layout(self) -> Vmcs12Layout:
        """The layout of images."""
        return self._layout

    @property
    def memory(self) -> GuestMemory:
        """The memory of L1."""
        return self._memory

    def leave(self) -> None:
        """Give back the memory of the seat, which is then of no use."""
        self._fresh.discard()

    def check_heap(self) -> None:
        """Look for damage in the memory that KVM has allocated; Stopped if there is some."""
        if not self._library.stopped:
            self._check_heap()

    def beyond(self, attempt: Attempt) -> str:
        """Return why KVM cannot be shown an attempt, "" if it can."""
        for trait in _BEYOND_KVM:
            if getattr(attempt.processor, trait.attribute) != trait.usual:
                return trait.sentence
        if attempt.processor.vmxon_pointer == NO_POINTER:
            return "KVM has no vmcs12 of an L1 that is not in VMX operation"
        if _is_given_up(attempt.processor):
            return "KVM gives up an L1 that is in IA-32e mode without PAE"
        for start, data in attempt.memory.regions:
            if start + len(data) > RAM:
                return f"L1 has {RAM >> 20} MiB of memory, and none at {start:#x}"
        return ""

    def enter(self, attempt: Attempt) -> Observation:
        """Return what KVM's software makes of the attempt; Stopped if it does not return.

        Where KVM is told to make a dry run, the hardware has a say in it.
        """
        reason = self.beyond(attempt)
        if reason:
            return not_representable(reason)
        if self._has_dry_run:
            return self._by_software(self._make_ready(attempt), attempt, self._below())[0]
        self._renew(attempt.memory.regions)
        # The same in one call, which is the faster for it.
        self._direct.run_loop(
            self._software, self._l1_of(attempt), self._image(attempt), _launches(attempt)
        )
        return self._observation(self._direct.numbers(), self._messages())

    def enter_on(self, attempt: Attempt) -> Observation:
        """Return what L1 sees where the hardware, a processor like the host, executes vmcs02."""
        reason = self.beyond(attempt)
        if reason:
            return not_representable(reason)
        if self._has_dry_run:
            return self._to_the_end(self._make_ready(attempt), attempt, self._below())
        return self._all_at_once(attempt)

    def stand(self, attempt: Attempt) -> Stand:
        """Be ready for an attempt that is not `beyond`, and for others that differ in vmcs12."""
        self._in_c.renew()
        self._renew(attempt.memory.regions)
        regions = attempt.memory.regions
        unusual = () if regions == self._usual else (*_blank(self._usual), *regions)
        image, l1 = self._image(attempt), self._l1_of(attempt)
        return Stand(self._loop, l1, image, self._fresh.snapshot, unusual)

    def follow(self, attempt: Attempt) -> Passage:
        """Return the same, with all that L1 and L0 can see on the way there."""
        reason = self.beyond(attempt)
        if reason:
            return Passage(not_representable(reason))
        image = self._make_ready(attempt)
        below = Below(self._hardware, self.host, keeps=True)
        self._library.functions.nvmx_set_dr(7, _BREAKPOINT)
        view = Looker(self._vcpu, self._layout, attempt)
        l0_before = view.l0()
        l1_before = view.l1(image)
        seen = self._to_the_end(image, attempt, below)
        if seen.status != "outcome":
            # Of a VM that KVM has given up nothing can be asked any more.
            return Passage(seen, tuple(below.asked))
        ends = (l1_before, view.l1(), l0_before, view.l0())
        return Passage(seen, tuple(below.asked), *ends)

    def _below(self) -> Below:
        self._port.renew()
        return self._port

    def _by_software(
        self, image: bytes, attempt: Attempt, below: Below
    ) -> tuple[Observation, bool]:
        """Return what nested_vmx_run() comes to, and whether L2 is to run then."""
        if self._has_dry_run:
            below.dry_run = True
            below.connect(self._library, self._vcpu.address)
        self._direct.run(image, _launches(attempt))
        ran = self._direct.numbers()
        messages = self._messages()
        below.dry_run = False
        if below.gave_up:
            return replace(below.gave_up, messages=messages), False
        return self._observation(ran, messages), _runs(ran)

    def _to_the_end(self, image: bytes, attempt: Attempt, below: Below) -> Observation:
        seen, runs = self._by_software(image, attempt, below)
        return self._run_l2(below, seen.messages) if runs else seen

    def _run_l2(self, below: Below, said: tuple[Message, ...]) -> Observation:
        below.connect(self._library, self._vcpu.address)
        try:
            error = self._direct.run_l2(self._vcpu.file)
        except Stopped as stopped:
            blamed = blameless(stopped)
            return died(sentence_of(blamed), said + messages_of(blamed.result))
        return self._ended(below, error, said)

    def _all_at_once(self, attempt: Attempt) -> Observation:
        """Do the same in one call, which is the faster for it; where KVM says something, in two."""
        self._in_c.renew()
        self._renew(attempt.memory.regions)
        try:
            done = self._direct.run_loop(
                self._loop, self._l1_of(attempt), self._image(attempt), _launches(attempt)
            )
        except Stopped as stopped:
            raise blameless(stopped) from stopped.__cause__
        if done:
            return self._ended(self._in_c, min(done, 0))
        ran = self._direct.numbers()
        seen = self._observation(ran, self._messages())
        return self._run_l2(self._below(), seen.messages) if _runs(ran) else seen

    def _ended(self, below: Below, error: int, said: tuple[Message, ...] = ()) -> Observation:
        """Return what L1 sees after KVM_RUN."""
        messages = said + self._messages()
        if error:
            return died(str(IoctlError(-error, "KVM_RUN")), messages)
        if below.gave_up:
            return replace(below.gave_up, messages=messages)
        end = self._end()
        if end is None:
            return no_opinion("KVM ends L2 for a reason of its own", messages)
        return observed(end, messages)

    def _renew(self, regions: _Regions) -> None:
        """Be as new, with these regions in memory.

        The first ones that come twice in a row are kept in the snapshot: they are those of a base.
        """
        self._fresh.renew()
        if regions == self._usual:
            return
        for start, data in (*_blank(self._usual), *regions):
            self._memory.write(start, data)
        if regions == self._before and not self._usual:
            # There may be no room for one more snapshot: then they are not in the one there is.
            kept = self._fresh.keep()
            self._fresh.discard()
            self._fresh, self._usual = kept, regions
        self._before = regions

    def _make_ready(self, attempt: Attempt) -> bytes:
        """Make L1 what it is in the attempt; return the image of its vmcs12."""
        self._renew(attempt.memory.regions)
        self._direct.reset_l1(self._l1_of(attempt))
        # As the exit left it: KVM has it at hand, and reads it here only if it comes back.
        self._write("guest_cr3", attempt.processor.cr3)
        return self._image(attempt)

    def _l1_of(self, attempt: Attempt) -> native.L1:
        processor, l1 = self._last_l1
        if processor is not attempt.processor:
            l1 = l1_of(attempt.processor)
            self._last_l1 = attempt.processor, l1
        return l1

    def _image(self, attempt: Attempt) -> bytes:
        shadow = attempt.processor.current_vmcs_is_shadow
        return self._layout.pack(attempt.vmcs, attempt.launch_state == "launched", shadow)

    def _observation(self, ran: tuple[int, ...], messages: tuple[Message, ...]) -> Observation:
        value, in_l2, rflags, _, error, reason, qualification, _, exception, _, _, to_user = ran
        if in_l2:
            return observed(ENTERED, messages) if messages else _ENTERED
        if value == 0:
            return no_opinion(
                f"KVM leaves L1 to user space with {_exit_to_user(to_user)}", messages
            )
        if exception & _PENDING and exception & 0xFF != Vector.DB:
            return observed(fault(exception & 0xFF), messages)
        # With TF in L1 a #DB is pending behind an instruction that is done, as it is after VMfail.
        outcome = _failure(rflags, error)
        if outcome is None:
            outcome = _exit(reason, qualification)
        if outcome is None:
            return no_opinion("KVM goes on in L1 as if nothing had happened", messages)
        return observed(outcome, messages)

    def _end(self) -> Outcome | None:
        """Return what L1 finds after KVM_RUN, in its flags and in the fields of vmcs12.

        None if that is no end of a VM entry.
        """
        ran = self._direct.ran_seen
        exited = _exit(ran.exit_reason, ran.exit_qualification)
        if exited is not None:
            return exited
        if ran.exit_reason & _BASIC_REASON in _L2_BEGAN:
            return ENTERED
        return _failure(ran.rflags, ran.instruction_error)

    def _messages(self) -> tuple[Message, ...]:
        reader = self._library.reader
        if reader.words[reader.WARNINGS]:
            return messages_of(self._library.result())
        if not reader.words[reader.CHECKS]:
            return ()
        sites = reader.check_sites()
        said = self._said.get(sites)
        if said is None:
            if len(self._said) == _MOST_SAID:
                self._said.clear()
            said = self._said[sites] = messages_of(self._library.result())
        return said


def messages_of(result: CallResult) -> tuple[Message, ...]:
    """Return what KVM said in a call: the consistency checks that failed, and the warnings."""
    checks = (_check_message(check) for check in result.checks)
    warnings = (Message(text, text) for text in (f"WARN {each}" for each in result.warnings))
    return (*checks, *warnings)


def _is_given_up(l1: Processor) -> bool:
    """Tell whether KVM has no mode of paging for an L1: kernels behind 6.1 end the VM for that."""
    return l1.efer & Efer.LMA != 0 and l1.cr0 & Cr0.PG != 0 and l1.cr4 & Cr4.PAE == 0


def _blank(regions: _Regions) -> _Regions:
    return tuple([(start, bytes([UNBACKED]) * len(data)) for start, data in regions])


def _exit_to_user(reason: int) -> str:
    name = EXIT_REASONS.get(reason)
    return f"KVM_EXIT_{name.upper().replace('-', '_')}" if name else f"reason {reason}"


def _has_dry_run(library: Library) -> bool:
    parameters = library.parameters
    return any(name in parameters and parameters[name].value != 0 for name in _DRY_RUN)


def _launches(attempt: Attempt) -> bool:
    return attempt.instruction == "vmlaunch"


def _runs(ran: tuple[int, ...]) -> bool:
    """Tell whether L2 is to run. Where it halts at once, no processor executes anything."""
    return ran[_IN_L2] != 0 and ran[_MP_STATE] == _RUNNABLE


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
