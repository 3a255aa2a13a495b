# SPDX-License-Identifier: GPL-2.0-only
"""The real KVM as one side of a migration: see `nvmxfuzz.oracles.migration.carrier`."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

from nvmxfuzz.inputs.world import World
from nvmxfuzz.kvm.traced_checks import check_names
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.oracles.migration.carrier import ENTERED, Entry, Saved, Side
from nvmxfuzz.oracles.migration.cases import Migrator, model_side
from nvmxfuzz.oracles.restore.witness import WitnessStoppedError
from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.agreement.ending import how_it_ended
from nvmxfuzz.targets.kvm_native.build.objects import find_object, usable
from nvmxfuzz.targets.kvm_native.direct import Ran, l1_of
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.msrs import KvmMsrs
from nvmxfuzz.targets.kvm_native.results import Check, Stopped
from nvmxfuzz.targets.kvm_native.vmcs12 import Vmcs12Layout

KERNELS: Final = ("6.1", "6.12")
"""Kernels whose KVM carries VMs here."""

_L2: Final = 1 << 0 | 1 << 1
"""KVM_STATE_NESTED_GUEST_MODE and _RUN_PENDING: L2 has been entered, and has not run."""


@cache
def side(kernel: str, number: int = 0) -> KvmSide:
    """Return a side: the same one for a kernel and a number. InputError if it is not built."""
    del number  # two sides of one kernel are two instances
    return KvmSide(Library.of(find_object(kernel)), kernel)


def migrator(kernel: str) -> Migrator:
    """Return what runs cases on the real KVM, where it is built; InputError if `kernel` is not."""
    real = frozenset(each for each in KERNELS if each == kernel or not usable(each))
    # All of them now: later there may be no room for them in a worker.
    sides = {(each, number): side(each, number) for each in sorted(real) for number in (0, 1)}

    def make(world: World, number: int) -> Side:
        return sides.get((world.kernel, number)) or model_side(world, number)

    return Migrator(make)


class KvmSide(KvmMsrs):
    """A machine with one vCPU, on which L1 may enter L2."""

    def __init__(self, library: Library, kernel: str) -> None:
        super().__init__(library, kernel)
        self._layout = Vmcs12Layout(library)

    def enter(self, attempt: Attempt) -> Entry:
        """Let nested_vmx_run() do its work; what it would run is not run."""
        self._bring(attempt)
        direct = self._direct_calls()
        image = self._layout.pack(attempt.vmcs, attempt.launch_state == "launched")
        try:
            direct.reset_l1(l1_of(attempt.processor))
            direct.run(image, attempt.instruction == "vmlaunch")
        except Stopped as stopped:
            raise WitnessStoppedError(stopped.result.sentence()) from None
        return _entry_of(direct.ran())

    def save(self, attempt: Attempt, in_l2: bool) -> Saved:
        """KVM_GET_NESTED_STATE."""
        state = s.NestedState(size=ctypes.sizeof(s.NestedState))
        self._call(io.KVM_GET_NESTED_STATE, ctypes.byref(state))
        return Saved(attempt, in_l2, bytes(state))

    def resume(self, saved: Saved) -> Entry:
        """KVM_SET_NESTED_STATE; its checks are those of VM entry."""
        self._bring(saved.attempt)
        state = s.NestedState.from_buffer_copy(saved.image or self._image(saved))
        value = self._call(io.KVM_SET_NESTED_STATE, ctypes.byref(state))
        if value == 0:
            return Entry(ENTERED)
        checks = self.library.result().checks
        said = f"errno {-value}" if value < 0 else f"returns {value}"
        return Entry(said, _check_of(checks[0] if checks else None))

    def _bring(self, attempt: Attempt) -> None:
        """Put L1's memory there."""
        memory = self.vcpu.memory
        for start, data in attempt.memory.regions:
            memory.write(start, data)

    def _image(self, saved: Saved) -> bytes:
        """Return the nested state that a side without one of its own would have saved."""
        processor = saved.attempt.processor
        state = s.NestedState(
            flags=_L2 if saved.in_l2 else 0,
            size=ctypes.sizeof(s.NestedState),
            vmxon_pa=processor.vmxon_pointer,
            vmcs12_pa=processor.current_vmcs,
        )
        image = self._layout.pack(saved.attempt.vmcs, saved.in_l2)
        ctypes.memmove(state.vmcs12, image, len(image))
        return bytes(state)


def _entry_of(ran: Ran) -> Entry:
    outcome, died = how_it_ended(ran)
    return Entry(died if outcome is None else str(outcome), _check_of(ran.check))


def _check_of(check: Check | None) -> str:
    """Return the model's name of a check; where it knows none, the function that it stands in."""
    if check is None:
        return ""
    names = check_names(check.function, check.text)
    return names[0] if len(names) == 1 else check.function
