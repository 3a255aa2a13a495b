# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz check`: which rules of VM entry a case breaks, and what outcomes are permitted."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nvmxfuzz.cli.comparing import (
    observation_and_end,
    observation_json,
    observation_text,
    seen_by_l1,
    view_text,
)
from nvmxfuzz.cli.files import entry_case
from nvmxfuzz.cli.streams import complain
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.targets.base import Target
from nvmxfuzz.targets.registry import target_named


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "check",
        help="judge cases by the rules of VM entry",
        description="Judge cases (raw JSON, see docs/raw-format.md, or TOML) by the rules of VM "
        "entry: print the broken rules and the permitted outcomes.",
    )
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.add_argument(
        "--target", metavar="NAME", help="run them on this target instead: see nvmxfuzz targets"
    )
    command.add_argument("--json", action="store_true", help="one JSON object a line and file")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a verdict a file, in order; a bad file is a sentence on stderr and status 2.

    With --json a bad file keeps its line: an object with the key "error".
    """
    status = 0
    target = None if args.target is None else target_named(args.target).make_isolated()
    for path in args.files:
        try:
            attempt = entry_case(path).attempt
        except InputError as error:
            status = 2
            complain(str(error))
            if args.json and len(args.files) > 1:
                print(json.dumps({"error": str(error)}))
            continue
        heading = f"{path}:\n" if len(args.files) > 1 and not args.json else ""
        print(heading + _reply(attempt, target, as_json=args.json))
    if target is not None:
        target.close()
    return status


def _reply(attempt: Attempt, target: Target | None, *, as_json: bool) -> str:
    if target is not None:
        seen, end = observation_and_end(target, attempt)
        view = seen_by_l1(target, attempt)
        if as_json:
            said = observation_json(seen, end)
            return json.dumps(said if view is None else {**said, "l1": view.to_json()})
        text = observation_text(target.name, seen, end)
        return text if view is None else f"{text}\n{view_text(view)}"
    judgement = vm_entry(attempt)
    return json.dumps(to_json(judgement)) if as_json else to_text(judgement)


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
