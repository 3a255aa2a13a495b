# SPDX-License-Identifier: GPL-2.0-only
"""A campaign on a closed loop asks its oracles, on the processors that its KVM offers L1."""

from __future__ import annotations

import pytest

from nvmxfuzz.campaign.plan import harness_file, load_harness
from nvmxfuzz.campaign.second_witness import compares, with_target
from nvmxfuzz.errors import InputError
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
    } == {"entry.permitted-outcome", "entry.l0-owned"}
    added = [oracle for oracle in harness.oracles if oracle not in rules.oracles]
    assert {oracle.name for oracle in added} == {
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
