# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz targets`: where VM entries can run, and why not where they cannot."""

from __future__ import annotations

import argparse
import json

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.objects import find_object
from nvmxfuzz.targets.registry import Entry, all_targets


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "targets",
        help="where VM entries can run",
        description="List the targets that --target names, and whether each is usable here.",
    )
    command.add_argument("--json", action="store_true", help="one JSON document")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a line or an object for each target."""
    rows = [(entry, entry.usable()) for entry in all_targets().values()]
    if args.json:
        replies = [
            {
                "name": entry.name,
                "usable": not reason,
                "reason": reason or None,
                "sentence": entry.sentence,
                "version": _version(entry) or None,
            }
            for entry, reason in rows
        ]
        print(json.dumps(replies))
        return 0
    width = max(len(entry.name) for entry, _ in rows)
    for entry, reason in rows:
        print(f"{entry.name:{width}}  {'not usable' if reason else 'usable'}: {entry.sentence}")
        below = reason or _version(entry)
        if below:
            print(f"{'':{width}}  {below}")
    return 0


def _version(entry: Entry) -> str:
    """Return which version of a kernel is built, as in 6.12.117-1~deb12u1; "" if none is."""
    if not entry.kernel:
        return ""
    try:
        return find_object(entry.kernel).version
    except InputError:
        return ""
