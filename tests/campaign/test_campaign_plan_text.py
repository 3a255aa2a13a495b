# SPDX-License-Identifier: GPL-2.0-only
"""Plans as TOML: what they say, what is wrong with them, and back again."""

from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.campaign.plan import ROOT, Job, Plan
from nvmxfuzz.campaign.plan_text import PlanFile, demand_workers, read_plan, write_plan
from nvmxfuzz.errors import InputError

HERE = Path(__file__).parent
JOB = '[[job]]\nharness = "vm_entry"\n'
FULL = """
format = 1
workers = 7
time = "1.5h"
runs = 1000
no_new_behaviour = "30m"
all_seen = true
seed = 5
memory = "512 MiB"
case_seconds = 2.5
turn = 60
reruns = 2
store = "campaign.db"

[[job]]
harness = "vm_entry"
target = "kvm+bochs"
kernels = ["6.1", "6.12"]
engine = ["random", "atheris"]
weight = 3

[[job]]
harness = "harnesses/sound.py"
engine = "hypothesis"
workers = 2
"""


def read(text: str) -> PlanFile:
    return read_plan(text, "my.toml", HERE)


def test_a_plan_says_all_there_is() -> None:
    file = read(FULL)
    entry, sound = ROOT / "fuzz" / "vm_entry.py", HERE / "harnesses" / "sound.py"
    assert file.plan == Plan(
        jobs=(
            Job(entry, "atheris", "kvm-6.1+bochs", 3),
            Job(entry, "random", "kvm-6.1+bochs", 3),
            Job(entry, "atheris", "kvm-6.12+bochs", 3),
            Job(entry, "random", "kvm-6.12+bochs", 3),
            Job(sound, "hypothesis", workers=2),
        ),
        seed=5,
        workers=7,
        runs=1000,
        seconds=5400.0,
        idle_seconds=1800.0,
        until_seen=True,
        case_seconds=2.5,
        memory=512 << 20,
        turn_seconds=60.0,
        reruns=2,
    )
    assert (file.seed, file.workers, file.store) == (5, 7, HERE / "campaign.db")


def test_what_a_plan_leaves_open_is_told() -> None:
    file = read(f"format = 1\n{JOB}")
    assert (file.seed, file.workers, file.store) == (None, None, None)
    assert file.plan == Plan((Job(ROOT / "fuzz" / "vm_entry.py", "atheris"),), 0)


def test_what_the_store_keeps_is_the_same_plan() -> None:
    for text in (FULL, f"format = 1\n{JOB}"):
        plan = read(text).plan
        assert read_plan(write_plan(plan), "the store", ROOT).plan == plan


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("format = ", "my.toml is no TOML"),
        (JOB, "'format' is missing: write format = 1"),
        (f"format = 2\n{JOB}", "'format' is to be 1, not '2'"),
        ("format = 1", "'job' is missing"),
        ("format = 1\njob = 3", "'job' is missing"),
        (f"format = 1\nwokers = 2\n{JOB}", "'wokers' is not known: the keys are format, workers"),
        (f"format = 1\nworkers = 0\n{JOB}", "'workers' is to be a number from 1 to 1024, not '0'"),
        (f"format = 1\nworkers = true\n{JOB}", "'workers' is to be"),
        (f'format = 1\ntime = "soon"\n{JOB}', "'time' is to be a time above 0"),
        (f"format = 1\ntime = 0\n{JOB}", "'time' is to be"),
        (f"format = 1\ntime = inf\n{JOB}", "'time' is to be"),
        (f"format = 1\nruns = -1\n{JOB}", "'runs' is to be a number above 0"),
        (f'format = 1\nno_new_behaviour = "30 weeks"\n{JOB}', "'no_new_behaviour' is to be"),
        (f"format = 1\nall_seen = 1\n{JOB}", "'all_seen' is to be true or false"),
        (f"format = 1\nseed = 4294967296\n{JOB}", "'seed' is to be a number from 0"),
        (f'format = 1\nmemory = "2 GB"\n{JOB}', "'memory' is to be at least"),
        (f"format = 1\ncase_seconds = []\n{JOB}", "'case_seconds' is to be"),
        (f"format = 1\nturn = false\n{JOB}", "'turn' is to be"),
        (f"format = 1\nreruns = 0\n{JOB}", "'reruns' is to be"),
        (f'format = 1\nstore = ""\n{JOB}', "'store' is to be the path of a file"),
        ("format = 1\n[[job]]\n", "job 1: 'harness' is missing"),
        (f'format = 1\n{JOB}[[job]]\nharness = "kvm"', "job 2: 'harness' cannot be used: there is"),
        ('format = 1\n[[job]]\nharness = "no.py"', "'harness' cannot be used: the harness"),
        (f"format = 1\n{JOB}harnes = 1", "job 1: 'harnes' is not known: the keys are harness"),
        (f'format = 1\n{JOB}engine = "afl"', "'engine' is to be one of atheris"),
        (f"format = 1\n{JOB}engine = []", "'engine' is to be one of atheris"),
        (f'format = 1\n{JOB}kernels = "6.1"', "'kernels' is to be a list"),
        (f"format = 1\n{JOB}target = 6", "'target' is to be a name"),
        (f'format = 1\n{JOB}target = "bochs"\nkernels = ["6.1"]', "'target' goes with kernels"),
        (f"format = 1\n{JOB}weight = 0", "'weight' is to be a number from 1"),
        (f"format = 1\n{JOB}workers = 1.5", "'workers' is to be a number from 1"),
        (f"format = 1\nworkers = 2\n{JOB}workers = 3", "'workers' is 2, but the jobs ask for 3"),
        (f"format = 1\nworkers = 3\n{JOB}workers = 3\n{JOB}", "all of them for jobs that ask"),
        (f"format = 1\n{JOB * 300}", "'job' comes to more than 256 jobs"),
        ("x" * (1 << 21), "too long for a plan"),
    ],
)
def test_every_mistake_is_one_sentence_with_the_key(text: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    said = str(caught.value)
    assert reason in said
    assert said.startswith("my.toml")
    assert "\n" not in said
    assert len(said) < 500


def test_too_few_workers_on_the_command_line_is_a_mistake_too() -> None:
    plan = replace(read(FULL).plan, workers=1)
    with pytest.raises(InputError, match="'workers' is 1, but the jobs ask for 2"):
        demand_workers(plan, "my.toml")


@pytest.mark.parametrize("path", sorted((ROOT / "fuzz").glob("*.toml")), ids=lambda path: path.name)
def test_the_plans_of_the_checkout_are_sound(path: Path) -> None:
    assert read_plan(path.read_text(), path.name, path.parent).plan.jobs
