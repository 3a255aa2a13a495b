# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz replay`: run vectors, seeds and findings again."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal, TypeAlias, cast

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.memory import memory_bound, memory_uncounted
from nvmxfuzz.campaign.plan import DEFAULT_MEMORY, harness_file, load_harness
from nvmxfuzz.campaign.second_witness import compares, with_target
from nvmxfuzz.campaign.session_targets import REAL_TARGETS
from nvmxfuzz.campaign.store import StoredFinding, is_store, open_store
from nvmxfuzz.cli.files import cases_below, read_file
from nvmxfuzz.cli.streams import complain
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.expectation import Vector
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.machine.outside import printable
from nvmxfuzz.oracles.session.play import Run
from nvmxfuzz.triage.case_finding import shown_finding, stored_finding
from nvmxfuzz.triage.standing import GONE, STILL_THERE, Replayer, Status
from nvmxfuzz.triage.vectors import mismatches

Said: TypeAlias = tuple[tuple[str, ...], Status | Literal[""]]
"""A sentence for each thing that does not hold, and what became of a finding."""
Again: TypeAlias = Callable[[], Said]
"""Runs an input again."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of one input: it holds if nothing stands in `complaints`.

    `status` says what became of a finding, "" where the input is about none. `error` says why it
    could not be run at all.
    """

    name: str
    complaints: tuple[str, ...] = ()
    error: str = ""
    status: Status | Literal[""] = ""

    def to_json(self) -> dict[str, object]:
        """Return the form that --json prints."""
        if self.error:
            return {"input": self.name, "error": self.error}
        said = {"input": self.name, "holds": not self.complaints, "complaints": self.complaints}
        return {**said, "status": self.status} if self.status else said


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "replay",
        help="run vectors, seeds and findings again",
        description="Run each input again: hold it against what it expects, and ask the oracles "
        "of its harness. Of a store, run its findings again, each with the harness that found it, "
        "in processes that have run nothing else: each is still there, gone, or different. A file "
        "with a table [finding] says what it shows, and holds while that is still there.",
        epilog="Exit status: 0 if everything holds and every finding of a store is gone; 1 if a "
        "vector does not hold, a finding of a store is still there or different, or that of a "
        "file is gone or different; 2 if an input could not be run.",
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
    command.add_argument(
        "--keep", action="store_true", help="note in the store what became of its findings"
    )
    command.add_argument("--json", action="store_true", help="one JSON object a line and input")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay every path in order; return 2 if one could not be, 1 if something does not hold."""
    results: list[Replayed] = []
    with Replayer() as replayer:
        for path in args.paths:
            for result in _replay(path, args, replayer):
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
        stands = Counter(result.status for result in ran if result.status)
        told = "".join(f", {count} {status}" for status, count in sorted(stands.items()))
        print(f"{len(ran)} replayed, {held} hold, {len(ran) - held} do not{told}")


def _replay(path: Path, args: argparse.Namespace, replayer: Replayer) -> Iterator[Replayed]:
    try:
        inputs = list(_inputs(path, args, replayer))
    except InputError as error:
        yield Replayed(str(path), error=str(error))
        return
    for name, again in inputs:
        try:
            complaints, status = again()
            yield Replayed(name, complaints, status=status)
        except InputError as error:
            yield Replayed(name, error=str(error))


def _inputs(
    path: Path, args: argparse.Namespace, replayer: Replayer
) -> Iterator[tuple[str, Again]]:
    if is_store(path):
        with open_store(path, create=False) as store:
            found = store.findings() if args.finding is None else store.findings_named(args.finding)
        keep = path if args.keep else None
        for stored in found:
            yield stored.identity, partial(_finding_again, stored, args.target, replayer, keep)
        return
    if args.finding is not None:
        raise InputError(f"{path} is no store: --finding goes with the store of a campaign")
    for file in cases_below(path):
        yield str(file), partial(_case_again, file, args.target, replayer)


def _case_again(file: Path, target: str | None, replayer: Replayer) -> Said:
    vector = load_vector(read_file(file), str(file))
    if vector.shown is None:
        return _vector_again(vector, target), ""
    standing = replayer.standing(shown_finding(vector, target))
    if standing.status == STILL_THERE:
        return mismatches(vector), standing.status
    return (*mismatches(vector), standing.sentence), standing.status


def _vector_again(vector: Vector, target: str | None) -> tuple[str, ...]:
    kind = vector.case.harness
    with memory_bound(DEFAULT_MEMORY):
        harness = _harness(harness_file(kind), target if compares(target, kind) else None)
        findings = harness.examine(vector.case)
        fired = (f"{finding.identity}: {finding.message}" for finding in findings)
        # What KVM does in a session is told of KVM itself: the model does not know all of it.
        played = cast("Run", harness.run) if kind == "session" and target in REAL_TARGETS else None
        return (*mismatches(vector, played), *fired)


def _finding_again(
    stored: StoredFinding, target: str | None, replayer: Replayer, keep: Path | None
) -> Said:
    found = stored_finding(stored)
    if target is not None:
        found = replace(found, setting=replace(found.setting, target=target))
    try:
        standing = replayer.standing(found)
    except InputError as error:
        raise InputError(f"{stored.identity} cannot be run again: {error}") from error
    if keep is not None:
        with open_store(keep) as store:
            store.set_status(stored.harness, stored.identity, standing.status)
    return () if standing.status == GONE else (standing.sentence,), standing.status


@cache
def _harness(file: Path, target: str | None) -> Harness:
    # A witness that is a kernel takes a GiB of addresses, which is not the case's fault.
    with memory_uncounted():
        return with_target(load_harness(file), target, isolated=True)
