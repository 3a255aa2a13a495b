# SPDX-License-Identifier: GPL-2.0-only
"""A target in a process of its own: its end is an observation, and the next attempt runs."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.targets.base import Observation, Target, observed
from nvmxfuzz.targets.isolated import Isolated

PLAIN = base("guest-64", load_profile("skylake-x"))


class Fragile(Target):
    """Does to its process what the VPID of an attempt says."""

    @property
    def name(self) -> str:
        """The name of the target."""
        return "fragile"

    def open(self, profile: Profile) -> None:
        """Refuse a profile that says so."""
        if profile.note == "unusable":
            raise InputError("the target is not usable; use another one")

    def run(self, attempt: Attempt) -> Observation:
        """Do it, and without pytest's word on it."""
        faulthandler.disable()
        match attempt.vmcs.virtual_processor_id:
            case 2:
                os.kill(os.getpid(), signal.SIGSEGV)
            case 3:
                os.abort()
            case 4:
                time.sleep(60)
            case 5:
                os._exit(7)
            case 6:
                raise AssertionError("a defect")
        return observed(ENTERED)

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def target() -> Iterator[Isolated]:
    with Isolated("fragile", Fragile, seconds=0.3) as made:
        yield made


def action(number: int) -> Attempt:
    return replace(PLAIN, vmcs=PLAIN.vmcs.replace({"virtual_processor_id": number}))


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (2, "the process was killed by SIGSEGV"),
        (3, "the process was killed by SIGABRT"),
        (4, "no answer within 0.3 seconds"),
        (5, "the process ended with status 7"),
    ],
)
def test_an_end_is_an_observation(target: Isolated, number: int, reason: str) -> None:
    assert target.run(PLAIN).outcome == ENTERED
    seen = target.run(action(number))
    assert (seen.status, seen.reason) == ("died", reason)
    assert target.run(PLAIN).outcome == ENTERED


def test_a_defect_is_raised_here(target: Isolated) -> None:
    with pytest.raises(AssertionError, match="a defect"):
        target.run(action(6))
    assert target.run(PLAIN).outcome == ENTERED


def test_an_unusable_target_says_so(target: Isolated) -> None:
    with pytest.raises(InputError, match="not usable"):
        target.open(replace(PLAIN.profile, note="unusable"))


def test_more_profiles_than_a_child_keeps(target: Isolated) -> None:
    profiles = [replace(PLAIN.profile, note=str(number)) for number in range(150)]
    for profile in (*profiles, *profiles[::-1]):
        assert target.run(replace(PLAIN, profile=profile)).outcome == ENTERED


def children() -> set[str]:
    """Return the processes that this one has started and not yet seen the end of."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_the_child_is_gone_after_close(target: Isolated) -> None:
    before = children()
    target.run(PLAIN)
    assert len(children() - before) == 1
    target.close()
    assert children() == before
