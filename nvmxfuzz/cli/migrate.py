# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz migrate`: what a VM that is carried between two kernels keeps of its capabilities."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final

from nvmxfuzz.kvm.source import KERNELS
from nvmxfuzz.machine.profile import DEFAULT_PROFILE

POLICIES: Final = ("refuse", "keep", "clear")
"""Those of `oracles.policies`, which takes long to load: every command imports this file."""

_ALL: Final = "all"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "migrate",
        help="what a VM that is carried between two kernels keeps of its VMX capabilities",
        description="Start a VM under kernel SOURCE, read the VMX capability MSRs that its L1 "
        "sees, write them to a VM under kernel DEST, and print what became of each bit: kept, "
        "gained, lost or refused. Then what L1 would see if a value with too much in it were "
        "refused, kept or cleared.",
        epilog="FILE is a table of VMX capability MSRs of the processor, in any form that "
        "nvmxfuzz config reads: rdmsr, vmxcap, turbostat, a VirtualBox log, JSON, TOML and others; "
        "docs/migrate.md has them all. Without --dest-msrs and --dest-profile DEST runs on the "
        "same processor.",
    )
    for name, what in (("source", "the VM is started under"), ("dest", "the VM is carried to")):
        command.add_argument(
            name, metavar=name.upper(), help=f"kernel that {what}: one of {', '.join(KERNELS)}"
        )
    for prefix, where in (("", "SOURCE"), ("dest-", "DEST")):
        _add_side(command, prefix, where)
    command.add_argument("--sgx", action="store_true", help="the processors have SGX")
    command.add_argument(
        "--evmcs",
        action="store_true",
        help="both kernels run on a Hyper-V that offers enlightened VMCSs",
    )
    command.add_argument(
        "--policy",
        choices=(*POLICIES, _ALL),
        default=_ALL,
        help="the policy whose consequences are told (default: all)",
    )
    command.add_argument(
        "--real",
        action="store_true",
        help="ask those kernels themselves that nvmxfuzz build kvm has built; exit status 1 if "
        "the model differs",
    )
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page there as well")
    command.set_defaults(run=run)


def _add_side(command: argparse.ArgumentParser, prefix: str, where: str) -> None:
    processor = command.add_mutually_exclusive_group()
    processor.add_argument(
        f"--{prefix}msrs", type=Path, metavar="FILE", help=f"MSR table of the processor of {where}"
    )
    processor.add_argument(
        f"--{prefix}profile",
        metavar="NAME",
        help=f"processor of {where} that comes with nvmxfuzz"
        + ("" if prefix else f" (default: {DEFAULT_PROFILE})"),
    )
    command.add_argument(
        f"--{prefix}param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"parameter of kvm_intel of {where}, such as ept=N; repeatable",
    )


def run(args: argparse.Namespace) -> int:
    """Print what becomes of the VM; that it does not arrive is an answer, no error."""
    from nvmxfuzz.cli.migrating import report_of
    from nvmxfuzz.oracles.migration import policies
    from nvmxfuzz.reports.migration import to_json, to_text
    from nvmxfuzz.reports.migration_html import to_html

    chosen = tuple(each for each in policies.POLICIES if args.policy in (each, _ALL))
    report = report_of(args, chosen)
    if args.html is not None:
        args.html.write_bytes(to_html(report).encode())
    print(json.dumps(to_json(report)) if args.json else to_text(report))
    return 1 if report.differences else 0
