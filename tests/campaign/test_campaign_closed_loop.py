# SPDX-License-Identifier: GPL-2.0-only
"""A campaign on a closed loop asks its oracles, on the processors that its KVM offers L1."""

from __future__ import annotations

import ctypes

import pytest

from nvmxfuzz.campaign.plan import harness_file, load_harness
from nvmxfuzz.campaign.second_witness import compares, with_target
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native import loop
from nvmxfuzz.targets.registry import TARGETS, Entry


class Made:
    """What stands for the target."""

    name = "kvm-6.1+bochs"


def test_a_campaign_asks_the_oracles_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Entry, "make", lambda _: Made())
    rules = load_harness(harness_file("vm_entry"))
    harness = with_target(rules, "kvm-6.1+bochs", isolated=False)
    assert {oracle.name for oracle in harness.always} - {
        oracle.name for oracle in rules.always
    } == {"entry.permitted-outcome", "entry.l0-owned", "kvm.survives"}
    added = [oracle for oracle in harness.oracles if oracle not in rules.oracles]
    assert {oracle.name for oracle in added} == {
        "kvm.survives",
        "entry.vmcs02-sound",
        "entry.exit-info",
        "entry.transparent",
        "entry.dry-run-exits",
        "entry.dry-run-sound",
        "entry.host-restored",
        "entry.fail-before-state",
    }
    assert all(oracle.sentence.endswith(".") for oracle in added)
    assert harness.profiles[0] == "kvm-6.1-skylake-x"
    assert all(name.startswith("kvm-6.1-") for name in harness.profiles)


class Counting(Made):
    """What stands for a loop whose KVM is built with coverage."""

    def counters(self) -> tuple[int, int, int]:
        """Count nothing."""
        return 0, 0, 0

    def nested_counters(self) -> range:
        """Count nothing of nested.c either."""
        return range(0)


def test_a_loop_is_steered_by_its_coverage_where_it_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = load_harness(harness_file("vm_entry"))
    asked = []

    def built(name: str) -> Counting | None:
        asked.append(name)
        return Counting() if len(asked) == 1 else None

    monkeypatch.setattr(loop, "loop_with_coverage", built)
    monkeypatch.setattr(Entry, "make", lambda _: Made())
    harness = with_target(rules, "kvm-6.1+bochs", isolated=False, covered=True)
    assert harness.counters is not None
    assert harness.counters() == (0, 0, 0)
    assert "entry.transparent" in {oracle.name for oracle in harness.oracles}
    assert with_target(rules, "kvm-6.1+bochs", isolated=False, covered=True).counters is None
    assert asked == ["kvm-6.1+bochs"] * 2


def test_a_loop_with_coverage_counts_what_its_kvm_executes() -> None:
    made = loop.loop_with_coverage("kvm-6.12+rules")
    if made is None:
        pytest.skip("KVM of Linux 6.12 is not built with coverage")
    with made:
        assert made.name == "kvm-6.12+rules"
        plain = base("guest-64", load_profile("skylake-x"))
        made.open(plain.profile)
        address, _, count = made.counters()
        ctypes.memset(address, 0, count)
        assert made.run(plain).outcome == ENTERED
        assert any(ctypes.string_at(address, count))


def test_a_loop_is_about_vm_entry_alone() -> None:
    assert compares("kvm-6.12+rules", "vm_entry")
    assert not compares("kvm-6.12+rules", "capability_config")
    config = load_harness(harness_file("capability_config"))
    with pytest.raises(InputError):
        with_target(config, "kvm-6.12+rules", isolated=False)


def test_loops_are_no_kvm_alone() -> None:
    loops = [name for name, entry in TARGETS.items() if entry.is_loop]
    assert loops == ["kvm-6.1+rules", "kvm-6.1+bochs", "kvm-6.12+rules", "kvm-6.12+bochs"]
    assert not any(TARGETS[name].is_kvm for name in loops)
    assert TARGETS["kvm-6.12"].is_kvm
