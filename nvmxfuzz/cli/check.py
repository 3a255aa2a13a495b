# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz check`: which rules of VM entry a case breaks, and what outcomes are permitted."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from nvmxfuzz.cli.files import read_file
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "check",
        help="judge cases by the rules of VM entry",
        description="Judge cases (raw JSON, see docs/raw-format.md, or TOML) by the rules of VM "
        "entry: print the broken rules and the permitted outcomes.",
    )
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.add_argument("--json", action="store_true", help="one JSON object a line and file")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a verdict a file, in order; a bad file is a sentence on stderr and status 2.

    With --json a bad file keeps its line: an object with the key "error".
    """
    status = 0
    for path in args.files:
        try:
            judgement = vm_entry(_entry_case(path).attempt)
        except InputError as error:
            status = 2
            print(f"nvmxfuzz: {error}", file=sys.stderr)
            if args.json and len(args.files) > 1:
                print(json.dumps({"error": str(error)}))
            continue
        if args.json:
            print(json.dumps(to_json(judgement)))
        else:
            heading = f"{path}:\n" if len(args.files) > 1 else ""
            print(heading + to_text(judgement))
    return status


def _entry_case(path: Path) -> EntryCase:
    case = load_case(read_file(path), str(path))
    if not isinstance(case, EntryCase):
        raise InputError(f"{path} is a capability config, no VM entry: use nvmxfuzz config")
    return case


def to_json(judgement: Judgement) -> dict[str, object]:
    """Return a judgement as a program reads it; `unknown` is there only if it names a rule."""
    reply: dict[str, object] = {
        "broken": list(judgement.broken_names),
        "permitted": [outcome.to_json() for outcome in judgement.permitted],
    }
    if judgement.unknown_names:
        reply["unknown"] = list(judgement.unknown_names)
    return reply


def to_text(judgement: Judgement) -> str:
    """Return a judgement as a person reads it, each broken rule with its sentence."""
    lines = []
    for label, names in (
        ("broken", judgement.broken_names),
        ("unknown", judgement.unknown_names),
    ):
        for name in names:
            rule = CHAPTER.rules[CHAPTER.index[name]]
            lines += [f"{label} {name}", f"    {rule.sentence}", f"    SDM: {rule.section}"]
    lines.append("permitted: " + ", ".join(map(str, judgement.permitted)))
    return "\n".join(lines)
