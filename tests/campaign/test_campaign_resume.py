# SPDX-License-Identifier: GPL-2.0-only
"""Campaigns by a plan: from the command line, resumed, beside another, where there is no room."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nvmxfuzz.campaign import second_witness
from nvmxfuzz.campaign.beginning import Team, resumed_tally, team_of
from nvmxfuzz.campaign.events import Finished, Kept, Placed, Progress, Seen
from nvmxfuzz.campaign.plan import ROOT, Job, Plan, harness_file, load_harness
from nvmxfuzz.campaign.second_witness import unsteered
from nvmxfuzz.campaign.stopping import seen_enough
from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.campaign.store.recorder import Recorder
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.cli import campaigning
from nvmxfuzz.targets.kvm_native.build import objects

HERE = Path(__file__).parent
SOUND = HERE / "harnesses" / "sound.py"
PLAN = f"""
format = 1
workers = 2
seed = 3
store = "campaign.db"

[[job]]
harness = "{SOUND}"
engine = ["random", "hypothesis"]
"""
LITTLE_ROOM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
from nvmxfuzz.cli import main
sys.exit(main())
"""


def fuzz(*arguments: str, code: str = "") -> tuple[int, list[dict[str, Any]], str]:
    """Run `nvmxfuzz fuzz --json`; return the status, the lines and stderr."""
    start = ["-c", code] if code else ["-m", "nvmxfuzz.cli"]
    done = subprocess.run(
        [sys.executable, *start, "fuzz", *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


def test_a_campaign_goes_on_with_its_plan_its_totals_and_other_seeds(plan: Path) -> None:
    store = str(plan.with_name("campaign.db"))
    status, lines, err = fuzz(str(plan), "--runs=200")
    assert (status, err) == (0, "")
    first = lines[-1]
    assert (first["executions"], first["workers"], first["ended_by"]) == (200, 2, "runs")
    status, _, err = fuzz("--resume", store)
    assert status == 2
    assert "has had its" in err
    assert "--runs" in err
    status, lines, err = fuzz("--resume", store, "--runs=500")
    assert (status, err) == (0, "")
    assert (lines[-1]["executions"], lines[-1]["seed"]) == (500, 3)
    assert lines[-1]["seconds"] > first["seconds"]
    assert lines[-1]["corpus"] >= first["corpus"] > 0
    with open_store(Path(store), create=False) as opened:
        campaign = opened.campaign()
        workers = opened.workers(campaign.number)
    assert (campaign.resumptions, campaign.state, campaign.executions) == (1, "runs", 500)
    assert sum(worker.executions for worker in workers) == 500
    assert all(worker.seed != 3 for worker in workers)
    assert not plan.with_name("campaign.db-run").exists()


def test_a_second_campaign_on_a_store_is_refused_in_a_sentence(plan: Path) -> None:
    command = [sys.executable, "-m", "nvmxfuzz.cli", "fuzz", str(plan)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        status, lines, err = fuzz(str(plan), "--runs=10")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert (status, lines) == (2, [])
    assert "in use by another campaign" in err
    assert err.count("\n") == 1


def test_a_disk_that_gets_full_is_met_in_a_sentence(plan: Path) -> None:
    status, _, err = fuzz(
        *("vm_entry", "--time=60", "--seed=1", f"--store={plan.parent}/s"), code=LITTLE_ROOM
    )
    assert status == 2
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert "store" in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "name either a harness or a plan"),
        (["vm_entry", "--resume", "x.db"], "name either a harness or a plan"),
        (["--resume", "no-such.db"], "there is no store no-such.db"),
        (["--resume", "x.db", "--seed=1"], "--seed does not go with --resume"),
        (["no-such.toml"], "no-such.toml"),
        (["vm_entry", "--workers=0"], "--workers"),
        (["vm_entry", "--idle=never"], "--idle"),
    ],
)
def test_what_does_not_go_is_one_sentence(arguments: list[str], reason: str) -> None:
    status, lines, err = fuzz(*arguments)
    assert (status, lines) == (2, [])
    assert reason in err
    assert err.count("\n") == 1


def test_the_plan_of_all_harnesses_runs(tmp_path: Path) -> None:
    path = ROOT / "fuzz" / "everything.toml"
    status, lines, err = fuzz(
        *(str(path), "--runs=60", "--workers=2", "--engine=random"), f"--store={tmp_path}/s"
    )
    assert (status, err) == (0, "")
    assert lines[-1]["executions"] == 60
    assert len(lines[-1]["jobs"]) == 5


def team(*jobs: Job) -> Team:
    return Team(Plan(jobs, 1), tuple(load_harness(job.file) for job in jobs))


def test_a_resumed_tally_has_what_the_store_knows(tmp_path: Path) -> None:
    both = team(Job(SOUND, "random"), Job(harness_file("session"), "random"))
    with open_store(tmp_path / "store.db") as store:
        recorder = Recorder(store, both.plan, both.harnesses, 1)
        tally = Tally()
        said = Progress(0, 7, Seen(held=5, broken=2), (), (("a", 3),), ("c in f",))
        for event in (Placed(0, 0, 1, 1), said, Kept(0, b"x"), Finished("runs", 7, 2.5)):
            tally.take(event)
            recorder.take(event, tally)
        resumed = resumed_tally(store, store.campaign(), both)
    assert (resumed.executions, resumed.seen(0), resumed.seen(1)) == (7, said.seen, Seen())
    assert (resumed.job(0).conditions, resumed.known(0)) == ({"c in f"}, {"a": 3})
    assert resumed.elapsed >= resumed.before > 0


def test_a_campaign_ends_when_all_is_seen_or_nothing_new_comes() -> None:
    now = [0.0]
    tally = Tally(clock=lambda: now[0])
    until = Plan((Job(SOUND, "random"),), 1, until_seen=True)
    idle = Plan((Job(SOUND, "random"),), 1, idle_seconds=10.0)
    tally.take(Placed(0, 0, 1, 1))
    for seconds, held in ((5.0, 0b01), (9.0, 0b11), (12.0, 0b11)):
        now[0] = seconds
        tally.take(Progress(0, 1, Seen(held=held, broken=0b11), ()))
        assert seen_enough(until, tally, [2]) == ("seen" if held == 0b11 else None)
        assert seen_enough(idle, tally, [2]) is None
    now[0] = 19.5
    assert seen_enough(idle, tally, [2]) == "idle"


def test_kvm_that_is_not_built_to_count_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "KVM of Linux 6.12 (coverage) is not built: run nvmxfuzz build kvm --coverage"
    monkeypatch.setattr(objects, "usable", lambda *_: said)
    entry, session = harness_file("vm_entry"), harness_file("session")
    both = team(
        Job(entry, "atheris", "kvm-6.12"),
        Job(entry, "atheris", "kvm-6.12", weight=2),
        Job(entry, "random", "kvm-6.1"),
        Job(entry, "atheris", "bochs"),
        Job(session, "atheris", "kvm-6.12"),
    )
    (notice,) = campaigning._notices(both)
    assert notice == f"kvm-6.12 is not steered by its own coverage: {said}"
    monkeypatch.setattr(objects, "usable", lambda *_: "")
    assert unsteered(both.harnesses[0], "kvm-6.12") == ""
    assert second_witness.unsteered(both.harnesses[0], None) == ""


def test_harnesses_of_a_plan_are_loaded_once() -> None:
    entry = harness_file("vm_entry")
    jobs = (Job(entry, "random"), Job(entry, "hypothesis"), Job(entry, "atheris"))
    first, second, _ = team_of(Plan(jobs, 1)).harnesses
    assert first is second
