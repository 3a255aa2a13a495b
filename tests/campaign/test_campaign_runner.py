# SPDX-License-Identifier: GPL-2.0-only
"""The runner and its worker: limits, deaths, hangs, Ctrl-C, and the same run for the same seed."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.campaign.events import Died, Event, Finished, Found, Notice, Progress
from nvmxfuzz.campaign.plan import Job, Plan
from nvmxfuzz.campaign.runner import run_campaign
from nvmxfuzz.campaign.settings import EngineName
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.campaign.workers import WorkerProcess
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.codec import decode

HARNESSES = Path(__file__).parent / "harnesses"
SOUND = HARNESSES / "sound.py"


def never() -> None:
    """The campaign goes on."""


def plan_of(file: Path, engine: EngineName, seed: int, runs: int | None = None) -> Plan:
    """Return a plan of one job."""
    return Plan((Job(file, engine),), seed, runs=runs)


def played(plan: Plan) -> tuple[list[Event], Tally]:
    """Run a campaign to its end."""
    events = list(run_campaign(plan, never))
    tally = Tally()
    for event in events:
        tally.take(event)
    return events, tally


def comparable(events: list[Event]) -> tuple[object, ...]:
    """What must not differ between two runs: the last progress, and the findings in order."""
    progress = [event for event in events if isinstance(event, Progress)]
    last = progress[-1]
    said = last.executions, last.seen, last.sightings
    return (said, *(event for event in events if isinstance(event, Found)))


@pytest.mark.parametrize("engine", ["random", "hypothesis", "atheris"])
def test_a_number_of_runs_is_kept_exactly(engine: EngineName) -> None:
    events, tally = played(plan_of(SOUND, engine, seed=1, runs=321))
    assert isinstance(events[-1], Finished)
    assert (events[-1].reason, events[-1].executions, tally.executions) == ("runs", 321, 321)
    assert tally.seen().held
    assert tally.seen().broken


def test_a_seed_reproduces_a_random_run() -> None:
    plan = plan_of(HARNESSES / "forgetful.py", "random", seed=5, runs=400)
    first, second = (comparable(played(plan)[0]) for _ in range(2))
    assert first == second
    assert first != comparable(played(plan_of(plan.jobs[0].file, "random", seed=6, runs=400))[0])


def test_a_seed_reproduces_an_atheris_run() -> None:
    plan = plan_of(SOUND, "atheris", seed=5, runs=2000)
    first, second = (comparable(played(plan)[0]) for _ in range(2))
    assert first == second


def test_an_input_that_takes_seconds_is_no_timeout_of_atheris(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TROUBLE", "slow")
    begin = time.monotonic()
    events, tally = played(plan_of(SOUND, "atheris", seed=4, runs=80))
    assert [event for event in events if isinstance(event, Died)] == []
    assert tally.executions == 80
    assert time.monotonic() - begin > 2.5, "no input was slow"


def test_without_feedback_atheris_instruments_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROUBLE", "no feedback")
    events, tally = played(plan_of(SOUND, "atheris", seed=5, runs=300))
    (notice,) = (event for event in events if isinstance(event, Notice))
    assert "code is instrumented" in notice.text
    assert tally.executions == 300
    assert tally.seen().broken


def test_time_is_kept() -> None:
    begin = time.monotonic()
    events, _ = played(replace(plan_of(SOUND, "random", seed=1), seconds=0.5))
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "time"
    assert 0.5 <= time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("trouble", "reason"), [("kill", "SIGKILL"), ("segv", "SIGSEGV"), ("exit", "exit 3")]
)
def test_a_worker_that_dies_is_restarted_and_its_last_input_kept(
    trouble: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE", trouble)
    events, tally = played(plan_of(SOUND, "random", seed=1, runs=60))
    deaths = [event for event in events if isinstance(event, Died)]
    assert deaths
    assert tally.executions == 60
    for death in deaths:
        case = decode(death.data, "vm_entry")
        assert isinstance(case, EntryCase)
        assert case.attempt.vmcs.virtual_processor_id & 8
        assert death.reason == reason


def test_a_hang_is_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROUBLE", "hang")
    events, _ = played(replace(plan_of(SOUND, "random", seed=4, runs=8), case_seconds=0.3))
    deaths = [event for event in events if isinstance(event, Died)]
    assert {death.reason for death in deaths} == {"hang"}


def test_memory_is_bounded_and_running_out_of_it_a_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TROUBLE", "swell")
    events, _ = played(replace(plan_of(SOUND, "random", seed=1, runs=40), memory=1 << 30))
    assert {event.finding.rules for event in events if isinstance(event, Found)} == {
        ("MemoryError",)
    }


def test_an_error_in_the_witness_is_a_finding_and_the_worker_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TROUBLE", "raise")
    events, tally = played(plan_of(SOUND, "random", seed=1, runs=100))
    (found,) = (event for event in events if isinstance(event, Found))
    assert found.finding.rules == ("ValueError",)
    assert tally.deaths == 0
    assert tally.sightings()[found.finding.identity] > 1


def test_a_stop_ends_the_worker_and_loses_no_execution() -> None:
    stopped: list[bool] = []
    tally = Tally()
    events: list[Event] = []
    for event in run_campaign(
        plan_of(SOUND, "atheris", seed=1), lambda: "interrupted" if stopped else None
    ):
        tally.take(event)
        events.append(event)
        if tally.executions > 100:
            stopped.append(True)
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "interrupted"
    (last,) = [event for event in events if isinstance(event, Progress)][-1:]
    assert last.executions == events[-1].executions > 100


def test_leaving_the_campaign_early_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []
    init = WorkerProcess.__init__

    def remember(self: WorkerProcess, *args: object) -> None:
        init(self, *args)  # type: ignore[arg-type]
        pids.append(self.pid)

    monkeypatch.setattr(WorkerProcess, "__init__", remember)
    campaign = run_campaign(plan_of(SOUND, "random", seed=1), never)
    next(campaign)
    campaign.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], signal.SIGCONT)


def test_a_worker_that_cannot_start_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("raise SystemExit('no such processor')\n")
    with pytest.raises(InputError, match="did not start: no such processor"):
        list(run_campaign(plan_of(file, "random", seed=1), never))
