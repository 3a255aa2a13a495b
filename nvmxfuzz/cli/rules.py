# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz rules`: the rules of VM entry, counted by section, and which verdicts were seen."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TypeAlias

from nvmxfuzz.campaign.store import is_store, open_store
from nvmxfuzz.cli.files import cases_below, read_file
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case

VERDICTS = ("n/a", "held", "broken")

Seen: TypeAlias = dict[str, list[str]]
"""The verdicts that were seen, by the name of the rule."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "rules",
        help="list the rules of VM entry",
        description="List the rules of VM entry with their sentences, in the SDM's order.",
    )
    command.add_argument("--counts", action="store_true", help="only the numbers by section")
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
    seen = None if args.seen is None else _seen(args.seen)
    if args.counts:
        print(_counts_as_json(seen) if args.json else _counts_as_text(seen))
    elif seen is not None:
        print(json.dumps(seen) if args.json else _seen_as_text(seen))
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


def _counts(seen: Seen | None) -> dict[str, dict[str, int]]:
    """Return by section how many rules it has, and how many were seen with each verdict."""
    counts = {}
    for title, rules in CHAPTER.sections.items():
        counts[title] = {"rules": len(rules)}
        if seen is not None:
            verdicts = Counter(verdict for rule in rules for verdict in seen[rule.name])
            counts[title] |= {verdict: verdicts[verdict] for verdict in VERDICTS}
    return counts


def _counts_as_json(seen: Seen | None) -> str:
    counts = _counts(seen)
    return json.dumps(
        {title: row["rules"] for title, row in counts.items()} if seen is None else counts
    )


def _counts_as_text(seen: Seen | None) -> str:
    counts = _counts(seen)
    columns = next(iter(counts.values()))
    total = {column: sum(row[column] for row in counts.values()) for column in columns}
    lines = [
        "".join(f"{number:8}" for number in row.values()) + f"  {title}"
        for title, row in [*counts.items(), ("in all", total)]
    ]
    return "\n".join(["".join(f"{column:>8}" for column in columns), *lines])


def _seen(path: Path) -> Seen:
    """Return by rule the verdicts that the cases of `path`, or a campaign's store, have shown."""
    if is_store(path):
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


def _seen_as_text(seen: Seen) -> str:
    width = max(map(len, seen))
    lines = [f"{name:{width}}  {' '.join(verdicts)}".rstrip() for name, verdicts in seen.items()]
    totals = Counter(verdict for verdicts in seen.values() for verdict in verdicts)
    summary = ", ".join(f"{verdict} {totals[verdict]}" for verdict in VERDICTS)
    return "\n".join([*lines, f"of {len(seen)} rules seen: {summary}"])
