# SPDX-License-Identifier: GPL-2.0-only
"""Real KVM on a target: what L1 sees, the dry run, and a processor with faults planted in it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nvmxfuzz.arch.controls import Primary
from nvmxfuzz.arch.registers import Cr4
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, exit_on_entry, fail_valid
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.oracles.kvm.loop import loop_oracles
from nvmxfuzz.targets.base import (
    Observation,
    Target,
    died,
    no_opinion,
    not_representable,
    observed,
)
from nvmxfuzz.targets.bochs import wheel
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native import loop as loop_module
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject
from nvmxfuzz.targets.kvm_native.judged import OnTarget
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.loop import KvmLoop, on_bochs
from nvmxfuzz.targets.kvm_native.port import VMCALL
from nvmxfuzz.targets.python_model import PythonModel
from nvmxfuzz.targets.registry import TARGETS

PLAIN = base("guest-64", load_profile("skylake-x"))
LATE = {
    "cpu_based_vm_exec_control": PLAIN.vmcs.cpu_based_vm_exec_control | Primary.USE_TPR_SHADOW,
    "tpr_threshold": 0x10,
    "virtual_apic_page_addr": 0x25000,
}
"""A control that KVM leaves to the processor: bits 31:4 of the TPR threshold are not 0."""


def edited(**fields: int) -> Attempt:
    return replace(PLAIN, vmcs=PLAIN.vmcs.replace(fields))


class Planted(Target):
    """The rules, but for what `fault` says instead."""

    def __init__(self, fault: Callable[[Attempt], Observation | None]) -> None:
        self._fault = fault
        self._rules = PythonModel()

    @property
    def name(self) -> str:
        """The name of the target."""
        return "planted"

    def open(self, profile: Profile) -> None:
        """Need nothing."""

    def close(self) -> None:
        """Have nothing."""

    def run(self, attempt: Attempt) -> Observation:
        """Return what the fault says, or else the rules."""
        return self._fault(attempt) or self._rules.run(attempt)


def is_dry(attempt: Attempt) -> bool:
    return attempt.vmcs.guest_rflags == 0


@pytest.fixture
def kernel(built: BuiltObject) -> str:
    return built.manifest.kernel


@pytest.fixture(scope="module")
def loops() -> dict[str, KvmLoop]:
    return {}


@pytest.fixture
def rules(kernel: str, loops: dict[str, KvmLoop]) -> KvmLoop:
    if kernel not in loops:
        loops[kernel] = KvmLoop(kernel, PythonModel(), "rules")
    return loops[kernel]


def fired(loop: KvmLoop, attempt: Attempt) -> set[str]:
    always, others = loop_oracles(loop)
    case = EntryCase(attempt)
    return {oracle.name for oracle in (*always, *others) if oracle.check(case, vm_entry)}


def test_l1_sees_the_exit_of_l2(rules: KvmLoop) -> None:
    passage = rules.follow(PLAIN)
    assert passage.outcome == ENTERED
    assert [each.dry_run for each in passage.asked] == [False]
    assert passage.l1_after is not None
    assert passage.l1_before is not None
    registers = dict(passage.l1_after.registers)
    assert (registers["rip"], registers["rsp"]) == (PLAIN.vmcs.host_rip, PLAIN.vmcs.host_rsp)
    assert passage.l1_after.vmcs.vm_exit_reason == 18
    assert (passage.l1_before.launched, passage.l1_after.launched) == (False, True)
    assert passage.l1_after.to_json()["launched"] is True


def test_l1_goes_on_after_vmfail(rules: KvmLoop) -> None:
    for attempt, error, asked in ((edited(host_cr3=1 << 60), 8, 0), (edited(**LATE), 7, 1)):
        passage = rules.follow(attempt)
        assert passage.outcome == fail_valid(error)
        assert len(passage.asked) == asked
        assert passage.l1_before is not None
        assert passage.l1_after is not None
        before, after = dict(passage.l1_before.registers), dict(passage.l1_after.registers)
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {"rip", "rflags"}
        assert after["rip"] == before["rip"] + 3
        assert after["rflags"] & 0x40
        assert passage.l1_after.vmcs.vm_instruction_error == error


def test_the_dry_run_comes_first_and_decides(rules: KvmLoop) -> None:
    passage = rules.follow_dry(PLAIN)
    assert passage.outcome == ENTERED
    assert [each.dry_run for each in passage.asked] == [True, False]
    assert passage.dry_runs[0].outcome == exit_on_entry(33)
    passage = rules.follow_dry(edited(**LATE))
    assert passage.outcome == fail_valid(7)
    assert [each.dry_run for each in passage.asked] == [True]
    # KVM finds the guest state first where it does not ask the processor before.
    both = edited(**LATE, guest_cr0=0)
    assert rules.run(both).outcome == exit_on_entry(33)
    assert rules.follow_dry(both).outcome == fail_valid(7)
    assert vm_entry(both).permitted == (fail_valid(7),)


def test_a_passage_is_a_value(rules: KvmLoop) -> None:
    passage = rules.follow_dry(edited(guest_rflags=0xA))
    assert passage == rules.follow_dry(edited(guest_rflags=0xA))
    assert pickle.loads(pickle.dumps(passage)) == passage
    assert rules.follow(PLAIN).outcome == rules.run(PLAIN).outcome


def test_another_process_follows_the_same(kernel: str, rules: KvmLoop) -> None:
    with TARGETS[f"kvm-{kernel}+rules"].make_isolated() as isolated:
        for attempt in (PLAIN, edited(**LATE)):
            assert isolated.follow(attempt) == rules.follow(attempt)  # type: ignore[attr-defined]
            assert isolated.follow_dry(attempt) == rules.follow_dry(attempt)  # type: ignore[attr-defined]


def test_the_oracles_are_silent(rules: KvmLoop) -> None:
    # KVM keeps a halted L2 to itself, but not from the dry run.
    halted = edited(
        cpu_based_vm_exec_control=PLAIN.vmcs.cpu_based_vm_exec_control | 1 << 21,
        virtual_apic_page_addr=0x40_0002_5000,
        guest_activity_state=1,
        vm_entry_controls=PLAIN.vmcs.vm_entry_controls | 4,
        guest_ia32_debugctl=1 << 62,
    )
    for attempt in (PLAIN, edited(**LATE), edited(guest_rflags=0xA), edited(guest_cr0=0), halted):
        assert fired(rules, attempt) == set()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (lambda attempt: observed(ENTERED) if is_dry(attempt) else None, "entry.dry-run-exits"),
        (
            lambda attempt: None if is_dry(attempt) else observed(fail_valid(7)),
            "entry.dry-run-sound",
        ),
        (
            lambda attempt: observed(fail_valid(7)) if is_dry(attempt) else None,
            "entry.transparent",
        ),
        (lambda _: observed(fail_valid(7)), "entry.vmcs02-sound"),
        (lambda _: observed(exit_on_entry(33)), "entry.permitted-outcome"),
    ],
)
def test_a_fault_of_the_processor_is_found(
    kernel: str, fault: Callable[[Attempt], Observation | None], expected: str
) -> None:
    with KvmLoop(kernel, Planted(fault), "planted") as loop:
        assert expected in fired(loop, PLAIN)


def forgets_the_breakpoint(library: Library) -> None:
    """Take the kernel's note of it as well, by which KVM knows what to put back."""
    library.functions.nvmx_set_dr(7, 0)


def leaves_interrupts_off(library: Library) -> None:
    """Do what no VMfail does: KVM enables them again behind a VM exit alone."""
    library.functions.nvmx_set_rflags_if(0)


@pytest.mark.parametrize(
    "planted",
    [
        (forgets_the_breakpoint, {}, "dr7"),
        (forgets_the_breakpoint, {"guest_rflags": 0xA}, "dr7"),
        (leaves_interrupts_off, LATE, "rflags.if"),
    ],
)
def test_what_the_host_does_not_get_back_is_found(
    kernel: str,
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
    planted: tuple[Callable[[Library], None], dict[str, int], str],
) -> None:
    harm, fields, register = planted
    monkeypatch.setattr(loop_module, "loader", lambda *_: lambda: library)

    def fault(attempt: Attempt) -> Observation | None:
        if is_dry(attempt):
            harm(library)
        return None

    with KvmLoop(kernel, Planted(fault), "planted") as loop:
        passage = loop.follow_dry(edited(**fields))
        assert passage.l0_before is not None
        assert passage.l0_after is not None
        before, after = dict(passage.l0_before.registers), dict(passage.l0_after.registers)
        assert {name for name in before if before[name] != after[name]} == {register}
        assert "entry.host-restored" in fired(loop, edited(**fields))
    with KvmLoop(kernel, PythonModel(), "rules") as loop:
        assert "entry.host-restored" not in fired(loop, edited(**fields))


def test_a_processor_without_an_answer(kernel: str) -> None:
    for said in (no_opinion("why"), not_representable("why")):

        def fault(_: Attempt, said: Observation = said) -> Observation:
            return said

        with KvmLoop(kernel, Planted(fault), "planted") as loop:
            for seen in (loop.run(PLAIN), loop.follow_dry(PLAIN).observation):
                assert seen.status == said.status
                assert seen.reason.endswith("why")


def test_a_processor_that_died(kernel: str) -> None:
    with KvmLoop(kernel, Planted(lambda _: died("why")), "planted") as loop:
        seen = loop.run(PLAIN)
        assert (seen.status, seen.reason) == (
            "died",
            "hardware port: the port failed at entry 0: planted died: why",
        )
        assert loop.follow(PLAIN).observation == seen
        assert loop.run(PLAIN) == seen


def test_the_first_dry_run_fails_for_the_tsc_multiplier(
    hypervisor: Callable[..., Any],
) -> None:
    # docs/findings/dry-run-tsc-multiplier.md. A seat has it written already.
    machine = hypervisor(nested_early_check=1)
    for _ in range(2):
        port = OnTarget(PythonModel(), machine.host, [l1.VMLAUNCH, l1.HLT])
        machine.vcpu.run(port)
        assert [each.is_l2 for each in port.judged] == [False, True, False]
        dry_run = port.judged[1]
        assert dry_run.outcome == fail_valid(7)
        controls = [
            name
            for name in vm_entry(dry_run.attempt).broken_names
            if name.startswith(("execution.", "exit.", "entry.", "host."))
        ]
        assert controls == ["execution.tsc-multiplier.zero"]
        assert machine.read("vm_instruction_error") == 7
    machine = hypervisor(nested_early_check=0)
    port = OnTarget(PythonModel(), machine.host, [l1.VMLAUNCH, VMCALL, l1.HLT])
    machine.vcpu.run(port)
    assert port.judged[1].outcome == ENTERED


def test_the_dry_run_does_not_see_the_tsc_multiplier_of_l1(rules: KvmLoop) -> None:
    profile = load_profile("everything")
    attempt = base("guest-64", profile)
    caps = profile.caps
    controls = {
        "cpu_based_vm_exec_control": attempt.vmcs.cpu_based_vm_exec_control
        | Primary.USE_TSC_OFFSETTING
        | Primary.ACTIVATE_SECONDARY_CONTROLS,
        "secondary_vm_exec_control": caps.secondary_must | 1 << 25,
        "tsc_multiplier": 0,
    }
    passage = rules.follow_dry(replace(attempt, vmcs=attempt.vmcs.replace(controls)))
    assert [each.outcome.kind for each in passage.asked] == ["exit", "fail-valid"]
    assert any(each.text.startswith("WARN") for each in passage.observation.messages)


def test_bochs_stands_for_what_it_can(kernel: str) -> None:
    if wheel.usable():
        pytest.skip(wheel.usable())
    with on_bochs(kernel) as loop:
        assert loop.run(PLAIN).outcome == ENTERED
        assert loop.follow_dry(edited(**LATE)).outcome == fail_valid(7)
        beyond = base("guest-64", load_profile("everything"))
        assert loop.run(beyond).status == "not-representable"
        assert loop.follow(beyond).observation.status == "not-representable"
        assert fired(loop, beyond) == set()


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_an_l1_for_which_kvm_ends_the_vm_is_not_representable(kernel: str) -> None:
    """Before VM entry is looked at: all of KVM's ioctls fail from there on."""
    entry = TARGETS[f"kvm-{kernel}+rules"]
    if entry.usable():
        pytest.skip(entry.usable())
    processor = replace(PLAIN.processor, cr4=PLAIN.processor.cr4 & ~Cr4.PAE)
    with entry.make() as loop:
        assert isinstance(loop, KvmLoop)
        for attempt in (replace(PLAIN, processor=processor), PLAIN):
            refused = attempt is not PLAIN
            for seen in (
                loop.run(attempt),
                loop.follow(attempt).observation,
                loop.follow_dry(attempt).observation,
            ):
                assert seen.status == ("not-representable" if refused else "outcome")


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_what_l1_put_into_its_vmcs_stays_whatever_it_looks_like(kernel: str) -> None:
    """The memory of KVM's VMs begins at bit 45, which is an address that L1 may well have."""
    entry = TARGETS[f"kvm-{kernel}+rules"]
    if entry.usable():
        pytest.skip(entry.usable())
    plain = base("guest-64", load_profile(f"kvm-{kernel}-skylake-x"))
    vmcs = plain.vmcs.replace({"guest_rflags": 0xA, "host_fs_base": 1 << 45})
    with entry.make() as loop:
        assert isinstance(loop, KvmLoop)
        passage = loop.follow(replace(plain, vmcs=vmcs))
    assert passage.l1_after is not None
    assert passage.l1_after.vmcs.host_fs_base == 1 << 45
