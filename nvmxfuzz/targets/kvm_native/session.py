# SPDX-License-Identifier: GPL-2.0-only
"""The real KVM as a witness of sessions: `oracles.session.witness.SessionWitness`.

A world is loaded once, and a snapshot of it restored for each session; the last worlds are kept.
What is executed by the guest is told by the VM exits that it causes; userspace makes its ioctls as
ever.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Final

from nvmxfuzz.inputs.session_steps import VCPUS, SessionStep
from nvmxfuzz.inputs.world import World
from nvmxfuzz.oracles.restore.witness import WitnessStoppedError
from nvmxfuzz.oracles.session.witness import StepResult, VcpuView
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.results import Stopped
from nvmxfuzz.targets.kvm_native.session_boot import boot
from nvmxfuzz.targets.kvm_native.session_evmcs import EVMCS_STEPS
from nvmxfuzz.targets.kvm_native.session_fields import FIELDS_IN_MEMORY
from nvmxfuzz.targets.kvm_native.session_guest import GUEST
from nvmxfuzz.targets.kvm_native.session_lapic import LAPIC_STEPS
from nvmxfuzz.targets.kvm_native.session_userspace import USERSPACE, Handler
from nvmxfuzz.targets.kvm_native.session_vcpu import SessionVm
from nvmxfuzz.targets.kvm_native.session_view import Viewer
from nvmxfuzz.targets.kvm_native.target import PLAIN

STEP_LIMIT: Final = 200_000
"""Steps of the shim that an ioctl may take: more is a loop of KVM's own."""

_HANDLERS: Final[Mapping[str, Handler]] = MappingProxyType(
    {**USERSPACE, **GUEST, **FIELDS_IN_MEMORY, **LAPIC_STEPS, **EVMCS_STEPS}
)


_MOST_WORLDS: Final = 12
"""Worlds that are kept ready, of a few MiB each: making one costs as much as several sessions."""


@cache
def session_witness(kernel: str, variant: str = PLAIN) -> KvmSessions:
    """Return the witness of a kernel: one for this process. InputError if it is not built."""
    from nvmxfuzz.targets.kvm_native.build.objects import find_object

    return KvmSessions(Library.of(find_object(kernel, variant)), kernel)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A world as it was loaded: its VM and the snapshot of it, or why KVM refuses it."""

    vm: SessionVm | None
    snapshot: int | None = None
    refusal: str = ""


class KvmSessions:
    """KVM of one version, with a VM of two vCPUs."""

    def __init__(self, library: Library, kernel: str) -> None:
        """Take an instance of KVM for itself, and the version that it was built from."""
        self.kernel = kernel
        self.name = f"kvm-{kernel}"
        self.library = library
        self.vm: SessionVm | None = None
        """What was loaded last, None if KVM refused."""
        self._viewer: Viewer | None = None
        self._ready: dict[World, _Ready] = {}
        self._snapshot: int | None = None
        self._untouched = False
        library.step_limit = STEP_LIMIT

    def load(self, world: World) -> str:
        """Load KVM in a world and make the VM; "" or why KVM refuses the processor."""
        self.vm = None
        found = self._ready.pop(world, None)
        if found is None:
            if len(self._ready) == _MOST_WORLDS:
                self._give_up_oldest()
            found = self._make(world)
        self._ready[world] = found
        self.vm, self._snapshot = found.vm, found.snapshot
        self._untouched = False
        if self.vm is not None:
            self.renew()
        return found.refusal

    def _make(self, world: World) -> _Ready:
        self.library.restore()
        try:
            vm = boot(self.library, world)
        except IoctlError as refused:
            return _Ready(None, refusal=str(refused))
        except Stopped as stopped:
            raise WitnessStoppedError(stopped.result.sentence()) from None
        if self._viewer is None:
            self._viewer = Viewer(vm.layout)
        return _Ready(vm, self.library.snapshot())

    def _give_up_oldest(self) -> None:
        oldest = self._ready.pop(next(iter(self._ready)))
        if oldest.snapshot is not None:
            self.library.discard(oldest.snapshot)

    def renew(self) -> None:
        """Have everything as `load` left it."""
        vm = self._loaded()
        if self._untouched:
            return
        self.library.restore(self._snapshot)
        vm.slots.clear()
        vm.broken = False
        vm.refused = 0
        for vcpu in vm.vcpus:
            vcpu.readable = dict(vcpu.readable_at_first)
        self._untouched = True

    def do(self, step: SessionStep) -> StepResult:
        """Carry a step out, and tell what it came to."""
        vm = self._loaded()
        self._untouched = False
        vm.forget()
        vcpu = vm.vcpus[step.vcpu % VCPUS]
        vcpu.emulated_l2 = False
        vm.refusing, vm.refused = vm.refused, 0
        try:
            result = _HANDLERS[step.kind](vcpu, step)
        except Stopped as stopped:
            vm.note()
            result = StepResult(stopped=stopped.result.sentence())
        finally:
            vm.refusing = 0
        if vm.broken and not result.stopped:
            # What else was read in the step says nothing any more.
            result = StepResult(-errno.EIO)
        if not vcpu.emulated_l2 and not vm.warnings and not vm.checks:
            return result
        warnings, checks = tuple(vm.warnings), tuple(vm.checks)
        vm.forget()
        return replace(result, emulated=vcpu.emulated_l2, warnings=warnings, checks=checks)

    def read(self, vcpu: int) -> VcpuView:
        """Return what userspace can read of a vCPU; WitnessStoppedError if KVM does not return."""
        vm = self._loaded()
        self._untouched = False
        if self._viewer is None:
            raise ValueError("KVM is not loaded")
        try:
            return self._viewer.view(vm.vcpus[vcpu])
        except Stopped as stopped:
            raise WitnessStoppedError(stopped.result.sentence()) from None

    def late_warnings(self) -> tuple[str, ...]:
        """Return the WARNs since `do` returned."""
        return tuple(self._loaded().warnings)

    def _loaded(self) -> SessionVm:
        if self.vm is None:
            raise ValueError("KVM is not loaded")
        return self.vm
