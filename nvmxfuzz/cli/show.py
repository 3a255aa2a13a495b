# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz show`: a case decoded, field by field, against the base it is a difference to."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.cli.files import STORE_SUFFIXES, read_file
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import HARNESSES, Case, Harness
from nvmxfuzz.inputs.codec import decode
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.reports.case_text import case_rows, to_json, to_text


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "show",
        help="a case decoded, field by field, against its base",
        description="Print a case field by field: what it changes of its base, or with --all "
        "every field.",
    )
    command.add_argument(
        "file", type=Path, metavar="FILE", help="a case (TOML, raw JSON) or a store (.db)"
    )
    command.add_argument("--finding", metavar="ID", help="of a store, the case of this finding")
    command.add_argument(
        "--binary",
        choices=HARNESSES,
        metavar="HARNESS",
        help=f"the file is an input as the engines make it, for {' or '.join(HARNESSES)}",
    )
    command.add_argument("--all", action="store_true", help="fields that equal the base as well")
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the case."""
    case = _case(args.file, args.finding, args.binary)
    rows = case_rows(case, everything=args.all)
    print(json.dumps(to_json(case, rows)) if args.json else to_text(case, rows))
    return 0


def _case(path: Path, finding: str | None, binary: Harness | None) -> Case:
    if path.suffix in STORE_SUFFIXES:
        if finding is None:
            raise InputError(f"{path} is a store: name one of its findings with --finding")
        with open_store(path, create=False) as store:
            stored = store.finding(finding)
        if not stored.text:
            raise InputError(f"the input of {stored.identity} ended its worker: it is no case")
        return load_case(stored.text.encode(), stored.identity)
    if finding is not None:
        raise InputError(f"{path} is no store: --finding goes with a .db file")
    data = read_file(path)
    return decode(data, binary) if binary else load_case(data, str(path))
