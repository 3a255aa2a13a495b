# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz explain`: which checks a failed VM entry breaks, out of a log of KVM or QEMU."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from nvmxfuzz.cli.files import read_file
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.dumps import MAX_BYTES, read_dumps
from nvmxfuzz.inputs.msr_table import parse_processor
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names
from nvmxfuzz.reports.explanation import to_json, to_text
from nvmxfuzz.triage.explain import explain

_STDIN: Final = "-"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "explain",
        help='what "KVM: entry failed, hardware error 0x80000021" means',
        description="Read the dump of a failed VM entry out of a log, and say which checks of the "
        "SDM the state breaks, on which assumptions, and what is probably wrong.",
        epilog="The log is a kernel log with what KVM prints where kvm_intel.dump_invalid_vmcs=1, "
        'or what QEMU prints below "KVM: entry failed", or both, among any other lines. See '
        "docs/explain.md.",
    )
    command.add_argument("file", metavar="FILE", help='a log; "-" is stdin')
    command.add_argument(
        "--profile",
        metavar="NAME|FILE",
        help="the processor: a profile, or a table of its capability MSRs (see nvmxfuzz config)",
    )
    command.add_argument("--all", action="store_true", help="every rule that is not decided")
    command.add_argument("--json", action="store_true", help="one JSON object a line and dump")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain every dump in the log; a log without one is bad input."""
    profile = None if args.profile is None else _profile(args.profile)
    try:
        dumps = read_dumps(_read(args.file))
    except InputError as error:
        raise InputError(f"{args.file}: {error}") from error
    for number, dump in enumerate(dumps):
        explanation = explain(dump, profile)
        if args.json:
            print(json.dumps(to_json(explanation)))
        else:
            print(("\n" if number else "") + to_text(explanation, everything=args.all))
    return 0


def _read(name: str) -> bytes:
    """Return the log, and at most one byte more than it may have."""
    if name == _STDIN:
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        with Path(name).open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise InputError(f"it cannot be read ({reason}): name a log") from error


def _profile(name: str) -> Profile:
    """Return the profile of that name, or the processor that a file describes."""
    if name in profile_names():
        return load_profile(name)
    if not Path(name).is_file():
        return load_profile(name)
    try:
        return parse_processor(read_file(Path(name)), Path(name).name)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
