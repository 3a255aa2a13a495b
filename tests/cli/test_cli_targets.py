# SPDX-License-Identifier: GPL-2.0-only
"""Targets on the command line: listed, run beside the rules, and held against them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.cli import comparing
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.targets.base import Observation, Target, observed
from nvmxfuzz.targets.registry import TARGETS, all_targets

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "corpus" / "vectors"
BROKEN = VECTORS / "guest-rip-rflags" / "guest.rflags.reserved" / "broken.toml"
EVERYTHING = VECTORS / "guest-rip-rflags" / "guest.ssp.high" / "broken.toml"
CONFIG = VECTORS / "capability-config" / "config.fixpoint" / "plain-6-12.toml"

Run = Callable[..., tuple[int, str, str]]

needs_bochs = pytest.mark.skipif(
    bool(TARGETS["bochs"].usable()), reason=f"Bochs: {TARGETS['bochs'].usable()}"
)


def test_targets_lists_each_with_its_state(run: Run) -> None:
    status, out, _ = run("targets", "--json")
    targets = {entry["name"]: entry for entry in json.loads(out)}
    assert status == 0
    assert targets["python-model"]["usable"] is True
    assert targets.keys() == all_targets().keys()


def test_an_unknown_target_is_one_sentence(run: Run) -> None:
    for command in ("check", "replay", "show"):
        status, _, err = run(command, "--target", "qemu", BROKEN)
        assert status == 2
        assert "qemu" in err
        assert err.count("\n") == 1
    status, _, err = run("fuzz", "vm_entry", "--target", "qemu")
    assert status == 2
    assert "qemu" in err


def test_a_target_of_vm_entries_is_refused_for_configs(run: Run) -> None:
    status, _, err = run("fuzz", "capability_config", "--target", "bochs")
    assert status == 2
    assert "vm_entry" in err


class EnteringKvm(Target):
    """A KVM that would enter whatever it is shown."""

    name = "kvm-6.12"

    def open(self, profile: Profile) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def run(self, _attempt: Attempt) -> Observation:
        """Enter."""
        return observed(ENTERED)

    def on_hardware(self, _attempt: Attempt) -> Observation:
        """Enter."""
        return observed(ENTERED)

    def virtual(self, profile: Profile) -> Profile:
        """Return the profile."""
        return profile


def test_what_kvm_never_meets_is_not_representable_whoever_asks() -> None:
    attempt = base("guest-64", load_profile("kvm-6.12-skylake-x"))
    kvm = EnteringKvm()
    assert comparing.observation_and_end(kvm, attempt) == (observed(ENTERED), observed(ENTERED))
    unmet = replace(attempt, processor=replace(attempt.processor, cs_l=False))
    seen, end = comparing.observation_and_end(kvm, unmet)
    assert seen.status == "not-representable"
    assert end is None
    assert comparing.compared(kvm, unmet).observation == seen


@needs_bochs
def test_check_on_a_target_prints_what_it_observed(run: Run) -> None:
    _, out, _ = run("check", "--target", "bochs", "--json", BROKEN)
    reply = json.loads(out)
    assert reply["status"] == "outcome"
    assert reply["outcomes"] == [{"kind": "exit", "reason": 33, "qualification": 0}]


@needs_bochs
def test_what_a_target_cannot_stand_for_is_said(run: Run) -> None:
    _, out, _ = run("check", "--target", "bochs", EVERYTHING)
    assert "not representable" in out


@needs_bochs
def test_show_adds_what_the_target_makes_of_it(run: Run) -> None:
    _, out, _ = run("show", "--target", "bochs", "--json", BROKEN)
    assert json.loads(out)["target"]["name"] == "bochs"


@needs_bochs
def test_compare_shows_the_witnesses_rule_by_rule(run: Run) -> None:
    status, out, _ = run("compare", "--json", BROKEN)
    reply = json.loads(out)
    assert status == 0
    assert reply["rules"]["broken"] == ["guest.rflags.reserved"]
    for name in ("bochs", "bochs-complete"):
        assert reply["targets"][name]["relation"] == "agreed"
        assert "guest.rflags.reserved" in reply["targets"][name]["blames"]
    _, text, _ = run("compare", BROKEN)
    assert "guest.rflags.reserved: rules broken, bochs blames it" in text


@needs_bochs
def test_compare_fails_on_a_difference_that_nothing_explains(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(attempt: Attempt) -> object:
        return vm_entry(Attempt(attempt.profile, attempt.vmcs.replace({"guest_rflags": 2})))

    monkeypatch.setattr(comparing, "vm_entry", forgetful)
    status, out, _ = run("compare", BROKEN)
    assert status == 1
    assert "nothing known explains it" in out


@needs_bochs
def test_replay_holds_vectors_against_a_target(run: Run) -> None:
    status, out, _ = run("replay", "--target", "bochs", VECTORS / "guest-rip-rflags", CONFIG)
    assert status == 0
    assert " 0 do not" in out
