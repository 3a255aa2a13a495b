# SPDX-License-Identifier: GPL-2.0-only
"""Several workers: jobs and turns, runs that add up, inputs that reach the others."""

import os
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.campaign.corpus import Corpus, dialect_of, name_of
from nvmxfuzz.campaign.crew import Crew
from nvmxfuzz.campaign.events import EndReason, Event, Finished, Found, Kept, Notice, Placed, Seen
from nvmxfuzz.campaign.plan import ROOT, Job, Plan, load_harness
from nvmxfuzz.campaign.runner import run_campaign
from nvmxfuzz.campaign.seeding import worker_seed
from nvmxfuzz.campaign.settings import ENGINES, EngineName
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.load import load_case

HARNESSES = Path(__file__).parent / "harnesses"
SOUND = HARNESSES / "sound.py"
ENTRY = ROOT / "fuzz" / "vm_entry.py"


def never() -> None:
    """The campaign goes on."""


def crew(tmp_path: Path, plan: Plan) -> Crew:
    return Crew(plan, tmp_path, Corpus(tmp_path / "corpus", plan.jobs))


def assigned(crew: Crew, times: int) -> Counter[int]:
    """Return how often each job gets a turn, if every turn is over at once."""
    counts: Counter[int] = Counter()
    for _ in range(times):
        for slot in crew.slots:
            slot.turn_ends = 0.0
            crew._assign(slot)
            counts[slot.job] += 1
    return counts


def test_turns_are_given_by_weight_and_own_workers_stay(tmp_path: Path) -> None:
    jobs = (
        Job(SOUND, "random", weight=3),
        Job(SOUND, "hypothesis"),
        Job(ENTRY, "random", workers=2),
    )
    staff = crew(tmp_path, Plan(jobs, 1, workers=3))
    assert assigned(staff, 40) == {2: 80, 0: 30, 1: 10}
    assert staff.slots[2].turn_ends < float("inf")
    assert staff.slots[0].turn_ends == float("inf")


def test_as_many_jobs_as_workers_need_no_turns(tmp_path: Path) -> None:
    jobs = (Job(SOUND, "random"), Job(SOUND, "hypothesis"))
    staff = crew(tmp_path, Plan(jobs, 1, workers=2))
    assert assigned(staff, 1) == {0: 1, 1: 1}
    assert all(slot.turn_ends == float("inf") for slot in staff.slots)


def test_seeds_are_derived_and_differ() -> None:
    places = [(r, w, n) for r in range(3) for w in range(3) for n in range(3)]
    seeds = [worker_seed(7, *place) for place in places]
    assert seeds[0] == 7
    assert len(set(seeds)) == len(places)
    assert all(0 <= seed < 1 << 31 for seed in seeds)
    assert seeds == [worker_seed(7, *place) for place in places]


def test_workers_of_all_engines_share_the_runs_and_take_turns() -> None:
    jobs = tuple(Job(SOUND, engine) for engine in ENGINES)
    plan = Plan(jobs, 1, workers=2, runs=400, turn_seconds=0.2)
    tally, events = Tally(), []
    for event in run_campaign(plan, never):
        tally.take(event)
        events.append(event)
    assert isinstance(events[-1], Finished)
    assert (events[-1].reason, tally.executions) == ("runs", 400)
    assert {event.worker for event in events if isinstance(event, Placed)} == {0, 1}
    assert sum(share.executions for share in tally.shares) == 400


@pytest.mark.parametrize("engine", ENGINES)
def test_an_input_that_one_keeps_reaches_the_others(
    engine: EngineName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE", "marked")
    jobs = (Job(SOUND, engine, workers=1), Job(SOUND, "random", workers=1))
    plan = Plan(jobs, 1, workers=2, seconds=30)
    handed = False
    found: list[Found] = []
    staff = crew(tmp_path, plan)
    try:
        while not found:
            events = [*staff.start(30), *staff.listen(0.1)]
            found += [each for each in events if isinstance(each, Found) and each.worker == 0]
            if not handed and staff.slots[0].process and staff.slots[0].process.executions > 20:
                handed = True
                # As if the other worker had kept it.
                list(staff._spread(staff.slots[1], Kept(1, MARKED)))
    finally:
        staff.close()
    assert found[0].data == MARKED
    assert found[0].finding.rules == ("ValueError",)


def marked() -> bytes:
    """Return an input that no engine makes: sound.py raises an error for its TSC offset."""
    case = load_case(b'base = "guest-64"\n[vmcs]\ntsc_offset = 0x6d61726b6564\n', "marked")
    return load_harness(SOUND).encode(case)


MARKED = marked()


def test_an_input_is_translated_for_another_target_and_spread_once(tmp_path: Path) -> None:
    jobs = (Job(ENTRY, "random"), Job(ENTRY, "random", "one"), Job(SOUND, "random"))
    corpus = Corpus(tmp_path, jobs, lambda data, _, other: data + (other.target or "").encode())
    reached = dict(corpus.spread(jobs[0], b"x"))
    assert {dialect: path.read_bytes() for dialect, path in reached.items()} == {
        dialect_of(jobs[0]): b"x",
        dialect_of(jobs[1]): b"xone",
    }
    assert list(corpus.spread(jobs[0], b"x")) == []
    corpus.hand_out(jobs[0], tmp_path / "inputs")
    assert [path.name for path in (tmp_path / "inputs").iterdir()] == [name_of(b"x")]
    corpus.forget(jobs[0], b"x")
    assert list(corpus.missing(jobs[0], tmp_path / "inputs")) == [b"x"]


def test_a_job_that_starts_no_more_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    text = SOUND.read_text().replace("parents[3]", f"parents[0] / {str(ROOT)!r}")
    # The first worker starts, none after it.
    mine.write_text(text.replace("    main(HARNESS)", "    os.unlink(__file__)\n    main(HARNESS)"))
    jobs = (Job(mine, "random", workers=1), Job(SOUND, "random", workers=1))
    events: list[Event] = []
    tally = Tally()

    def over() -> EndReason | None:
        return "interrupted" if any(isinstance(each, Notice) for each in events) else None

    for event in run_campaign(Plan(jobs, 1, workers=2), over):
        tally.take(event)
        events.append(event)
        if isinstance(event, Placed) and event.worker == 0 and tally.workers[0].lives == 1:
            first = event.pid
        if tally.workers.get(0) and tally.workers[0].executions > 20 and tally.deaths == 0:
            _kill(first)
    (notice,) = (each for each in events if isinstance(each, Notice))
    assert "is given up: a worker did not start" in notice.text
    assert isinstance(events[-1], Finished)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_a_job_that_never_starts_ends_the_campaign_with_a_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no such processor')\n")
    jobs = (Job(SOUND, "random", workers=1), Job(broken, "random", workers=1))
    with pytest.raises(InputError, match="did not start: no such processor"):
        list(run_campaign(Plan(jobs, 1, workers=2), never))


def test_a_worker_that_grows_is_followed_by_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # 8 KiB an input: it is seen to have grown long before its memory is all taken.
    monkeypatch.setenv("TROUBLE", "leak")
    plan = replace(Plan((Job(SOUND, "random"),), 1, runs=10_000), memory=64 << 20)
    tally = Tally()
    for event in run_campaign(plan, never):
        tally.take(event)
    assert tally.workers[0].lives > 1
    assert tally.deaths == 0
    assert tally.executions == 10_000


def test_what_is_kept_says_what_it_was_made_of_and_shows() -> None:
    kept = [
        event
        for event in run_campaign(Plan((Job(SOUND, "atheris"),), 1, runs=3000), never)
        if isinstance(event, Kept)
    ]
    assert any(event.new.broken for event in kept)
    assert all(event.is_fresh or event.new for event in kept)
    assert any(event.parent for event in kept)
    assert Seen() not in [event.new for event in kept if not event.is_fresh]
