# SPDX-License-Identifier: GPL-2.0-only
"""The processor below a seat: a target judges each VM entry of L2, and L1 does nothing any more."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.base import Observation, Target, no_opinion
from nvmxfuzz.targets.kvm_native import l1, native
from nvmxfuzz.targets.kvm_native.judged import likeliest, refused
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.port import (
    VMCALL,
    Answer,
    FailedEntry,
    Port,
    PortEntry,
    PortFailed,
    VmFail,
    action,
)
from nvmxfuzz.targets.kvm_native.vmcs02 import attempt_of
from nvmxfuzz.targets.passage import Asked

_IN_L1: Final = 8
"""How many VM entries of L1 are answered: more than KVM asks for on the way to user space."""
LATER: Final = (native.Action * _IN_L1)(*[action(l1.OUT)] * _IN_L1)
"""The answers to what KVM asks for then."""
_SCRIPT_AT: Final = ctypes.byref(LATER)
_ENCODINGS: Final = {name: field.encoding for name, field in FIELD_BY_NAME.items()}
_REFUSED: Final = FailedEntry(ExitReason.INVALID_STATE)
_CALLED: Final = VMCALL.writes()
_VM_EXIT: Final = 0
_VM_FAIL: Final = 1
_ERROR: Final = _ENCODINGS["vm_instruction_error"]


class Below(Port):
    """A port on `target`, a processor like `host`, for one VM entry of L1's.

    `dry_run` is for the owner to set: while it is True no entry is one of L2 yet. `asked` is what
    became of the entries of vmcs02, if they are kept. Where the target has no outcome, `gave_up`
    says why, and the guest is said to run, or the dry run to be over.
    """

    def __init__(self, target: Target, host: Profile, *, keeps: bool = False) -> None:
        self._target = target
        self._host = host
        self._keeps = keeps
        self._entering: Callable[[native.Entry], int] | None = None
        self.renew()

    def renew(self) -> None:
        """Be as new, for the next VM entry of L1's on the same vCPU."""
        self.dry_run = False
        self.asked: list[Asked] = []
        self.gave_up: Observation | None = None

    def connect(self, library: Library, vcpu: int) -> None:
        """Be the processor of `library` from now on, always of the same vCPU."""
        if self._entering is None:
            self._entering = self.port_of(library, vcpu)
        library.set_port(self._entering)

    def port_of(self, library: Library, vcpu: int) -> Callable[[native.Entry], int]:
        """Return the function that `connect` sets."""

        def entered(entry: native.Entry) -> int:
            asked = PortEntry(library, vcpu, entry)
            if not self.dry_run and not asked.is_l2:
                return asked.accept(l1.OUT)
            return self._entered(asked)

        return entered

    def _entered(self, entry: PortEntry) -> int:
        attempt = attempt_of(entry, self._host)
        answer = self.answer(attempt)
        if not self.dry_run:
            # What is left is to get L1 out to user space, which takes no more of Python.
            entry.functions.nvmx_set_script(_SCRIPT_AT, _IN_L1)
        if isinstance(answer, VmFail):
            if answer.error is not None:
                entry.functions.nvmx_vmcs_write(entry.vmcs, _ERROR, answer.error)
            return _VM_FAIL
        _exit(entry, attempt, _CALLED if answer is VMCALL else answer.writes())
        return _VM_EXIT

    def answer(self, attempt: Attempt) -> Answer:
        """Return what the target makes of a VM entry."""
        seen = self._target.run(attempt)
        if seen.status != "outcome":
            self._give_up(seen)
            return _REFUSED if self.dry_run else VMCALL
        outcome = likeliest(seen.outcomes)
        if self._keeps:
            self.asked.append(Asked(attempt, seen, outcome, self.dry_run))
        return VMCALL if outcome == ENTERED else refused(outcome)

    def _give_up(self, seen: Observation) -> None:
        said = f"{self._target.name}: {seen.reason}"
        if seen.status == "died":
            raise PortFailed(f"{self._target.name} died: {seen.reason}")
        if seen.status == "not-representable":
            self.gave_up = Observation(seen.status, reason=said)
        else:
            self.gave_up = no_opinion(said)


def _exit(entry: PortEntry, attempt: Attempt, writes: dict[str, int]) -> None:
    """Do what a VM exit does: write the VMCS, and load the host state."""
    write, vmcs = entry.functions.nvmx_vmcs_write, entry.vmcs
    current = attempt.vmcs.__dict__
    for name, value in writes.items():
        if current[name] != value:
            write(vmcs, _ENCODINGS[name], value)
    entry.functions.nvmx_load_host_state(vmcs)
