# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz status`: where a campaign stands, also while it is running."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.campaign.store.standing import standing
from nvmxfuzz.cli.fuzz import DEFAULT_STORE
from nvmxfuzz.cli.invocation import typed_path
from nvmxfuzz.reports.prometheus import prometheus_text
from nvmxfuzz.reports.status import status_text


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "status",
        help="where a campaign stands, also while it is running",
        description="Print where the last campaign on a store stands: how far it is, what it has "
        "found, what its workers do. A campaign that is running goes on undisturbed.",
        epilog="Beside its store a running campaign keeps the same as a file .stats.json, and its "
        "time series as .plot.csv (docs/store.md).",
    )
    command.add_argument(
        "store",
        nargs="?",
        type=Path,
        default=DEFAULT_STORE,
        metavar="STORE",
        help="the store of the campaign (default: %(default)s)",
    )
    command.add_argument(
        "--campaign", type=int, metavar="N", help="another campaign than the last one"
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object")
    form.add_argument(
        "--prometheus", action="store_true", help="in the text format that Prometheus reads"
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print where the campaign stands."""
    with open_store(args.store, create=False) as store:
        found = standing(store, args.campaign)
    if args.json:
        print(json.dumps(found.to_json()))
    elif args.prometheus:
        print(prometheus_text(found), end="")
    else:
        print(status_text(typed_path(args.store), found))
    return 0
