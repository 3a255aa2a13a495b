# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz replay`: run vectors, seeds and findings again."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.plan import harness_file, load_harness
from nvmxfuzz.campaign.store import StoredFinding, open_store
from nvmxfuzz.cli.files import STORE_SUFFIXES, cases_below, read_file
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.expectation import Vector
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.triage.vectors import mismatches


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of one input: it holds if nothing stands in `complaints`."""

    name: str
    complaints: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return the form that --json prints."""
        return {"input": self.name, "holds": not self.complaints, "complaints": self.complaints}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "replay",
        help="run vectors, seeds and findings again",
        description="Run each input again: hold it against what it expects, and ask the oracles "
        "of its harness. Of a store, run its findings again.",
        epilog="Exit status: 1 if a vector does not hold or a finding is still there.",
    )
    command.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="a case (TOML or raw JSON), a folder of cases, or a store (.db)",
    )
    command.add_argument("--finding", metavar="ID", help="of a store, only this finding")
    command.add_argument("--json", action="store_true", help="one JSON object a line and input")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay every path in order; return 1 if something does not hold."""
    replayed = held = 0
    for path in args.paths:
        for result in _replay(path, args.finding):
            replayed += 1
            held += not result.complaints
            if args.json:
                print(json.dumps(result.to_json()))
            else:
                for complaint in result.complaints:
                    print(f"{result.name}: {complaint}")
    if not args.json:
        print(f"{replayed} replayed, {held} hold, {replayed - held} do not")
    elif replayed == 0:
        print("nvmxfuzz: the store has no findings", file=sys.stderr)
    return 0 if held == replayed else 1


def _replay(path: Path, finding: str | None) -> Iterator[Replayed]:
    if path.suffix in STORE_SUFFIXES:
        with open_store(path, create=False) as store:
            found = store.findings() if finding is None else (store.finding(finding),)
        yield from map(_finding_again, found)
        return
    if finding is not None:
        raise InputError(f"{path} is no store: --finding goes with a .db file")
    for file in cases_below(path):
        yield _case_again(load_vector(read_file(file), str(file)), str(file))


def _case_again(vector: Vector, name: str) -> Replayed:
    findings = _harness(vector.case.harness).examine(vector.case)
    fired = (f"{finding.identity}: {finding.message}" for finding in findings)
    return Replayed(name, (*mismatches(vector), *fired))


def _finding_again(stored: StoredFinding) -> Replayed:
    if not stored.text:
        return Replayed(stored.identity, (f"it ended its worker: {stored.finding.message}",))
    case = load_vector(stored.text.encode(), stored.identity).case
    findings = _harness(stored.harness).examine(case)
    still = any(finding.identity == stored.identity for finding in findings)
    other = ", ".join(finding.identity for finding in findings if not still)
    complaints = [f"still there: {stored.finding.message}"] if still else []
    if other:
        complaints.append(f"different: {other}")
    return Replayed(stored.identity, tuple(complaints))


@cache
def _harness(name: str) -> Harness:
    return load_harness(harness_file(name))
