# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz show`: a case decoded, field by field, against the base it is a difference to."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from nvmxfuzz.campaign.store import is_store, open_store
from nvmxfuzz.cli.comparing import observation_and_end, observation_json, observation_text
from nvmxfuzz.cli.files import read_file, what
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import CASE_KINDS, Case, CaseKind, EntryCase
from nvmxfuzz.inputs.codec import decode
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.inputs.raw_json import dump_raw
from nvmxfuzz.reports.case_text import case_rows, to_json, to_text
from nvmxfuzz.targets.base import Observation
from nvmxfuzz.targets.registry import target_named


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "show",
        help="a case decoded, field by field, against its base",
        description="Print a case field by field: what it changes of its base, or with --all "
        "every field.",
        epilog="--raw is for other programs: it prints a VM entry in the form that they make such "
        "cases in (docs/raw-format.md), so that they have a whole state to begin with, such as "
        "that of a seed, which is legal: nvmxfuzz check reads it back. VMCS fields that are not "
        "printed are 0.",
    )
    command.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a case (TOML, raw JSON), or the store of a campaign",
    )
    command.add_argument("--finding", metavar="ID", help="of a store, the case of this finding")
    command.add_argument(
        "--binary",
        choices=CASE_KINDS,
        metavar="HARNESS",
        help=f"the file is an input as the engines make it, for {' or '.join(CASE_KINDS)}",
    )
    command.add_argument("--all", action="store_true", help="fields that equal the base as well")
    command.add_argument(
        "--target", metavar="NAME", help="what this target makes of it: see nvmxfuzz targets"
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object")
    form.add_argument("--raw", action="store_true", help="a VM entry as raw JSON")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the case."""
    case = _case(args.file, args.finding, args.binary)
    if args.raw:
        print(json.dumps(_raw(case, args.file), indent=2))
        return 0
    rows = case_rows(case, everything=args.all)
    reply = to_json(case, rows)
    text = to_text(case, rows)
    if args.target is not None:
        seen, end = _observation(case, args.target, args.file)
        reply["target"] = {"name": args.target, **observation_json(seen, end)}
        text += "\n" + observation_text(args.target, seen, end)
    print(json.dumps(reply) if args.json else text)
    return 0


def _observation(case: Case, target: str, path: Path) -> tuple[Observation, Observation | None]:
    if not isinstance(case, EntryCase):
        raise InputError(f"{path} is {what(case)}: --target goes with VM entries")
    with target_named(target).make_isolated() as made:
        return observation_and_end(made, case.attempt)


def _raw(case: Case, path: Path) -> dict[str, Any]:
    if not isinstance(case, EntryCase):
        raise InputError(f"{path} is {what(case)}: only a VM entry has a raw form")
    return dump_raw(case)


def _case(path: Path, finding: str | None, binary: CaseKind | None) -> Case:
    if is_store(path):
        if finding is None:
            raise InputError(f"{path} is a store: name one of its findings with --finding")
        with open_store(path, create=False) as store:
            stored = store.finding(finding)
        if not stored.text:
            raise InputError(f"the input of {stored.identity} ended its worker: it is no case")
        return load_case(stored.text.encode(), stored.identity)
    if finding is not None:
        raise InputError(f"{path} is no store: --finding goes with the store of a campaign")
    data = read_file(path)
    return decode(data, binary) if binary else load_case(data, str(path))
