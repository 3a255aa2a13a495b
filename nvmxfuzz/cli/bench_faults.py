# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz bench faults`: how soon a campaign finds small mistakes that were put in on purpose."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.outside import show

if TYPE_CHECKING:
    from nvmxfuzz.power.fault import Fault
    from nvmxfuzz.power.trials import Result

MOST_TRIALS = 10_000
SECONDS = 60.0
_GOAL = 0.95
"""The share of trials in which each fault is to be found."""


def add_parser(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = kinds.add_parser(
        "faults",
        help="planted faults: how soon a campaign finds each",
        description="Plant small faults, one at a time, in the model of KVM and in the real KVM, "
        "and run a campaign until its first correct finding: of the right oracle, naming the "
        "right place. Prints medians and 90th percentiles over the trials.",
        epilog="Exit status: 0 every fault was found in 19 of 20 trials by each engine asked for, "
        "1 not, 2 bad input, 130 Ctrl-C.",
    )
    command.add_argument("--trials", type=_count, default=20, metavar="N", help="(%(default)s)")
    command.add_argument(
        "--engine",
        action="append",
        metavar="NAME",
        help="may be given again; --list names them, `all` is each of them (default: atheris)",
    )
    command.add_argument(
        "--fault",
        action="append",
        metavar="PATTERN",
        help="only faults whose name is like that, as in 'kernel.*'; may be given again",
    )
    command.add_argument(
        "--every", type=_count, default=1, metavar="N", help="only every Nth of these faults (1)"
    )
    command.add_argument(
        "--time", type=_seconds, default=SECONDS, metavar="S", help="of a trial (%(default)s)"
    )
    command.add_argument("--seed", type=_count, default=1, metavar="N", help="the first one (1)")
    command.add_argument(
        "--jobs",
        type=_count,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="trials side by side (default: one for each processor)",
    )
    command.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="keep each result there as it comes; those that it has are not measured again",
    )
    command.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="write a page on all that --results has, as docs/power.md is one",
    )
    command.add_argument(
        "--load", default="", metavar="TEXT", help="what else the machine did, told on the page"
    )
    command.add_argument("--list", action="store_true", help="list faults and engines, and end")
    command.add_argument("--json", action="store_true", help="one JSON document")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, and print the tables; return 1 if a fault was missed too often."""
    from nvmxfuzz.power.revision import revision
    from nvmxfuzz.power.trials import Measurement, measure
    from nvmxfuzz.power.variant import DEFAULT, all_variants, variant_named

    if args.page is not None and args.results is None:
        raise InputError("a page is made of results that are kept: give --results FILE as well")
    faults = _faults(args.fault)[:: args.every]
    names = args.engine or [DEFAULT]
    variants = (
        list(all_variants().values())
        if "all" in names
        else [variant_named(name) for name in dict.fromkeys(names)]
    )
    if args.list:
        _print_list(faults)
        return 0
    _build(faults, args.jobs)
    measurement = Measurement(
        faults, variants, args.trials, args.seed, args.time, args.jobs, revision()
    )
    progress = _Progress(measurement.size)
    results = measure(measurement, args.results, progress)
    _print_results(results, faults, args)
    if args.page is not None:
        _write_page(args)
    return 0 if _is_enough(results) else 1


def _print_results(
    results: Sequence[Result], faults: Sequence[Fault], args: argparse.Namespace
) -> None:
    from nvmxfuzz.power.variant import all_variants
    from nvmxfuzz.reports import power

    if args.json:
        print(json.dumps(power.as_json(results, faults)))
        return
    variants = list(all_variants().values())
    print(power.table_of_variants(results, variants))
    for variant in variants:
        table = power.table_of_faults(results, faults, variant.name)
        if table.count("\n") > 1:
            print(f"\n{variant.name}: {variant.sentence}\n\n{table}")
    for line in power.not_found(results):
        print(line)


def _write_page(args: argparse.Namespace) -> None:
    from nvmxfuzz.power.fault import all_faults
    from nvmxfuzz.power.trials import read_results
    from nvmxfuzz.power.variant import all_variants
    from nvmxfuzz.reports.power_page import page

    results = list(read_results(args.results).values())
    text = page(results, list(all_faults().values()), list(all_variants().values()), args.load)
    try:
        args.page.write_text(text)
    except OSError as error:
        raise InputError(
            f"the page cannot be written to {args.page} ({error.strerror}): name another file with "
            "--page"
        ) from error


def _faults(patterns: Sequence[str] | None) -> list[Fault]:
    from nvmxfuzz.power.fault import all_faults

    chosen = list(all_faults().values())
    for pattern in patterns or ():
        if not any(fnmatchcase(fault.name, pattern) for fault in chosen):
            raise InputError(
                f"no planted fault is called like {show(pattern)}: "
                "nvmxfuzz bench faults --list names them"
            )
    if patterns is None:
        return chosen
    return [fault for fault in chosen if any(fnmatchcase(fault.name, each) for each in patterns)]


def _print_list(faults: Sequence[Fault]) -> None:
    from nvmxfuzz.power.variant import all_variants

    for fault in faults:
        print(f"{fault.name}  [{fault.kind}; {', '.join(fault.oracles)}]  {fault.sentence}")
    print()
    for variant in all_variants().values():
        print(f"{variant.name}  {variant.sentence}")


def _build(faults: Sequence[Fault], jobs: int) -> None:
    """Build the kernels that have the faults, as far as they are asked for."""
    from nvmxfuzz.cli.build_progress import shown_progress
    from nvmxfuzz.power.in_kernel import build_faulty

    for kernel in sorted({fault.kernel for fault in faults if fault.kernel}):
        with shown_progress(sys.stderr) as progress:
            build_faulty(kernel, jobs, progress)


def _is_enough(results: Sequence[Result]) -> bool:
    groups: dict[tuple[str, str], list[bool]] = {}
    for each in results:
        groups.setdefault((each.fault, each.variant), []).append(each.trial.found)
    return all(sum(found) >= _GOAL * len(found) for found in groups.values())


class _Progress:
    """Tells of each trial on stderr, and when the measurement will have ended."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._begin = monotonic()
        self._made = 0

    def __call__(self, result: Result, left: int) -> None:
        """Print a line on a trial that has just been made; `left` are yet to be made."""
        self._made += 1
        trial = result.trial
        what = trial.identity or f"NOT FOUND {trial.died}".strip()
        seconds = (monotonic() - self._begin) / self._made * left
        print(
            f"{self._size - left}/{self._size}, {_duration(seconds)} to go: {result.fault}, "
            f"{result.variant}, seed {result.seed}: {what}, {trial.executions:,} executions, "
            f"{trial.seconds:.1f} s",
            file=sys.stderr,
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes}:{rest:02}"


def _count(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= MOST_TRIALS:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number from 1 to {MOST_TRIALS}")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if 0 < seconds <= 86_400:
        return seconds
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number of seconds up to a day")
