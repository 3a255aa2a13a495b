# SPDX-License-Identifier: GPL-2.0-only
"""A KVM in a child process answers what only a KVM is asked, and its death is an observation."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, exit_on_entry
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.targets.base import Observation, Target, observed
from nvmxfuzz.targets.isolated import IsolatedKvm
from nvmxfuzz.targets.registry import TARGETS

HOST = load_profile("skylake-x")
OFFERED = replace(HOST, name="kvm-0.0-skylake-x", maxphyaddr=39)
DEADLY = load_profile("haswell")


class FakeKvm(Target):
    """Offers one profile; dies of another one."""

    @property
    def name(self) -> str:
        """Its name."""
        return "kvm-0.0"

    def open(self, profile: Profile) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def run(self, attempt: Attempt) -> Observation:
        """Enter, at CPL 0 or 3."""
        return observed(ENTERED if attempt.processor.cpl in (0, 3) else exit_on_entry(33))

    def on_hardware(self, attempt: Attempt) -> Observation:
        """Fail on the processor."""
        return observed(exit_on_entry(33, attempt.processor.cpl))

    def virtual(self, profile: Profile) -> Profile:
        """Return the profile, or die."""
        if profile == DEADLY:
            os._exit(7)
        return OFFERED


@pytest.fixture
def kvm() -> IsolatedKvm:
    return IsolatedKvm("kvm-0.0", FakeKvm)


def test_all_three_questions_are_answered(kvm: IsolatedKvm) -> None:
    attempt = base("guest-64", HOST)
    attempt = replace(attempt, processor=replace(attempt.processor, cpl=3))
    with kvm:
        assert kvm.virtual(HOST) == OFFERED
        assert kvm.virtual(OFFERED) is OFFERED
        assert kvm.run(attempt) == observed(ENTERED)
        assert kvm.on_hardware(attempt) == observed(exit_on_entry(33, 3))


def test_a_death_leaves_the_profile_as_it_is(kvm: IsolatedKvm) -> None:
    with kvm:
        assert kvm.virtual(DEADLY) is DEADLY
        assert kvm.run(base("guest-64", HOST)) == observed(ENTERED)


def test_the_registry_knows_which_targets_are_kvm() -> None:
    models = [f"kvm-model-{kernel}" for kernel in ("4.20", "5.18", "6.1", "6.12", "6.19")]
    known = [name for name, entry in TARGETS.items() if entry.is_kvm]
    assert known == ["kvm-6.1", "kvm-6.12", *models]
