# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz findings`: what campaigns have found, in groups of what is about the same."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.cli.fuzz import DEFAULT_STORE
from nvmxfuzz.cli.numbers import number
from nvmxfuzz.machine.outside import printable
from nvmxfuzz.triage.groups import Group, groups_of


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "findings",
        help="what campaigns have found, in groups",
        description="List the findings of a store in groups: of one oracle, with the same rules "
        "at the same place, on whatever kernel and by whatever harness. Each group has its "
        "smallest case, and what became of it: flaky or not, and what a replay with --keep said.",
        epilog="Exit status: 0 listed, 1 with --new-since if there is one, 2 no store.",
    )
    command.add_argument(
        "store",
        nargs="?",
        type=Path,
        default=DEFAULT_STORE,
        metavar="STORE",
        help="default: %(default)s",
    )
    command.add_argument(
        "--new-since",
        type=number,
        metavar="N",
        help="only those that a campaign after campaign N was the first to see",
    )
    command.add_argument("--json", action="store_true", help="one JSON document: a list of groups")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print every group, the one that was seen most often first; return 1 for new ones."""
    since = 0 if args.new_since is None else args.new_since
    with open_store(args.store, create=False) as store:
        if since:
            store.campaign(since)  # One that the store does not have would hide all there is.
        groups = groups_of(each for each in store.findings() if each.campaign > since)
    _print(groups, as_json=args.json)
    return 1 if groups and args.new_since is not None else 0


def _print(groups: tuple[Group, ...], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([group.to_json() for group in groups]))
        return
    for group in groups:
        for line in _lines(group):
            print(printable(line))
        print()
    found = sum(len(group.members) for group in groups)
    flaky = sum(group.is_flaky for group in groups)
    print(f"{_count(found, 'finding')} in {_count(len(groups), 'group')}, {flaky} of them flaky")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _lines(group: Group) -> Iterator[str]:
    yield f"{group.name}  seen {group.count} times, {group.standing}"
    about = "; ".join(filter(None, (", ".join(group.rules), group.site)))
    if about:
        yield f"    {about}"
    yield f"    {group.message}"
    for each in group.members:
        where = " and ".join(dict.fromkeys(each.finding.targets))
        first = f"first in {each.first_bad}" if each.first_bad else ""
        marks = ", ".join(filter(None, (group.mark(each), each.status, first)))
        told = f"  ({marks})" if marks else ""
        yield f"    {each.identity}  {each.harness}, {where}{told}"
    if group.smallest:
        yield "    the smallest case:"
        for line in group.smallest.splitlines():
            yield f"        {line}".rstrip()
