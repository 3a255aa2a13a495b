# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of a finding: stored, looked into beside the campaign, told."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from nvmxfuzz.campaign import desk
from nvmxfuzz.campaign.behaviour import Behaviour
from nvmxfuzz.campaign.desk import Desk
from nvmxfuzz.campaign.events import Died, Event, Found, WorkerEvent
from nvmxfuzz.campaign.harness import Harness, is_sampled
from nvmxfuzz.campaign.last_input import MAX_INPUT, LastInput
from nvmxfuzz.campaign.plan import ROOT, Plan, load_harness
from nvmxfuzz.campaign.plan import Job as PlannedJob
from nvmxfuzz.campaign.second_look import Looked, SecondLook
from nvmxfuzz.campaign.session import MOST_FINDINGS, Session
from nvmxfuzz.campaign.settings import Settings
from nvmxfuzz.campaign.store import Store, StoredFinding, open_store
from nvmxfuzz.campaign.store.recorder import Recorder
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.triage.job import Job, Limits, TriageResult

PLAN = Plan((PlannedJob(ROOT / "fuzz" / "vm_entry.py", "random"),), 1)
FINDING = Finding("some.oracle", (), ("cpu", "cpu"), "", "it is so")
DATA = b"\x01\x00\x03"
FOUND = Found(0, FINDING, DATA)


def always(_case: Case, _run: object) -> Finding | None:
    """Nothing ever holds."""
    return FINDING


def harness(check: Callable[[Case, object], Finding | None] = always) -> Harness:
    return replace(
        load_harness(PLAN.jobs[0].file), oracles=(Oracle("some.oracle", "nowhere", check),)
    )


@dataclass
class Notes:
    """A listener that remembers."""

    said: list[tuple[str, bool, str]] = field(default_factory=list)

    def take(self, event: Event, tally: Tally) -> None:
        """Not of interest here."""

    def finding(self, finding: Finding, *, is_new: bool, note: str) -> None:
        """Remember a finding."""
        self.said.append((finding.identity, is_new, note))

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Answer:
    """A second look that comes to what the test says, at once or never."""

    looked: Looked | None
    asked: list[Job] = field(default_factory=list)
    closed: int = 0

    def begin(self, job: Job, _limits: Limits) -> None:
        """Remember what is asked."""
        self.asked.append(job)

    def poll(self, _seconds: float = 0.0) -> Looked | None:
        """Answer once for each question."""
        return self.looked

    def hurry(self) -> None:
        """There is nothing to end."""

    def close(self) -> None:
        """Note that nobody waits any more."""
        self.closed += 1


def result(same: int, text: str = "") -> Looked:
    """Return what five runs may come to."""
    return Looked(TriageResult(FINDING.identity, "group", 5, same, case_text=text))


def desk_on(store: Store, listener: Notes, look: Answer, subject: Harness) -> Desk:
    recorder = Recorder(store, PLAN, [subject], 1)
    return Desk(PLAN, [subject], recorder, listener, Tally(), look=cast("SecondLook", look))


def notes(
    tmp_path: Path, looked: Looked | None, *, interrupted: bool = False, times: int = 1
) -> tuple[list[tuple[str, bool, str]], StoredFinding]:
    """Return what is said of a finding, and what the store has on it."""
    listener = Notes()
    with open_store(tmp_path / "store.db") as store:
        where = desk_on(store, listener, Answer(looked), harness())
        for _ in range(times):
            where.take_found(0, FOUND)
        where.finish(lambda: interrupted)
        (stored,) = store.findings()
    return listener.said, stored


def test_a_finding_is_seen_again_and_minimised(tmp_path: Path) -> None:
    said, stored = notes(tmp_path, result(5, "small"))
    assert said == [(FINDING.identity, True, "5 of 5 runs show it, minimised")]
    assert (stored.reproduced, stored.reruns, stored.same) == (True, 5, 5)
    assert stored.minimised_text == "small"
    assert FINDING.message in stored.case_text


def test_a_finding_that_does_not_always_come_again_is_flaky_and_kept(tmp_path: Path) -> None:
    said, stored = notes(tmp_path, result(2))
    assert said == [(FINDING.identity, True, "flaky: 2 of 5 runs show it")]
    assert (stored.reproduced, stored.flaky, stored.minimised_text) == (True, True, None)


def test_a_finding_is_told_once_a_campaign(tmp_path: Path) -> None:
    assert len(notes(tmp_path, result(5), times=3)[0]) == 1


def test_after_ctrl_c_a_finding_is_only_stored(tmp_path: Path) -> None:
    said, stored = notes(tmp_path, None, interrupted=True)
    assert said == [(FINDING.identity, True, "not run again")]
    assert stored.reproduced is None


def test_triage_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "LOOK_SECONDS", 0)
    monkeypatch.setattr(Desk, "_most", 0.0)
    said, stored = notes(tmp_path, None)
    assert said == [(FINDING.identity, True, "triage took too long")]
    assert stored.reproduced is None


def test_what_an_input_shows_beside_the_death_of_its_worker_is_a_finding(tmp_path: Path) -> None:
    listener = Notes()
    survived = replace(result(0), besides=(FINDING,))
    with open_store(tmp_path / "store.db") as store:
        where = desk_on(store, listener, Answer(survived), harness())
        where.take_death(0, Died(0, 7, "SIGKILL", "", DATA))
        where.finish(lambda: False)
        assert [each.finding.oracle for each in store.findings()] == ["worker-lives", "some.oracle"]
    assert [note for *_, note in listener.said] == ["flaky: 0 of 5 runs show it"] * 2


def test_what_nobody_has_run_again_is_taken_up_by_the_next_campaign(tmp_path: Path) -> None:
    notes(tmp_path, None, interrupted=True)
    listener = Notes()
    with open_store(tmp_path / "store.db") as store:
        where = desk_on(store, listener, Answer(result(5)), harness())
        where.take_up(store)
        where.finish(lambda: False)
        assert where.found == [FINDING.identity]
    assert listener.said == [(FINDING.identity, False, "5 of 5 runs show it")]


def test_a_finding_that_cannot_be_stored_is_told(tmp_path: Path) -> None:
    with open_store(tmp_path / "store.db") as store:
        where = desk_on(store, Notes(), Answer(None), harness())
        store._connection.execute("PRAGMA max_page_count = 1")
        big = Found(0, FINDING, bytes([1, 0, 0, 0, *bytes(20_000)]))
        with pytest.raises(InputError, match=f"full.*not stored is {FINDING.identity}"):
            where.take_found(0, big)


def session(tmp_path: Path, subject: Harness, sent: list[WorkerEvent]) -> Session:
    settings = Settings(0, "random", 1, None, None, str(tmp_path), "", -1, 0)
    return Session(subject, settings, sent.append, LastInput(tmp_path / "input"))


def test_oracles_meet_what_is_new_and_a_sample_of_the_rest(tmp_path: Path) -> None:
    asked: list[Case] = []

    def count(case: Case, _run: object) -> None:
        asked.append(case)

    subject = harness(count)
    work = session(tmp_path, subject, [])
    behaviour = Behaviour(len(subject.points))
    inputs = [bytes([1, 0, 0, 0, number]) for number in range(200)]
    new = sum(behaviour.note(subject.judge(subject.decode(data))[1]) for data in inputs)
    for data in inputs:
        work.execute(data)
    assert new <= len(asked) <= new + 30
    before = len(asked)
    for data in inputs:
        work.execute(data)
    assert 0 < len(asked) - before < 30


def test_where_an_oracle_finds_something_new_all_are_asked(tmp_path: Path) -> None:
    asked: list[Case] = []

    def count(case: Case, _run: object) -> None:
        asked.append(case)

    finds: list[Finding] = []

    def find(_case: Case, _run: object) -> Finding | None:
        return finds[0] if finds else None

    cheap = Oracle("some.oracle", "nowhere", find)
    subject = replace(harness(count), always=(cheap,))
    work = session(tmp_path, subject, [])
    data = next(data for number in range(9) if not is_sampled(data := bytes([1, 0, 0, 0, number])))
    work.execute(data)
    asked.clear()
    for expected in (0, 1, 1, 2, 2):
        if expected > len(asked):
            finds[:] = [replace(FINDING, site=str(expected))]
        work.execute(data)
        assert len(asked) == expected


def test_findings_without_end_are_bounded(tmp_path: Path) -> None:
    numbers = iter(range(10**6))

    def another(_case: Case, _run: object) -> Finding:
        return replace(FINDING, site=str(next(numbers)))

    many = (Oracle("some.oracle", "nowhere", another),) * 400
    sent: list[WorkerEvent] = []
    work = session(tmp_path, replace(harness(), oracles=many), sent)
    for number in range(200):
        work.execute(bytes([1, 0, number]))
    assert sum(isinstance(event, Found) for event in sent) == MOST_FINDINGS


def test_the_last_input_is_what_was_written_last(tmp_path: Path) -> None:
    written = LastInput(tmp_path / "input")
    assert (written.number, written.read()) == (0, b"")
    for number, data in enumerate((b"longer", b"short", b"", bytes(MAX_INPUT + 1)), 1):
        written.write(number, data)
        assert (written.number, written.read()) == (number, data[:MAX_INPUT])
    assert LastInput(tmp_path / "input").number == 4
