# SPDX-License-Identifier: GPL-2.0-only
"""The rules and Bochs as the processor below KVM: they judge what KVM itself enters."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from nvmxfuzz.arch.registers import Cr4, Rflags
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, exit_on_entry, fail_valid, fault
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names
from nvmxfuzz.targets.base import Observation, Target, no_opinion, observed
from nvmxfuzz.targets.bochs.models import MODELS
from nvmxfuzz.targets.bochs.target import Bochs
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native.judged import Judged, OnTarget
from nvmxfuzz.targets.kvm_native.port import (
    VMCALL,
    Answer,
    Answering,
    PortEntry,
    PortFailed,
    Script,
)
from nvmxfuzz.targets.kvm_native.results import Stopped
from nvmxfuzz.targets.kvm_native.vm import Fresh
from nvmxfuzz.targets.kvm_native.vmcs02 import attempt_of
from nvmxfuzz.targets.python_model import PythonModel

NewMachine: TypeAlias = Callable[..., Fresh]
MakeHypervisor: TypeAlias = Callable[..., Any]

TOO_OLD = frozenset({"core-duo-t2600", "kvm-virtual", "yonah"})
LAUNCH = (l1.VMLAUNCH, VMCALL, l1.HLT)


class Fake(Target):
    """Says the same of every attempt that is in L2, and lets the others enter."""

    def __init__(self, said: Observation) -> None:
        self._said = said
        self.attempts: list[Attempt] = []

    @property
    def name(self) -> str:
        """The name of the target."""
        return "fake"

    def open(self, profile: Profile) -> None:
        """Do nothing."""

    def run(self, attempt: Attempt) -> Observation:
        """Say it from the second attempt on."""
        self.attempts.append(attempt)
        return self._said if len(self.attempts) == 2 else observed(ENTERED)

    def close(self) -> None:
        """Do nothing."""


PROFILES = sorted(set(profile_names()) - TOO_OLD)


def enter_l2(l1_: Any, target: Target) -> list[Judged]:  # noqa: ANN401 # conftest.Hypervisor
    """Let L1 enter L2 and be entered again; the guest's VMCALL is what L1 finds."""
    port = OnTarget(target, l1_.host, LAUNCH)
    assert str(l1_.vcpu.run(port)) == "hlt"
    judged = port.judged
    assert [(one.is_l2, one.outcome, one.observation.messages) for one in judged] == [
        (False, ENTERED, ()),
        (True, ENTERED, ()),
        (False, ENTERED, ()),
    ]
    assert l1_.read("vm_exit_reason") == VMCALL.reason
    return judged


@pytest.mark.parametrize("name", PROFILES)
def test_vmcs01_and_vmcs02_hold_on_the_rules(hypervisor: MakeHypervisor, name: str) -> None:
    judged = enter_l2(hypervisor(profile=name), PythonModel())
    instructions = [one.attempt.instruction for one in judged]
    assert instructions == ["vmresume", "vmlaunch", "vmresume"]


@pytest.mark.parametrize("name", [name for name in PROFILES if name in MODELS])
def test_vmcs01_and_vmcs02_hold_on_bochs(
    hypervisor: MakeHypervisor, bochs: Bochs, name: str
) -> None:
    enter_l2(hypervisor(profile=name), bochs)


@pytest.mark.parametrize("parameter", ["ept", "vpid", "unrestricted_guest", "flexpriority"])
def test_vmcs02_holds_without_what_the_processor_has(
    hypervisor: MakeHypervisor, parameter: str
) -> None:
    enter_l2(hypervisor(**{parameter: 0}), PythonModel())


def hardware_targets(bochs: Bochs) -> tuple[Target, ...]:
    return PythonModel(), bochs


def test_what_kvm_leaves_to_the_hardware_is_found_there(
    hypervisor: MakeHypervisor, bochs: Bochs
) -> None:
    l1_ = hypervisor({"guest_rflags": 0})
    kept = l1_.machine.keep()
    for target in hardware_targets(bochs):
        kept.renew()
        port = OnTarget(target, l1_.host, (l1.VMLAUNCH, l1.HLT))
        assert str(l1_.vcpu.run(port)) == "hlt"
        assert port.judged[1].is_l2
        assert port.judged[1].outcome == exit_on_entry(33)
        assert l1_.read("vm_exit_reason") == 1 << 31 | 33
    kept.discard()


def test_a_vmfail_of_the_target_reaches_l1(hypervisor: MakeHypervisor) -> None:
    l1_ = hypervisor()
    port = OnTarget(Fake(observed(fail_valid(7))), l1_.host, (l1.VMLAUNCH, l1.HLT))
    assert str(l1_.vcpu.run(port)) == "hlt"
    assert l1_.vcpu.get_regs().rflags & Rflags.ZF
    assert l1_.read("vm_instruction_error") == 7


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (no_opinion("that is too much"), "fake: no-opinion: that is too much"),
        (observed(fault(6)), "the processor's answer to KVM's own VM entry is fault 6"),
    ],
)
def test_without_an_outcome_the_reason_is_kept(
    hypervisor: MakeHypervisor, said: Observation, why: str
) -> None:
    l1_ = hypervisor()
    port = OnTarget(Fake(said), l1_.host, LAUNCH)
    with pytest.raises(Stopped) as stopped:
        l1_.vcpu.run(port)
    assert stopped.value.result.status == "port"
    assert isinstance(stopped.value.__cause__, PortFailed)
    assert str(stopped.value.__cause__) == why


def test_a_defect_of_the_port_is_not_lost(new_machine: NewMachine) -> None:
    machine = new_machine()

    def broken(entry: PortEntry) -> Answer:
        raise ZeroDivisionError(f"entry {entry.number}")

    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="entry 0"):
            machine.vcpu.run(Answering(broken))
        machine.renew()
    assert str(machine.vcpu.run(Script(l1.HLT))) == "hlt"


def test_the_port_sees_registers_and_changes_them(new_machine: NewMachine) -> None:
    machine = new_machine()
    regs = machine.vcpu.get_regs()
    regs.rcx, regs.r9 = 0x11, 0x22
    machine.vcpu.set_regs(regs)
    seen: list[tuple[int, int, bool]] = []

    def changes(entry: PortEntry) -> Answer:
        seen.append((entry.register("rcx"), entry.register("r9"), entry.resume))
        return l1.HLT if len(seen) > 1 else l1.cpuid(leaf=0)

    assert str(machine.vcpu.run(Answering(changes))) == "hlt"
    assert seen[0] == (0x11, 0x22, False)
    vendor = b"".join(
        getattr(machine.vcpu.get_regs(), name).to_bytes(4, "little")
        for name in ("rbx", "rdx", "rcx")
    )
    assert vendor == b"GenuineIntel"
    assert seen[1][2]


def test_the_attempt_is_that_of_the_host(new_machine: NewMachine) -> None:
    machine = new_machine()
    found: list[Attempt] = []
    profile = load_profile("skylake-x")

    def look(entry: PortEntry) -> Answer:
        found.append(attempt_of(entry, profile))
        return l1.HLT

    machine.vcpu.run(Answering(look))
    attempt = found[0]
    assert attempt.processor.cr4 & Cr4.VMXE
    assert attempt.processor.cr4 == attempt.vmcs.host_cr4
    assert attempt.processor.cs_l
    assert attempt.vmcs.vmcs_link_pointer == 0xFFFF_FFFF_FFFF_FFFF
    assert attempt.processor.current_vmcs & 0xFFF == 0
    assert attempt.processor.current_vmcs >> profile.maxphyaddr == 0
    assert attempt.launch_state == "clear"


PROGRAM = """
import sys
from pathlib import Path
from conftest import Hypervisor, virtual_processor
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.judged import Judged, OnTarget
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.port import VMCALL
from nvmxfuzz.targets.kvm_native.vm import fresh
from nvmxfuzz.targets.python_model import PythonModel

host = load_profile("skylake-x")
library = Library(Path(sys.argv[1]))
for edits in ({}, {"host_cr0": 0}, {"guest_rflags": 0}, {"vmcs_link_pointer": 1}):
    machine = fresh(library, hardware_of(host), {"enable_shadow_vmcs": 0})
    l1_ = Hypervisor(machine, virtual_processor(machine), edits)
    port = OnTarget(PythonModel(), host, (l1.VMLAUNCH, VMCALL, l1.HLT))
    print(l1_.vcpu.run(port), library.result())
    for judged in port.judged:
        fields = judged.attempt.vmcs.items()
        # Addresses of the kernel itself differ from run to run, as on a real one.
        ours = {name for name in fields if name.startswith("host_") and name.endswith("_base")}
        ours |= {"host_rip", "host_rsp"}
        print(judged.outcome, {name: fields[name] for name in fields if name not in ours})
        print(judged.attempt.processor, judged.attempt.memory)
    print(l1_.vcpu.get_regs(), l1_.vcpu.get_sregs(), bytes(l1_.vcpu.get_nested_state()))
"""


def test_a_case_is_the_same_in_two_processes(library_path: Path) -> None:
    here = os.pathsep.join((str(Path(__file__).parent), *sys.path))
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(library_path)],
            env={**os.environ, "PYTHONPATH": here, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert runs[0].count("entered") >= 4
