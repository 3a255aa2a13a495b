# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz fuzz`: run harnesses on many inputs, and keep what they find."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nvmxfuzz.campaign.plan import ROOT, Job, Plan, harness_file, harness_names, require_engine
from nvmxfuzz.campaign.plan_text import (
    MOST_WORKERS,
    PlanFile,
    demand_workers,
    duration_of,
    read_plan,
)
from nvmxfuzz.campaign.seeding import SEED_BITS
from nvmxfuzz.campaign.settings import ENGINES
from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.campaign.store.values import StoredCampaign
from nvmxfuzz.cli.campaigning import Asked, campaign
from nvmxfuzz.cli.files import read_file
from nvmxfuzz.errors import InputError

DEFAULT_STORE = ROOT / "nvmxfuzz.db"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    names = ", ".join(harness_names())
    command = commands.add_parser(
        "fuzz",
        help="run harnesses on many inputs",
        description="Run a harness on many inputs, or all that a plan says (docs/campaigns.md), "
        "until its end or until Ctrl-C. Findings are run again, minimised and stored; they do not "
        "stop the run.",
        epilog="Exit status: 0 no findings, 1 findings, 2 bad input, 130 Ctrl-C.",
    )
    command.add_argument(
        "what",
        nargs="?",
        metavar="HARNESS|PLAN",
        help=f"{names}, a Python file that defines HARNESS, or a plan (.toml)",
    )
    command.add_argument(
        "--resume",
        nargs="?",
        type=Path,
        const=DEFAULT_STORE,
        metavar="STORE",
        help="go on with the last campaign of a store (default: %(const)s)",
    )
    command.add_argument(
        "--workers",
        type=_number(1, MOST_WORKERS),
        metavar="N",
        help="worker processes (default: one for a harness, one for each core for a plan)",
    )
    command.add_argument("--time", type=_seconds, metavar="S", help="stop after S seconds (or 8h)")
    command.add_argument(
        "--runs", type=_number(1, 1 << 62), metavar="N", help="stop after N executions"
    )
    command.add_argument(
        "--idle", type=_seconds, metavar="S", help="stop after S seconds without new behaviour"
    )
    command.add_argument(
        "--reruns", type=_number(1, 100), metavar="N", help="runs of each finding again (5)"
    )
    command.add_argument("--engine", choices=ENGINES, help="where inputs come from (atheris)")
    command.add_argument(
        "--seed",
        type=_number(0, (1 << SEED_BITS) - 1),
        metavar="N",
        help="of the engine (default: another one each time)",
    )
    command.add_argument(
        "--target", metavar="NAME", help="compare with this target too: see nvmxfuzz targets"
    )
    command.add_argument(
        "--store", type=Path, metavar="FILE", help=f"default: {DEFAULT_STORE}, or the plan's"
    )
    command.add_argument(
        "--json", action="store_true", help="one JSON object a line: findings, then the summary"
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run a campaign; return 1 if it had findings, 130 if it was interrupted, else 0."""
    start = _start(args)
    for engine in dict.fromkeys(job.engine for job in start.plan.jobs):
        require_engine(engine)
    return campaign(
        Asked(
            plan=start.plan,
            store=start.store,
            resumed=start.resumed,
            begins_with_store=start.begins_with_store,
            as_json=args.json,
        )
    )


@dataclass(frozen=True, slots=True)
class _Start:
    plan: Plan
    store: Path
    resumed: StoredCampaign | None = None
    begins_with_store: bool = True


def _start(args: argparse.Namespace) -> _Start:
    """Return what the arguments ask for: a campaign to resume, a plan, or a harness."""
    if (args.what is None) == (args.resume is None):
        raise InputError(
            "name either a harness or a plan to begin a campaign with, or --resume to go on with "
            "one: see nvmxfuzz fuzz --help"
        )
    if args.resume is not None:
        return _resumed(args)
    if args.what.endswith(".toml"):
        path = Path(args.what)
        text = read_file(path).decode("utf-8", "replace")
        file = read_plan(text, str(path), path.parent.absolute())
        plan = _overridden(_with_defaults(file), args)
        demand_workers(plan, f"{path} with --workers {plan.workers}")
        return _Start(plan, args.store or file.store or DEFAULT_STORE)
    job = Job(harness_file(args.what), "atheris")
    plan = _overridden(Plan((job,), _fresh_seed()), args)
    # What one seed names is the same on every store.
    return _Start(plan, args.store or DEFAULT_STORE, begins_with_store=False)


def _with_defaults(file: PlanFile) -> Plan:
    """Fill in what a plan leaves open."""
    cores = len(os.sched_getaffinity(0))
    workers = max(file.plan.workers, cores) if file.workers is None else file.workers
    seed = _fresh_seed() if file.seed is None else file.seed
    if file.workers is None and any(job.workers is None for job in file.plan.jobs):
        own = sum(job.workers or 0 for job in file.plan.jobs)
        workers = max(workers, own + 1)
    return replace(file.plan, workers=workers, seed=seed)


def _overridden(plan: Plan, args: argparse.Namespace) -> Plan:
    """Let the arguments have the last word."""
    jobs = plan.jobs
    if args.engine is not None:
        jobs = tuple(dict.fromkeys(replace(job, engine=args.engine) for job in jobs))
    if args.target is not None:
        jobs = tuple(dict.fromkeys(replace(job, target=args.target) for job in jobs))
    return replace(
        plan,
        jobs=jobs,
        workers=args.workers or plan.workers,
        seed=plan.seed if args.seed is None else args.seed,
        runs=args.runs or plan.runs,
        seconds=args.time or plan.seconds,
        idle_seconds=args.idle or plan.idle_seconds,
        reruns=args.reruns or plan.reruns,
    )


def _resumed(args: argparse.Namespace) -> _Start:
    """Return the last campaign of a store; its plan says when all of it together is over."""
    for name in ("engine", "target", "seed", "store"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name} does not go with --resume: the campaign has its own")
    with open_store(args.resume, create=False) as store:
        stored = store.campaign()
    name = f"the plan of campaign {stored.number} in {args.resume}"
    if not stored.plan:
        raise InputError(
            f"campaign {stored.number} in {args.resume} has no plan, since an older nvmxfuzz ran "
            "it: begin another one on this store"
        )
    plan = replace(
        read_plan(stored.plan, name, ROOT).plan,
        seed=stored.seed,
        resumptions=stored.resumptions + 1,
    )
    plan = _overridden(plan, args)
    demand_workers(plan, f"{name} with --workers {plan.workers}")
    is_over = (plan.runs is not None and plan.runs <= stored.executions) or (
        plan.seconds is not None and plan.seconds <= stored.seconds
    )
    if is_over:
        raise InputError(
            f"campaign {stored.number} in {args.resume} has had its {stored.seconds:.0f} s and "
            f"{stored.executions} runs: give it more in all with --time or --runs"
        )
    return _Start(plan, args.resume, stored)


def _fresh_seed() -> int:
    return time.time_ns() & (1 << SEED_BITS) - 1


def _seconds(text: str) -> float:
    seconds = None
    with contextlib.suppress(ValueError):
        seconds = float(text)
    if seconds is None:
        seconds = duration_of(text)
    if seconds is not None and 0 < seconds < math.inf:
        return seconds
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number of seconds above 0")


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        with contextlib.suppress(ValueError):
            if least <= int(text) <= most:
                return int(text)
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number from {least} to {most}")

    return parse
