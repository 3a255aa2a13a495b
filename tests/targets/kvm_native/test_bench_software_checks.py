# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz bench software-checks`: the missing checks are the rules, and the figures add up."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

from nvmxfuzz.arch.controls import Primary, Secondary
from nvmxfuzz.cli.command_line import run as run_command_line
from nvmxfuzz.cpu.failures import CONTROLS, HOST_STATE
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.memory_edit import MemoryEdit, edited
from nvmxfuzz.inputs.places import VTPR
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.kvm.known import entries_of
from nvmxfuzz.targets.kvm_native.bench.missing import RULES, MissingChecks
from nvmxfuzz.targets.kvm_native.bench.software_checks import (
    INSTRUCTIONS,
    STATES,
    EntryCosts,
    attempt_of,
    measure,
)
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.vmcs12 import Vmcs12Layout

STATES_TRIED = 2000
DRAWN = (
    (Primary.USE_TPR_SHADOW, "cpu_based_vm_exec_control"),
    (Primary.ACTIVATE_SECONDARY_CONTROLS, "cpu_based_vm_exec_control"),
    (Secondary.VIRTUAL_INTERRUPT_DELIVERY, "secondary_vm_exec_control"),
    (Secondary.VIRTUALIZE_APIC_ACCESSES, "secondary_vm_exec_control"),
    (Secondary.USE_TSC_SCALING, "secondary_vm_exec_control"),
)


@cache
def costs(built: BuiltObject) -> tuple[EntryCosts, ...]:
    return measure(built)


def random_attempts(kernel: str) -> Iterator[tuple[Attempt, int]]:
    """Yield attempts that differ in what the checks look at, and VTPR of each."""
    source = random.Random(1)
    start = base("guest-64", load_profile(f"kvm-{kernel}-skylake-x"))
    for _ in range(STATES_TRIED):
        edits = {"tpr_threshold": source.choice((source.randrange(16), source.getrandbits(32)))}
        edits["tsc_multiplier"] = source.choice((0, 1, 1 << 63))
        for bit, name in DRAWN:
            value = edits.get(name, getattr(start.vmcs, name))
            edits[name] = value | bit if source.random() < 0.7 else value & ~bit
        vtpr = source.getrandbits(8)
        memory = edited(start.memory, [MemoryEdit(VTPR, bytes([vtpr]))])
        yield replace(start, vmcs=start.vmcs.replace(edits), memory=memory), vtpr


def test_what_is_missing_is_what_kvm_is_known_to_leave_to_the_processor(
    built: BuiltObject,
) -> None:
    left = {name for each in entries_of(f"kvm-{built.kernel}") for name in each.unchecked}
    before = {rule.name for rule in CHAPTER.rules if rule.failure in (CONTROLS, HOST_STATE)}
    assert left & before == set(RULES)


def test_the_missing_checks_are_the_rules(built: BuiltObject, library: Library) -> None:
    layout = Vmcs12Layout(library)
    checks = MissingChecks(layout.offsets)
    seen: Counter[str] = Counter()
    for attempt, vtpr in random_attempts(built.kernel):
        broken = vm_entry(attempt).broken_names
        first = next((name for name in RULES if name in broken), "")
        page = bytes(0x80) + bytes([vtpr]) + bytes(0x1000 - 0x81)
        assert checks.first(layout.pack(attempt.vmcs), page) == first
        seen[first] += 1
    assert min(seen[name] for name in ("", *RULES)) > STATES_TRIED // 50


def test_the_states_are_valid(built: BuiltObject) -> None:
    profile = load_profile(f"kvm-{built.kernel}-skylake-x")
    for state in STATES:
        assert vm_entry(attempt_of(state, profile)).broken_names == ()


def test_the_parts_are_parts_of_the_run(built: BuiltObject) -> None:
    found = costs(built)
    assert [(each.state, each.instruction) for each in found] == [
        (state, instruction) for state in STATES for instruction in INSTRUCTIONS
    ]
    for each in found:
        assert 0 < each.vmfail < each.checks < each.run.instructions
        assert 0 < each.missing < each.vmfail
        assert 0 < each.dry_run.instructions < each.run.instructions
        assert (each.run.entries, each.dry_run.entries) == (0, 1)


def test_a_vmcs12_that_uses_more_takes_more_checks(built: BuiltObject) -> None:
    plain, _, usual, _ = costs(built)
    assert usual.checks > plain.checks
    assert usual.missing > plain.missing


def test_the_command_prints_the_same_figures(
    built: BuiltObject, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run_command_line(["bench", "software-checks", "--kernel", built.kernel, "--json"])
    replies = json.loads(capsys.readouterr().out)
    assert status == 0
    for reply, each in zip(replies, costs(built), strict=True):
        assert (reply["kernel"], reply["version"]) == (built.kernel, built.version)
        assert reply["run"] == each.run.to_mapping()
        assert reply["dry_run"] == each.dry_run.to_mapping()
        assert sum(reply["checks"].values()) == each.checks


def test_a_kernel_that_is_not_built_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["bench", "software-checks", "--kernel", "0.1"]) == 2
    assert "nvmxfuzz build kvm" in capsys.readouterr().err
