# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz replay`: run vectors, seeds and findings again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias, cast

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.memory import memory_bound, memory_uncounted
from nvmxfuzz.campaign.plan import DEFAULT_MEMORY, harness_file, load_harness, referenced_harness
from nvmxfuzz.campaign.second_witness import compares, with_target
from nvmxfuzz.campaign.store import StoredFinding, is_store, open_store
from nvmxfuzz.cli.files import cases_below, read_file
from nvmxfuzz.cli.streams import complain
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.machine.outside import printable
from nvmxfuzz.oracles.session.play import Run
from nvmxfuzz.targets.registry import all_targets
from nvmxfuzz.triage.vectors import mismatches

Again: TypeAlias = Callable[[], tuple[str, ...]]
"""Runs an input again; returns a sentence for each thing that does not hold."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of one input: it holds if nothing stands in `complaints`.

    `error` says why it could not be run at all.
    """

    name: str
    complaints: tuple[str, ...] = ()
    error: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the form that --json prints."""
        if self.error:
            return {"input": self.name, "error": self.error}
        return {"input": self.name, "holds": not self.complaints, "complaints": self.complaints}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "replay",
        help="run vectors, seeds and findings again",
        description="Run each input again: hold it against what it expects, and ask the oracles "
        "of its harness. Of a store, run its findings again, each with the harness that found it.",
        epilog="Exit status: 0 if everything holds, 1 if a vector does not hold or a finding is "
        "still there, 2 if an input could not be run.",
    )
    command.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="a case (TOML or raw JSON), a folder of cases, or the store of a campaign",
    )
    command.add_argument(
        "--target", metavar="NAME", help="compare with this target too: see nvmxfuzz targets"
    )
    command.add_argument("--finding", metavar="ID", help="of a store, only this finding")
    command.add_argument("--json", action="store_true", help="one JSON object a line and input")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay every path in order; return 2 if one could not be, 1 if something does not hold."""
    results: list[Replayed] = []
    for path in args.paths:
        for result in _replay(path, args.finding, args.target):
            results.append(result)
            _show(result, as_json=args.json)
    if not args.json:
        _show_totals(results)
    elif not results:
        complain("the store has no findings")
    if any(result.error for result in results):
        return 2
    return 1 if any(result.complaints for result in results) else 0


def _show(result: Replayed, *, as_json: bool) -> None:
    if result.error:
        complain(result.error)
    if as_json:
        print(json.dumps(result.to_json()))
        return
    for complaint in result.complaints:
        print(printable(f"{result.name}: {complaint}"))


def _show_totals(results: Sequence[Replayed]) -> None:
    ran = [result for result in results if not result.error]
    held = sum(not result.complaints for result in ran)
    if ran or not results:
        print(f"{len(ran)} replayed, {held} hold, {len(ran) - held} do not")


def _replay(path: Path, finding: str | None, target: str | None) -> Iterator[Replayed]:
    try:
        inputs = list(_inputs(path, finding, target))
    except InputError as error:
        yield Replayed(str(path), error=str(error))
        return
    for name, again in inputs:
        try:
            with memory_bound(DEFAULT_MEMORY):
                complaints = again()
            yield Replayed(name, complaints)
        except InputError as error:
            yield Replayed(name, error=str(error))


def _inputs(path: Path, finding: str | None, target: str | None) -> Iterator[tuple[str, Again]]:
    if is_store(path):
        with open_store(path, create=False) as store:
            found = store.findings() if finding is None else store.findings_named(finding)
        for stored in found:
            yield stored.identity, partial(_finding_again, stored, target)
        return
    if finding is not None:
        raise InputError(f"{path} is no store: --finding goes with the store of a campaign")
    for file in cases_below(path):
        yield str(file), partial(_case_again, file, target)


def _case_again(file: Path, target: str | None) -> tuple[str, ...]:
    vector = load_vector(read_file(file), str(file))
    kind = vector.case.harness
    harness = _harness(harness_file(kind), target if compares(target, kind) else None)
    findings = harness.examine(vector.case)
    fired = (f"{finding.identity}: {finding.message}" for finding in findings)
    # What KVM does in a session is told of KVM itself: the model does not know all of it.
    played = cast("Run", harness.run) if kind == "session" and target is not None else None
    return (*mismatches(vector, played), *fired)


def _finding_again(stored: StoredFinding, target: str | None) -> tuple[str, ...]:
    if not stored.text and not stored.data:
        raise InputError(f"{stored.identity} cannot be run again: no input was saved")
    if not stored.text:
        return (f"it ended its worker: {stored.finding.message}",)
    case = load_vector(stored.text.encode(), stored.identity).case
    try:
        harness = _harness(referenced_harness(stored.harness), target or _target_of(stored))
    except InputError as error:
        raise InputError(f"{stored.identity} cannot be run again: {error}") from error
    findings = harness.examine(case)
    for finding in findings:
        if finding.identity == stored.identity:
            # In the words of the case that is kept: a smaller one than it was found with.
            return (f"still there: {finding.message}",)
    other = ", ".join(finding.identity for finding in findings)
    return (f"different: {other}",) if other else ()


def _target_of(stored: StoredFinding) -> str | None:
    """Return the second witness of a finding, if it is a target."""
    names = all_targets()
    return next((side for side in stored.finding.targets if side in names), None)


@cache
def _harness(file: Path, target: str | None) -> Harness:
    # A witness that is a kernel takes a GiB of addresses, which is not the case's fault.
    with memory_uncounted():
        return with_target(load_harness(file), target, isolated=True)
