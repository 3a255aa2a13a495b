# SPDX-License-Identifier: GPL-2.0-only
"""Where KVM goes first, no fault of it gets past the rules, and they judge less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.campaign import screening, second_witness
from nvmxfuzz.campaign.closer_look import CloserLook
from nvmxfuzz.campaign.events import Found, Progress, WorkerEvent
from nvmxfuzz.campaign.harness import SAMPLE_OF, Harness, Verdicts
from nvmxfuzz.campaign.last_input import LastInput
from nvmxfuzz.campaign.plan import harness_file, load_harness
from nvmxfuzz.campaign.screening import JUDGED_OF
from nvmxfuzz.campaign.session import Session
from nvmxfuzz.campaign.settings import Settings
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, exit_on_entry
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.oracles.kvm.entry import NO_MISSED_CHECK, NO_OVERREACH, SURVIVES
from nvmxfuzz.oracles.kvm.known import tables_of
from nvmxfuzz.targets.base import Message, Observation, died, not_representable, observed

PROFILE = load_profile("kvm-6.12-skylake-x")
TABLES = tables_of("kvm-6.12")
SAID = (Message("CC(field) in nested_check", "CC(field) in nested_check"),)
REFUSED = observed(exit_on_entry(33, 0), SAID)
ODD = 0x1234

Says = Callable[[Attempt], Observation | None]


class FakeKvm:
    """Does what is known of KVM, but for the attempts that `fault` has an observation for."""

    name = "kvm-6.12"

    def __init__(self, fault: Says = lambda _: None) -> None:
        self._fault = fault

    def virtual(self, profile: Profile) -> Profile:
        """Return the virtual processor."""
        return profile

    def run(self, attempt: Attempt) -> Observation:
        """Return what the software makes of it."""
        planted = self._fault(attempt)
        if planted is not None:
            return planted
        outcome = TABLES.software.judge(attempt).permitted[0]
        return observed(outcome, () if outcome == ENTERED else SAID)

    def on_hardware(self, attempt: Attempt) -> Observation:
        """Return what L1 sees in the end."""
        return observed(TABLES.end.judge(attempt).permitted[0])


def entry(**fields: int) -> EntryCase:
    plain = base("guest-64", PROFILE)
    return EntryCase(replace(plain, vmcs=plain.vmcs.replace(fields)), "guest-64")


REFUSALS = [entry(guest_activity_state=3 + n, tsc_offset=n) for n in range(1, 65)]


class Ran:
    """A session over cases: the findings by oracle, how often each was seen, what was judged."""

    def __init__(
        self, cases: Sequence[EntryCase], fault: Says, folder: Path, *, screened: bool = True
    ) -> None:
        plain = load_harness(harness_file("vm_entry"))
        harness = second_witness.screened(plain, FakeKvm(fault))
        if not screened:
            harness = replace(harness, due=None)
        self.judged = 0
        self.events: list[WorkerEvent] = []
        self._execute(self._counted(harness), cases, folder)
        found = [each.finding for each in self.found()]
        last = [each for each in self.events if isinstance(each, Progress)][-1]
        counts = dict(last.sightings)
        self.seen = {each.oracle: counts[each.identity] for each in found}

    def found(self) -> list[Found]:
        """Return the findings, in their order."""
        return [each for each in self.events if isinstance(each, Found)]

    def _counted(self, harness: Harness) -> Harness:
        def verdicts(_case: object, result: Verdicts) -> Verdicts:
            self.judged += 1
            return result

        return replace(harness, verdicts=verdicts)

    def _execute(self, harness: Harness, cases: Sequence[EntryCase], folder: Path) -> None:
        settings = Settings(0, "random", 1, None, None, str(folder), "", -1, 0)
        session = Session(harness, settings, self.events.append, LastInput(folder / "last"))
        for case in cases:
            session.execute(harness.encode(case))
        session.end()


@pytest.fixture(autouse=True)
def _without_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do without the built KVM, and without the second run of what is new."""
    monkeypatch.setattr(CloserLook, "of", lambda *_: None)
    monkeypatch.setattr(second_witness, "_with_model", lambda _: ())


def odd(attempt: Attempt) -> bool:
    return attempt.vmcs.tsc_offset == ODD


def test_what_kvm_refuses_again_is_judged_seldom_and_the_rest_each_time(tmp_path: Path) -> None:
    entered = [entry(tsc_offset=n) for n in range(64)]
    assert Ran(entered, lambda _: None, tmp_path).judged == 64
    refused = Ran(REFUSALS, lambda _: None, tmp_path)
    assert 1 < refused.judged <= 4 * len(REFUSALS) // JUDGED_OF
    assert refused.seen == {}
    assert Ran(REFUSALS, lambda _: None, tmp_path, screened=False).judged == 64
    assert SAMPLE_OF % JUDGED_OF == 0


def test_an_attempt_that_was_judged_is_judged_again_only_by_the_sample(tmp_path: Path) -> None:
    bad = entry(host_cr3=1 << 60)
    others = [entry(tsc_offset=2**64 - 1), entry(tsc_offset=7)]
    ran = Ran([*others, bad, *[bad] * 9], lambda _: observed(ENTERED), tmp_path)
    assert (ran.judged, ran.seen[NO_MISSED_CHECK]) == (3, 1)


def test_a_processor_that_has_the_name_of_another_one_is_judged(tmp_path: Path) -> None:
    def misses(attempt: Attempt) -> Observation | None:
        return observed(ENTERED) if attempt.vmcs.host_cr3 >> 52 else None

    narrow = replace(PROFILE, note="another one", maxphyaddr=PROFILE.maxphyaddr - 1)
    wide = entry(host_cr3=1 << PROFILE.maxphyaddr - 1)
    own = replace(wide, attempt=replace(wide.attempt, profile=narrow))
    enters = observed(ENTERED)
    ran = Ran([wide, own], lambda _: enters, tmp_path)
    assert (ran.judged, ran.seen[NO_MISSED_CHECK]) == (2, 1)


def test_a_missed_check_is_found_each_time_it_shows(tmp_path: Path) -> None:
    def misses(attempt: Attempt) -> Observation | None:
        return observed(ENTERED) if attempt.vmcs.host_cr3 >> 60 else None

    bad = [entry(host_cr3=1 << 60, tsc_offset=n) for n in range(20)]
    assert Ran([*REFUSALS, *bad], misses, tmp_path).seen[NO_MISSED_CHECK] == len(bad)


def test_an_overreach_with_a_check_of_its_own_is_found_at_once(tmp_path: Path) -> None:
    own = observed(exit_on_entry(33, 0), (Message("CC(own) in f", "CC(own) in f"),))
    ran = Ran([*REFUSALS, entry(tsc_offset=ODD)], lambda a: own if odd(a) else None, tmp_path)
    assert ran.seen[NO_OVERREACH] == 1


def test_nothing_uses_up_the_kinds_that_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "_MOST_KNOWN", 4)

    def says(attempt: Attempt) -> Observation | None:
        number = attempt.vmcs.tsc_offset
        if number == ODD:
            return observed(exit_on_entry(33, 0), (Message("CC(own) in f", "CC(own) in f"),))
        if number % 2:
            return not_representable(f"L1 has no memory at {number:#x}")
        return observed(exit_on_entry(34, number), SAID)

    many = [entry(tsc_offset=n) for n in range(64)]
    encode = load_harness(harness_file("vm_entry")).encode
    odd_ones = (entry(tsc_offset=ODD, guest_rsp=n) for n in range(64))
    unchosen = next(case for case in odd_ones if not screening.is_chosen(encode(case)))
    ran = Ran([*many, *REFUSALS, unchosen], says, tmp_path)
    assert ran.judged < len(many) // 2
    assert ran.seen[NO_OVERREACH] >= 1
    assert any("CC(own) in f" in each.finding.message for each in ran.found())


def test_an_overreach_that_looks_like_an_honest_refusal_is_found_by_the_sample(
    tmp_path: Path,
) -> None:
    wrong = [entry(tsc_offset=ODD, guest_rsp=n) for n in range(128)]
    ran = Ran([*REFUSALS, *wrong], lambda a: REFUSED if odd(a) else None, tmp_path)
    assert 1 <= ran.seen[NO_OVERREACH] < len(wrong) // 2


def test_an_overreach_that_names_no_check_is_found_each_time(tmp_path: Path) -> None:
    silent = observed(exit_on_entry(34, 1))
    wrong = [entry(tsc_offset=ODD, guest_rsp=n) for n in range(20)]
    ran = Ran([*REFUSALS, *wrong], lambda a: silent if odd(a) else None, tmp_path)
    assert ran.seen[NO_OVERREACH] == len(wrong)


def test_what_kvm_does_not_get_over_is_found_each_time(tmp_path: Path) -> None:
    bug = [entry(tsc_offset=ODD, guest_rsp=n) for n in range(10)]
    ran = Ran([*REFUSALS, *bug], lambda a: died("BUG") if odd(a) else None, tmp_path)
    assert ran.seen[SURVIVES] == len(bug)
    warned = observed(exit_on_entry(33, 0), (*SAID, Message("WARN f.c:1", "WARN f.c:1")))
    ran = Ran([*REFUSALS, *bug], lambda a: warned if odd(a) else None, tmp_path)
    assert ran.seen[SURVIVES] == len(bug)


def test_the_same_inputs_come_to_the_same(tmp_path: Path) -> None:
    wrong = [entry(tsc_offset=ODD, guest_rsp=n) for n in range(64)]

    def found() -> list[Found]:
        return Ran([*REFUSALS, *wrong], lambda a: REFUSED if odd(a) else None, tmp_path).found()

    assert found() == found() != []
