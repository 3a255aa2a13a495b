# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz export`: a finding as a program or a file that stands alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from nvmxfuzz.cli.files import what
from nvmxfuzz.cli.finding import Named, add_arguments, named
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.raw_json import dump_raw
from nvmxfuzz.inputs.text import dump_text
from nvmxfuzz.triage.export.as_c import Style, to_c
from nvmxfuzz.triage.export.as_pytest import to_pytest


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "export",
        help="a finding as a program that stands alone",
        description="Write a finding, or a case, in a form that stands alone: C in the style of "
        "the kernel's selftests or of kvm-unit-tests, a case as TOML or JSON, or a test for "
        "pytest.",
        epilog="A C program changes a VMCS that the framework has made, so that a VM entry has a C "
        "form only if it changes neither the mode of the hypervisor nor memory: see "
        "docs/reproduce.md.",
    )
    add_arguments(command)
    command.add_argument("--as", dest="form", choices=_FORMS, required=True, help="the form")
    command.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write it (default: stdout)"
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the export."""
    found = named(args.finding, args.store)
    try:
        text = _FORMS[args.form](found)
    except InputError as error:
        raise InputError(f"{found.name} cannot be a {args.form}: {error}") from error
    if args.output is None:
        print(text, end="")
    else:
        args.output.write_text(text)
    return 0


def _entry(found: Named) -> EntryCase:
    if not isinstance(found.case, EntryCase):
        raise InputError(f"it is {what(found.case)}, and no VM entry: export it as toml or pytest")
    return found.case


def _c(style: Style) -> Callable[[Named], str]:
    return lambda found: to_c(_entry(found), style, found.name)


def _toml(found: Named) -> str:
    return dump_text(found.vector)


def _json(found: Named) -> str:
    return json.dumps(dump_raw(_entry(found)), indent=2) + "\n"


def _pytest(found: Named) -> str:
    # A file that says what it shows is to show it; this one is to hold once it does not.
    return to_pytest(replace(found.vector, shown=None), found.name, found.target)


_FORMS: Final[Mapping[str, Callable[[Named], str]]] = {
    "selftest": _c("selftest"),
    "kvm-unit-test": _c("kvm-unit-test"),
    "toml": _toml,
    "json": _json,
    "pytest": _pytest,
}
