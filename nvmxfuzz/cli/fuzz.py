# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz fuzz`: run a harness on many inputs, and keep what it finds."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nvmxfuzz.campaign.desk import Desk
from nvmxfuzz.campaign.events import Died, Event, Finished, Found
from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.listener import Listener
from nvmxfuzz.campaign.plan import (
    ROOT,
    Plan,
    corpus_files,
    harness_file,
    harness_names,
    harness_reference,
    load_harness,
    require_engine,
)
from nvmxfuzz.campaign.runner import run_campaign
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.campaign.settings import ENGINES
from nvmxfuzz.campaign.store import Store, open_store
from nvmxfuzz.campaign.store.recorder import Recorder
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.cli import INTERRUPTED, end_at_once
from nvmxfuzz.cli.files import read_file
from nvmxfuzz.cli.invocation import command, typed_path
from nvmxfuzz.cli.streams import silence
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.reports.console import Console, Summary, Terminal
from nvmxfuzz.reports.ndjson import Ndjson

DEFAULT_STORE = ROOT / "nvmxfuzz.db"
_SEED_BITS = 31
_GRACE_SECONDS = 5.0
"""How long after its time a campaign may go on minimising."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    names = ", ".join(harness_names())
    command = commands.add_parser(
        "fuzz",
        help="run a harness on many inputs",
        description="Run a harness on many inputs, until the time or the number of runs is up, or "
        "until Ctrl-C. Findings are run again, minimised and stored; they do not stop the run.",
        epilog="Exit status: 0 no findings, 1 findings, 2 bad input, 130 Ctrl-C.",
    )
    command.add_argument(
        "harness", metavar="HARNESS", help=f"{names}, or a Python file that defines HARNESS"
    )
    command.add_argument("--time", type=_seconds, metavar="S", help="stop after S seconds")
    command.add_argument("--runs", type=_positive, metavar="N", help="stop after N executions")
    command.add_argument(
        "--engine", choices=ENGINES, default="atheris", help="where inputs come from (%(default)s)"
    )
    command.add_argument(
        "--seed", type=_seed, metavar="N", help="of the engine (default: another one each time)"
    )
    command.add_argument(
        "--target", metavar="NAME", help="compare with this target too: see nvmxfuzz targets"
    )
    command.add_argument(
        "--store", type=Path, default=DEFAULT_STORE, metavar="FILE", help="default: %(default)s"
    )
    command.add_argument(
        "--json", action="store_true", help="one JSON object a line: findings, then the summary"
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run a campaign; return 1 if it had findings, 130 if it was interrupted, else 0."""
    require_engine(args.engine)
    file = harness_file(args.harness)
    steered = args.engine == "atheris"
    harness = with_target(load_harness(file), args.target, isolated=True, covered=steered)
    with open_store(args.store) as store, _interruptible() as interrupted:
        plan = Plan(
            file=file,
            engine=args.engine,
            seed=_fresh_seed() if args.seed is None else args.seed,
            runs=args.runs,
            seconds=args.time,
            seeds=_seeds(harness) if steered else (),
            target=args.target,
        )
        summary, error = _campaign(plan, harness, store, interrupted, as_json=args.json)
        if isinstance(error, BrokenPipeError):
            # The reader has seen enough; what there is to say is in the store.
            silence(sys.stdout)
        elif error is not None and not summary.executions:
            raise error
        print(json.dumps(summary.to_json()) if args.json else summary.to_text(), flush=True)
        if error is not None and not isinstance(error, BrokenPipeError):
            raise error
    if summary.reason == "interrupted":
        return INTERRUPTED
    return 1 if summary.findings else 0


def _campaign(
    plan: Plan,
    harness: Harness,
    store: Store,
    interrupted: Callable[[], bool],
    *,
    as_json: bool,
) -> tuple[Summary, Exception | None]:
    """Run the campaign, with everybody listening who has to; return what ended it early as well."""
    recorder = Recorder(store, plan, harness, int(time.time()))
    listener: Listener = (
        Ndjson(sys.stdout) if as_json else Console(Terminal(file=sys.stdout), harness.noun)
    )
    minimise_until = time.monotonic() + (plan.seconds or math.inf) + _GRACE_SECONDS
    desk = Desk(
        plan=plan,
        harness=harness,
        recorder=recorder,
        listener=listener,
        stop=lambda: interrupted() or time.monotonic() > minimise_until,
        interrupted=interrupted,
    )
    tally = Tally()
    last: Event | None = None
    ended_by: Exception | None = None
    begin = time.monotonic()
    try:
        with (
            contextlib.closing(listener),
            contextlib.closing(run_campaign(plan, interrupted)) as events,
        ):
            for event in events:
                tally.take(event)
                if isinstance(event, Found):
                    desk.found_by_oracle(event.finding, event.data)
                elif isinstance(event, Died):
                    desk.worker_died(event)
                recorder.take(event, tally)
                listener.take(event, tally)
                last = event
    except (InputError, OSError, MemoryError) as error:
        ended_by = error
    if not isinstance(last, Finished):
        last = Finished("error", tally.executions, time.monotonic() - begin)
        recorder.give_up(tally, last.seconds)
    return _summary(plan, store, last, tally, desk), ended_by


def _summary(plan: Plan, store: Store, last: Finished, tally: Tally, desk: Desk) -> Summary:
    harness = desk.harness
    shown = typed_path(store.path)
    return Summary(
        harness=harness_reference(plan.file),
        engine=plan.engine,
        seed=plan.seed,
        reason=last.reason,
        seconds=last.seconds,
        executions=last.executions,
        noun=harness.noun,
        points=len(harness.points),
        seen=tally.seen,
        deaths=tally.deaths,
        findings=tuple(desk.found),
        new=desk.new,
        without_input=tuple(desk.without_input),
        store=shown,
        replay=(*command(), "replay", shown),
    )


def _seeds(harness: Harness) -> tuple[bytes, ...]:
    cases = (load_case(read_file(path), str(path)) for path in corpus_files(harness.name))
    return tuple(harness.encode(case) for case in cases if case.harness == harness.kind)


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Make the first Ctrl-C (or SIGTERM, SIGHUP) a wish that the campaign fulfils.

    A second one insists. What is ignored stays so, as for nohup.
    """
    wishes: list[int] = []

    def wish(number: int, frame: object) -> None:
        if wishes:
            end_at_once(number, frame)
        wishes.append(number)

    previous = {
        number: signal.signal(number, wish)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield lambda: bool(wishes)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _fresh_seed() -> int:
    return time.time_ns() & (1 << _SEED_BITS) - 1


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number of seconds above 0")


def _positive(text: str) -> int:
    return _whole_number(text, 1, 1 << 62)


def _seed(text: str) -> int:
    return _whole_number(text, 0, (1 << _SEED_BITS) - 1)


def _whole_number(text: str, least: int, most: int) -> int:
    with contextlib.suppress(ValueError):
        if least <= int(text) <= most:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number from {least} to {most}")
