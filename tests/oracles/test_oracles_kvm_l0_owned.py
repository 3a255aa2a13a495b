# SPDX-License-Identifier: GPL-2.0-only
"""What only KVM's software can check: which rules, and that a check that is missing is found."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from nvmxfuzz.cpu.reads import inputs_by_rule
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.inputs.rebase import rebase
from nvmxfuzz.kvm import (
    nested_checks_controls,
    nested_checks_execution,
    nested_checks_guest,
    nested_enter,
)
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.kvm.entry import kvm_oracles
from nvmxfuzz.oracles.kvm.known import entries_of
from nvmxfuzz.oracles.kvm.l0_owned import L0_OWNED, always_out_of_reach, l0_owned, out_of_reach
from nvmxfuzz.oracles.kvm.tables import tables_from
from nvmxfuzz.targets.kvm_model import KvmModel

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "ci" / "checks" / "l0_owned_page.py"
PLAIN = base("guest-64", load_profile("kvm-6.12-skylake-x"))
SECONDARY_ON = PLAIN.vmcs.cpu_based_vm_exec_control | 1 << 31


def case(**fields: int) -> EntryCase:
    return EntryCase(replace(PLAIN, vmcs=PLAIN.vmcs.replace(fields)), "guest-64")


def ask(given: EntryCase, kernel: str = "6.12") -> Finding | None:
    always, _ = kvm_oracles(KvmModel(kernel))
    (oracle,) = (each for each in always if each.name == L0_OWNED)
    return oracle.check(given, vm_entry)


WITH_VPID = {
    "cpu_based_vm_exec_control": SECONDARY_ON,
    "secondary_vm_exec_control": PLAIN.vmcs.secondary_vm_exec_control | 1 << 5,
    "virtual_processor_id": 0,
}
FAULTS = [
    (nested_checks_execution, "check_vpid", WITH_VPID, "execution.vpid.zero"),
    (
        nested_checks_execution,
        "check_cr3_targets",
        {"cr3_target_count": 5},
        "execution.cr3-target.count",
    ),
    (
        nested_checks_execution,
        "nested_vmx_check_msr_bitmap_controls",
        {"msr_bitmap": 1, "cpu_based_vm_exec_control": SECONDARY_ON | 1 << 28},
        "execution.msr-bitmap.aligned",
    ),
    (
        nested_checks_controls,
        "nested_check_vm_exit_controls",
        {"vm_exit_controls": 0x36FFF | 1 << 29},
        "exit.primary.may-be-1",
    ),
    (nested_enter, "nested_vmx_check_host_state", {"host_cs_selector": 0}, "host.cs.not-null"),
    (
        nested_checks_guest,
        "nested_vmx_check_vmcs_link_ptr",
        {"vmcs_link_pointer": 1 << 60},
        "guest.link-pointer.width",
    ),
]


@pytest.mark.parametrize(
    ("module", "function", "fields", "rule"), FAULTS, ids=[fault[1] for fault in FAULTS]
)
def test_a_check_that_kvm_does_not_make(
    module: ModuleType,
    function: str,
    fields: dict[str, int],
    rule: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = case(**fields)
    assert rule in vm_entry(given.attempt).broken_names
    assert ask(given) is None
    monkeypatch.setattr(module, function, lambda *_: "")
    found = ask(given)
    assert found is not None
    assert (found.oracle, found.rules) == (L0_OWNED, (rule,))
    assert found.site == " and ".join(out_of_reach(rule, given.attempt.vmcs))
    assert found.site.split(" and ")[0] in fields
    assert "nobody can ever catch this" in found.message


def test_what_the_processor_can_catch_is_not_of_this_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nested_checks_execution, "check_vpid", lambda _: "")
    assert ask(case(**WITH_VPID)) is not None
    assert ask(case(**WITH_VPID, guest_rflags=0xA)) is None


@cache
def corpus() -> tuple[Attempt, ...]:
    """Return the cases of the corpus on a virtual processor."""
    return tuple(_corpus())


def _corpus() -> Iterator[Attempt]:
    for path in sorted((ROOT / "corpus").rglob("*.toml")):
        given = load_case(path.read_bytes(), str(path))
        if isinstance(given, EntryCase):
            moved = rebase(given, ("kvm-6.12-skylake-x",))
            assert isinstance(moved, EntryCase)
            yield moved.attempt


def let_pass(without: str = "") -> set[str]:
    """Return the rules that nobody checks, where one known difference is not known."""
    tables = tables_from(each for each in entries_of("kvm-6.12") if each.name != without)
    model = KvmModel("6.12")
    found = set()
    for attempt in corpus():
        passed = l0_owned(vm_entry(attempt), attempt, tables)
        if passed and model.run(attempt).outcome == ENTERED:
            found.add(passed[0])
    return found


@pytest.mark.parametrize(
    ("entry", "rules"),
    [
        ("", set()),
        ("kvm.guest.link-pointer-current", {"guest.link-pointer.current"}),
        (
            "kvm.guest.activity-state",
            {
                "guest.activity.hlt-dpl",
                "guest.activity.blocking",
                "guest.activity.hlt-event",
                "guest.activity.wait-for-sipi-event",
            },
        ),
        ("kvm.msr-load.sysenter", {"msr-load.address.canonical"}),
    ],
)
def test_what_is_known_is_explained_by_its_entry_alone(entry: str, rules: set[str]) -> None:
    assert let_pass(without=entry) == rules


def test_without_what_is_left_to_the_processor_it_is_nobodys() -> None:
    vmcs = PLAIN.vmcs.replace({"tsc_multiplier": 0})
    assert out_of_reach("execution.tsc-multiplier.zero", vmcs) == ("tsc_multiplier",)
    assert "execution.tsc-multiplier.zero" in let_pass(without="kvm.execution.tsc-multiplier")


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        ("execution.vpid.zero", ("virtual_processor_id",)),
        ("execution.msr-bitmap.width", ("msr_bitmap",)),
        ("host.cs.rpl", ("host_cs_selector",)),
        ("guest.activity.hlt-dpl", ("guest_activity_state",)),
        ("guest.cr0.must-be-1", None),
        ("exit.msr-store.end", ("vm_exit_msr_store_addr",)),
        ("guest.rflags.reserved", ()),
        ("guest.tr.type", ()),
        ("guest.dr7.upper", ()),
        ("basic.cpl.zero", ()),
    ],
)
def test_fields_for_which_the_processor_cannot_check_a_rule(
    rule: str, fields: tuple[str, ...] | None
) -> None:
    if rule not in CHAPTER.index:
        rule = next(name for name in CHAPTER.index if name.startswith("basic."))
    found = always_out_of_reach(rule)
    assert "guest_cr0" in found if fields is None else found == fields


def test_a_field_that_a_control_keeps_from_the_processor() -> None:
    loads = PLAIN.vmcs.replace({"vm_entry_controls": PLAIN.vmcs.vm_entry_controls | 4})
    without = PLAIN.vmcs.replace({"vm_entry_controls": PLAIN.vmcs.vm_entry_controls & ~4})
    assert out_of_reach("guest.dr7.upper", loads) == ()
    assert out_of_reach("guest.dr7.upper", without) == ("guest_dr7",)
    # What decides whether a rule applies counts only where it never reaches the processor.
    assert "vm_entry_controls" in inputs_by_rule(CHAPTER)["guest.dr7.upper"]
    checked = inputs_by_rule(CHAPTER, conditions=False)["guest.dr7.upper"]
    assert checked == {"guest_dr7"}


def page() -> ModuleType:
    """Return the program that makes the page."""
    spec = importlib.util.spec_from_file_location("l0_owned_page", PAGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date_and_covers_every_rule() -> None:
    done = subprocess.run([sys.executable, PAGE], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_page_shows_a_rule_that_nothing_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = page()
    monkeypatch.setattr(nested_checks_execution, "check_vpid", lambda _: "")
    monkeypatch.setattr(nested_checks_controls, "nested_check_vm_exit_controls", lambda *_: "")
    found = {"6.12": made.covers("6.12", tuple(made.cases_of_the_corpus()))}
    missing = made.uncovered(found)
    assert "6.12: execution.vpid.zero" in missing
    assert "6.12: exit.primary.may-be-1" in missing
    assert "6.12: execution.cr3-target.count" not in missing


def test_a_rule_that_is_broken_does_not_depend_on_a_control() -> None:
    compared = 0
    for attempt in corpus():
        for rule in vm_entry(attempt).broken_names:
            assert out_of_reach(rule, attempt.vmcs) == always_out_of_reach(rule)
            compared += 1
    assert compared > 500
