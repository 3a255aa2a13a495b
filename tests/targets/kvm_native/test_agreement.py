# SPDX-License-Identifier: GPL-2.0-only
"""The model of nested VM entry against KVM itself, and against it with faults planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import pytest

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.campaign.plan import corpus_files
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.kvm import (
    nested_checks_controls,
    nested_checks_execution,
    nested_checks_guest,
    nested_checks_host,
    nested_enter,
    vmcs02,
    vmcs02_early,
)
from nvmxfuzz.kvm.entry_run import NestedEntry
from nvmxfuzz.kvm.hardware import Hardware
from nvmxfuzz.kvm.nested_enter import vm_entry
from nvmxfuzz.kvm.vcpu import EntryRequest, Kvm
from nvmxfuzz.kvm.vmcs02_fields import FieldCopy
from nvmxfuzz.machine.outcome import ENTERED, exit_on_entry, fail_valid
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.oracles.kvm_model import Both, NoEntry, agreement, compare
from nvmxfuzz.targets.kvm_native.agreement.configuration import Configuration, CpuidEdit
from nvmxfuzz.targets.kvm_native.agreement.random_case import random_configuration, random_launch
from nvmxfuzz.targets.kvm_native.agreement.witness import EntryWitness, Launch
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.library import Library

ENTRIES = 1500
OF_ONE = 50
PLAIN = Configuration(load_profile("skylake-x"))

Found: TypeAlias = Counter[str]


@pytest.fixture
def real(library: Library, built: BuiltObject) -> EntryWitness:
    return EntryWitness(library, built.kernel)


def lives(real: EntryWitness, seed: str) -> Iterator[Random]:
    for number in range(10_000):
        source = Random(f"{seed}/{number}")
        try:
            real.configure(random_configuration(source))
        except IoctlError:
            continue
        yield source


def entries(real: EntryWitness, seed: str = "test") -> Iterator[Both]:
    """Yield random VM entries on random KVMs."""
    for source in lives(real, seed):
        for _ in range(OF_ONE):
            yield real.enter(random_launch(source, real.kvm, real.capabilities))


def differences(real: EntryWitness, count: int = ENTRIES) -> Found:
    found: Found = Counter()
    for both in islice(entries(real), count):
        found.update(f"{what}: {where}" for what, where, _ in compare(both).differences)
    return found


def test_random_entries_agree(real: EntryWitness) -> None:
    decided: Found = Counter()
    for both in islice(entries(real), ENTRIES):
        found = compare(both)
        assert not found.differences
        decided[both.model.check] += 1
    assert len(decided) > 60
    assert decided[""] > ENTRIES / 20


@pytest.mark.parametrize(
    "answers",
    [
        (ENTERED,),
        (fail_valid(7),),
        (exit_on_entry(33, 0),),
        (exit_on_entry(34, 2),),
    ],
)
def test_what_the_processor_answers(real: EntryWitness, answers: Any) -> None:
    real.configure(PLAIN)
    launch = Launch(plain_vmcs(real), answers=answers)
    both = real.enter(launch)
    assert both.model.outcome == answers[0]
    assert compare(both).relation == "agreed"
    assert len(both.model.hardware) == 1


@pytest.mark.parametrize("first", [exit_on_entry(33, 0), fail_valid(7), ENTERED])
def test_the_dry_run(real: EntryWitness, first: Any) -> None:
    real.configure(replace(PLAIN, parameters=(("nested_early_check", 1),)))
    both = real.enter(Launch(plain_vmcs(real), answers=(first, ENTERED)))
    assert both.model.outcome == (first if first.kind == "fail-valid" else ENTERED)
    assert both.model.hardware[0].dry_run
    assert compare(both).relation == "agreed"


def plain_vmcs(real: EntryWitness) -> Vmcs:
    source = Random(1)
    while True:
        launch = random_launch(source, real.kvm, real.capabilities)
        launch = replace(launch, answers=(), memory=())
        if real.kvm.params.early_consistency_checks:
            launch = replace(launch, answers=(exit_on_entry(33, 0), ENTERED))
        seen = real.enter(launch)
        real.renew()
        if seen.model.outcome == ENTERED and not launch.vmcs12.guest_activity_state:
            return launch.vmcs12


def test_the_corpus_agrees(real: EntryWitness) -> None:
    oracle = agreement(real)
    asked = 0
    for path in vectors():
        case = load_case(path.read_bytes(), str(path))
        if isinstance(case, EntryCase) and case.profile.name == "skylake-x":
            asked += 1
            assert oracle.check(case, no_judgement) is None, path
    assert asked > 500


def vectors() -> list[Path]:
    seeds = corpus_files("vm_entry")
    return [*seeds, *sorted(seeds[0].parents[2].joinpath("vectors").rglob("*.toml"))]


def no_judgement(*_: object) -> Any:
    raise AssertionError


# ---------------------------------------------------------------------- planted faults


def always_passes(*_: object) -> str:
    return ""


CHECKS: list[tuple[Any, str]] = [
    (nested_checks_execution, "check_io_bitmaps"),
]


def check_functions() -> list[tuple[Any, str]]:
    """Return the functions of the model that make one or a few checks each."""
    found = []
    for module in (nested_checks_execution, nested_checks_controls):
        for name in vars(module):
            if name.startswith(("check_", "nested_vmx_check_")) and callable(vars(module)[name]):
                found.append((module, name))
    return found


def test_a_field_that_goes_elsewhere_is_found(
    real: EntryWitness, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = tuple(
        {"guest_es_base": "guest_ds_base", "guest_ds_base": "guest_es_base"}.get(name, name)
        for name in vmcs02.copy_rare.names
    )
    faulty = FieldCopy(vmcs02.copy_rare.names)
    faulty.read = FieldCopy(swapped).read
    monkeypatch.setattr(vmcs02, "copy_rare", faulty)
    assert "vmcs02: guest_es_base" in differences(real)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda vcpu: vcpu.vmcs.update(tpr_threshold=3), "vmcs02: tpr_threshold"),
        (lambda vcpu: vcpu.vmcs.update(virtual_processor_id=9), "vmcs02: virtual_processor_id"),
        (
            lambda vcpu: vcpu.vmcs.update(
                secondary_vm_exec_control=vcpu.vmcs["secondary_vm_exec_control"]
                | Secondary.VMCS_SHADOWING
            ),
            "vmcs02: secondary_vm_exec_control",
        ),
    ],
)
def test_a_control_that_is_merged_otherwise_is_found(
    real: EntryWitness,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Any], None],
    field: str,
) -> None:
    merge = vmcs02_early.prepare_vmcs02_early

    def faulty(vcpu: Any, vmcs12: Vmcs) -> None:
        merge(vcpu, vmcs12)
        change(vcpu)

    monkeypatch.setattr(nested_enter, "prepare_vmcs02_early", faulty)
    assert field in differences(real, 400)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nested_enter, "nested_vmx_check_controls"),
        (nested_enter, "nested_vmx_check_host_state"),
        (nested_enter, "nested_vmx_check_address_space_size"),
        *check_functions(),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_check_that_is_left_out_is_found(
    real: EntryWitness, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    del module
