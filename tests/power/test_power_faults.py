# SPDX-License-Identifier: GPL-2.0-only
"""The table of planted faults: each has its place, and the bench says which were found."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.campaign.plan import harness_names
from nvmxfuzz.power.change import Change, changed
from nvmxfuzz.power.fault import Fault, all_faults, fault_named, kernel_faults
from nvmxfuzz.power.hunt import Search, hunt
from nvmxfuzz.power.variant import all_variants, variant_named

FAULTS = tuple(all_faults().values())
IN_PYTHON = tuple(fault for fault in FAULTS if isinstance(fault.place, Change))
CHANGES = tuple(change for variant in all_variants().values() for change in variant.changes)


def source_of(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text()


@pytest.mark.parametrize("fault", IN_PYTHON, ids=lambda fault: fault.name)
def test_a_fault_in_python_has_its_place(fault: Fault) -> None:
    assert isinstance(fault.place, Change)
    assert fault.place.module.startswith(("nvmxfuzz.kvm.", "nvmxfuzz.cpu."))
    changed(source_of(fault.place.module), fault.place)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.module)
def test_what_a_variant_switches_off_has_its_place(change: Change) -> None:
    changed(source_of(change.module), change)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_says_who_finds_it(fault: Fault) -> None:
    assert fault.harness in harness_names()
    assert fault.oracles
    assert fault.site
    assert fault.sentence.endswith(".")
    table = "kernel." if fault.is_in_kernel else ("model.", "rules.")
    assert fault.name.startswith(table)


def test_the_number_of_a_fault_in_a_kernel_is_its_own() -> None:
    for kernel in {fault.kernel for fault in FAULTS if fault.kernel}:
        numbers = [fault.number for fault in kernel_faults(kernel)]
        assert len(set(numbers)) == len(numbers)
        assert all(number > 0 for number in numbers)


def test_a_fault_of_the_model_is_found() -> None:
    fault = fault_named("model.host-cr3-unchecked")
    found = hunt(fault, Search(variant_named("edited"), 1, 60.0))
    assert found.identity.startswith("entry.")
    assert found.executions > 0


def test_a_finding_that_names_another_place_is_not_correct() -> None:
    fault = replace(fault_named("model.host-cr3-unchecked"), site="no such rule")
    found = hunt(fault, Search(variant_named("edited"), 1, 3.0))
    assert not found.found
    assert any(each.startswith("entry.") for each in found.others)
