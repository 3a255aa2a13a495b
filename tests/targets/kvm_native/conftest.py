# SPDX-License-Identifier: GPL-2.0-only
"""The built objects, for the tests of KVM in user space: without one its tests are skipped.

NVMXFUZZ_REQUIRE_KVM names objects, as in "6.1,6.12,6.12-coverage", whose tests must not be skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.session_steps import session_step
from nvmxfuzz.inputs.world import parameters_of, world_on
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.oracles.session.witness import StepResult
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject, find_object, usable
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.port import Answer, Script
from nvmxfuzz.targets.kvm_native.session import KvmSessions
from nvmxfuzz.targets.kvm_native.vcpu import Vcpu, offered
from nvmxfuzz.targets.kvm_native.vm import Fresh, fresh

KERNELS = ("6.1", "6.12")
ARITHMETIC = Rflags.CF | Rflags.PF | Rflags.AF | Rflags.ZF | Rflags.SF | Rflags.OF


NewMachine: TypeAlias = Callable[..., Fresh]


@cache
def _loaded(path: Path, symbols: Path) -> Library:
    return Library(path, symbols)


@pytest.fixture(scope="session", params=KERNELS)
def built(request: pytest.FixtureRequest) -> BuiltObject:
    """Return the object of each kernel in turn."""
    return _found(request.param)


@pytest.fixture(scope="session", params=KERNELS)
def counting(request: pytest.FixtureRequest) -> BuiltObject:
    """Return the object with coverage of each kernel in turn."""
    return _found(request.param, "coverage")


def _found(kernel: str, variant: str = "plain") -> BuiltObject:
    reason = usable(kernel, variant)
    name = f"{kernel}-{variant}".removesuffix("-plain")
    if reason and name in os.environ.get("NVMXFUZZ_REQUIRE_KVM", "").split(","):
        pytest.fail(f"required by NVMXFUZZ_REQUIRE_KVM: {reason}")
    if reason:
        pytest.skip(reason)
    return find_object(kernel, variant)


@pytest.fixture
def library_path(built: BuiltObject) -> Path:
    """Return where the object is, to be loaded by another process."""
    return built.path


@pytest.fixture
def library(built: BuiltObject) -> Library:
    """Return KVM of each kernel in turn, in its pristine state."""
    found = _loaded(built.path, built.symbols)
    found.restore()
    return found


@pytest.fixture
def new_machine(library: Library) -> Iterator[NewMachine]:
    """Return a function (profile name, parameters...) that makes a fresh vCPU."""
    made: list[Fresh] = []

    def new(profile: str = "skylake-x", **parameters: int) -> Fresh:
        made.append(fresh(library, hardware_of(load_profile(profile)), parameters))
        return made[-1]

    yield new
    for machine in made:
        machine.discard()


def virtual_processor(machine: Fresh) -> Profile:
    """Return a profile of the processor that L1 finds."""
    host = machine.machine.hardware.profile
    msrs = offered(machine.vcpu)
    assert msr.MSR_IA32_VMX_BASIC in msrs
    table = {f"{index:#x}": value for index, value in msrs.items()}
    return Profile.from_mapping({**host.to_mapping(), "name": "virtual", "msrs": table})


class Hypervisor:
    """L1 with a VMCS12 that is current and written: what is left is VMLAUNCH."""

    def __init__(self, machine: Fresh, profile: Profile, edits: Mapping[str, int]) -> None:
        self.machine = machine
        self.vcpu = machine.vcpu
        self.host = machine.machine.hardware.profile
        attempt = base("guest-64", profile)
        l1.prepare(self.vcpu, machine.vm.memory)
        for address, data in attempt.memory.regions:
            machine.vm.memory.write(address, data)
        for instruction in (l1.vmxon(), l1.vmclear(), l1.vmptrld()):
            assert self.step(instruction) == 0
        written = {name: value for name, value in attempt.vmcs.items().items() if value}
        for exit_ in l1.vmwrites({**written, **edits}):
            self.step(exit_)

    def step(self, *exits: Answer) -> int:
        """Execute instructions in L1, and HLT; return the arithmetic flags of L1."""
        assert str(self.vcpu.run(Script(*exits, l1.HLT))) == "hlt"
        return int(self.vcpu.get_regs().rflags & ARITHMETIC)

    def read(self, name: str) -> int:
        """Execute VMREAD in L1."""
        assert self.step(l1.vmread(name)) == 0
        return int(self.vcpu.get_regs().rax)


@pytest.fixture
def hypervisor(new_machine: NewMachine) -> Callable[..., Hypervisor]:
    """Return a function that makes L1 ready for VMLAUNCH: edits of vmcs12, module parameters.

    `change` has the vCPU before L1 does anything.
    """

    def make(
        edits: Mapping[str, int] | None = None,
        profile: str = "skylake-x",
        change: Callable[[Vcpu], None] = lambda _: None,
        **parameters: int,
    ) -> Hypervisor:
        machine = new_machine(profile, **{"enable_shadow_vmcs": 0} | parameters)
        change(machine.vcpu)
        return Hypervisor(machine, virtual_processor(machine), edits or {})

    return make


@cache
def _sessions(path: Path, symbols: Path, kernel: str) -> KvmSessions:
    return KvmSessions(Library(path, symbols), kernel)


@pytest.fixture(scope="session")
def sessions(built: BuiltObject) -> KvmSessions:
    """Return the witness of sessions of each kernel in turn."""
    return _sessions(built.path, built.symbols, built.kernel)


@pytest.fixture
def in_world(sessions: KvmSessions) -> Callable[..., None]:
    """Return what loads the world of sessions, with module parameters by name."""

    def load(**parameters: int) -> None:
        plain = world_on("skylake-x", sessions.kernel)
        assert sessions.load(replace(plain, parameters=parameters_of(parameters))) == ""

    return load


@pytest.fixture
def play(sessions: KvmSessions, in_world: Callable[..., None]) -> Callable[..., StepResult]:
    """Return what does a step of a new session: its kind, the vCPU, and operands by name."""
    in_world()

    def step(kind: str, vcpu: int = 0, **operands: int | str) -> StepResult:
        result = sessions.do(session_step(kind, vcpu, **operands))
        assert not result.stopped, result
        return result

    return step


@pytest.fixture
def entered(play: Callable[..., StepResult]) -> Callable[..., None]:
    """Return what goes the way of a hypervisor up to a step, on a vCPU."""

    def go(until: str = "vmlaunch", vcpu: int = 0) -> None:
        for kind in ("vmxon", "vmclear", "vmptrld", "prepare", "vmlaunch"):
            outcome = play(kind, vcpu).outcome
            assert outcome == ("entered" if kind == "vmlaunch" else "done"), kind
            if kind == until:
                return

    return go
