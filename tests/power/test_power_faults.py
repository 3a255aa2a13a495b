# SPDX-License-Identifier: GPL-2.0-only
"""The table of planted faults: each has its place, and the bench says which were found."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import pytest

from nvmxfuzz.campaign.plan import harness_names
from nvmxfuzz.errors import InputError
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.power.change import Change, changed
from nvmxfuzz.power.fault import Fault, all_faults, fault_named, kernel_faults
from nvmxfuzz.power.hunt import Search, Trial, hunt
from nvmxfuzz.power.processor_time import ProcessorTime
from nvmxfuzz.power.revision import UNKNOWN, revision
from nvmxfuzz.power.trials import Result, read_results
from nvmxfuzz.power.variant import all_variants, variant_named

FAULTS = tuple(all_faults().values())
KINDS = (
    *("check missing", "wrong register", "wrong bit", "wrong width", "wrong order"),
    *("wrong condition", "wrong number", "not restored", "wrong source", "stale"),
    *("half of a pair", "dependent kept", "wrong base", "widens", "survives a failure"),
    *("missing event", "event too early"),
)
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


def test_each_kind_of_mistake_has_a_fault() -> None:
    assert {fault.kind for fault in FAULTS} == set(KINDS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_has_a_place(fault: Fault) -> None:
    """A site that any finding has, or one that has nothing but the name of its oracle, is none."""
    for oracle in fault.oracles:
        finding = Finding(oracle, (oracle,), ("a", "b"), "", "")
        assert not fault.is_shown_by(finding)
        assert not fault.is_shown_by(replace(finding, site="elsewhere"))


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


def test_a_search_that_is_stopped_ends_at_once() -> None:
    begin = monotonic()
    fault = fault_named("model.host-cr3-unchecked")
    assert not hunt(fault, Search(variant_named("edited"), 1, 1000.0), lambda: True).found
    assert monotonic() - begin < 60


def test_what_a_process_has_used_is_known_when_it_is_gone() -> None:
    program = "sum(range(3_000_000)); input()"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    used = ProcessorTime(process.pid)
    deadline = monotonic() + 60
    while used.seconds() == 0 and monotonic() < deadline:
        sleep(0.01)
    seconds = used.seconds()
    process.communicate(b"\n")
    assert 0 < seconds <= used.seconds() < 60


def test_results_say_of_which_revision_they_are(tmp_path: Path) -> None:
    assert revision() == UNKNOWN or len(revision()) >= 12
    result = Result("a", "b", 1, 60.0, "c0ffee", Trial("", 5, 60.0))
    file = tmp_path / "results"
    file.write_text(result.to_line() + "\n")
    assert read_results(file) == {result.key: result}
    file.write_text(result.to_line().replace('"revision": "c0ffee", ', "") + "\n")
    with pytest.raises(InputError, match="revision"):
        read_results(file)
