# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz rules`: the rules of VM entry, counted by section, and which verdicts were seen."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.cli.files import STORE_SUFFIXES, cases_below, read_file
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case

VERDICTS = ("n/a", "held", "broken")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "rules",
        help="list the rules of VM entry",
        description="List the rules of VM entry with their sentences, in the SDM's order.",
    )
    command.add_argument("--counts", action="store_true", help="only the number by section")
    command.add_argument(
        "--seen",
        type=Path,
        metavar="PATH",
        help="say which verdicts were seen in a store, or over the cases of a file or folder",
    )
    command.add_argument("--json", action="store_true", help="one JSON document")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the rules, their counts, or what was seen of them."""
    if args.seen is not None:
        print(_seen_as_json(args.seen) if args.json else _seen_as_text(args.seen))
    elif args.counts:
        print(json.dumps(_counts()) if args.json else _counts_as_text())
    else:
        print(json.dumps(_list()) if args.json else _list_as_text())
    return 0


def _list() -> list[dict[str, str | bool]]:
    return [
        {
            "name": rule.name,
            "section": rule.section,
            "sentence": rule.sentence,
            "has_condition": rule.has_condition,
        }
        for rule in CHAPTER.rules
    ]


def _list_as_text() -> str:
    lines: list[str] = []
    for title, rules in CHAPTER.sections.items():
        lines += ["", f"{title} ({len(rules)})"]
        lines += [f"  {rule.name}\n      {rule.sentence}" for rule in rules]
    return "\n".join(lines[1:])


def _counts() -> dict[str, int]:
    return {title: len(rules) for title, rules in CHAPTER.sections.items()}


def _counts_as_text() -> str:
    lines = [f"{count:4}  {title}" for title, count in _counts().items()]
    return "\n".join([*lines, f"{len(CHAPTER.rules):4}  in all"])


def _seen(path: Path) -> dict[str, list[str]]:
    """Return by rule the verdicts that the cases of `path`, or a campaign's store, have shown."""
    if path.suffix in STORE_SUFFIXES:
        with open_store(path, create=False) as store:
            seen = store.verdicts_seen()
    else:
        seen = set()
        for file in cases_below(path):
            case = load_case(read_file(file), str(file))
            if isinstance(case, EntryCase):
                judgement = vm_entry(case.attempt)
                seen.update(
                    (rule.name, judgement.verdict(index))
                    for index, rule in enumerate(CHAPTER.rules)
                )
    return {
        rule.name: [verdict for verdict in VERDICTS if (rule.name, verdict) in seen]
        for rule in CHAPTER.rules
    }


def _seen_as_json(path: Path) -> str:
    return json.dumps(_seen(path))


def _seen_as_text(path: Path) -> str:
    seen = _seen(path)
    width = max(map(len, seen))
    lines = [f"{name:{width}}  {' '.join(verdicts)}".rstrip() for name, verdicts in seen.items()]
    totals = Counter(verdict for verdicts in seen.values() for verdict in verdicts)
    summary = ", ".join(f"{verdict} {totals[verdict]}" for verdict in VERDICTS)
    return "\n".join([*lines, f"of {len(seen)} rules seen: {summary}"])
