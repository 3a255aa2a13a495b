# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz report`: all that a store tells, on one page or as programs read it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nvmxfuzz.campaign.store import StoredFinding, open_store
from nvmxfuzz.cli.finding import Named, of_stored
from nvmxfuzz.cli.fuzz import DEFAULT_STORE
from nvmxfuzz.cli.invocation import command as command_words
from nvmxfuzz.cli.invocation import typed_path
from nvmxfuzz.cli.numbers import number
from nvmxfuzz.cli.repro import reproduction
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.triage.export.as_c import Style, to_c

if TYPE_CHECKING:
    from nvmxfuzz.reports.campaign.content import Report
    from nvmxfuzz.reports.campaign.gather import Told

DEFAULT_PAGES: Final = 20
_FORMS: Final = ("html", "junit", "sarif")
_STYLES: Final[tuple[Style, ...]] = ("selftest", "kvm-unit-test")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "report",
        help="all that a store tells, as one HTML page, or for CI",
        description="Report on the last campaign of a store, and on all its findings: one HTML "
        "file that needs nothing else, JUnit and SARIF for CI, JSON. Several forms may be asked "
        "for at once. Findings are run again for their pages.",
        epilog="Exit status: 0 written, 2 bad input. nvmxfuzz findings --new-since fails where "
        "there are new findings.",
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
        "--campaign", type=number, metavar="N", help="another campaign than the last one"
    )
    command.add_argument(
        "--new-since",
        type=number,
        metavar="N",
        help="findings are new that campaigns after N saw first (default: the one before)",
    )
    command.add_argument("--html", type=Path, metavar="FILE", help="where to write the page")
    command.add_argument("--junit", type=Path, metavar="FILE", help="where to write JUnit XML")
    command.add_argument("--sarif", type=Path, metavar="FILE", help="where to write SARIF 2.1.0")
    command.add_argument("--json", action="store_true", help="one JSON object, on stdout")
    command.add_argument(
        "--pages",
        type=number,
        default=DEFAULT_PAGES,
        metavar="N",
        help="run findings of so many groups again, new ones first (default: %(default)s)",
    )
    command.add_argument(
        "--no-coverage",
        action="store_true",
        help="do not run the corpus on the kernels that are built with --gcov",
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write what is asked for."""
    files = {form: path for form in _FORMS if (path := getattr(args, form)) is not None}
    if not files and not args.json:
        raise InputError("say what to write: --html FILE, --junit FILE, --sarif FILE or --json")
    for path in files.values():
        _demand_writable(path)
    report = _report(args)
    for form, path in files.items():
        _write(path, _text(form, report))
    if args.json:
        from nvmxfuzz.reports.campaign.as_json import to_json

        print(json.dumps(to_json(report)))
    return 0


def _text(form: str, report: Report) -> str:
    """Return the report in a form."""
    # Here, as elsewhere in this file, so that no other command waits for the tables of a report.
    from nvmxfuzz.reports.campaign.html import to_html
    from nvmxfuzz.reports.campaign.junit import to_junit
    from nvmxfuzz.reports.campaign.sarif import to_sarif

    return {"html": to_html, "junit": to_junit, "sarif": to_sarif}[form](report)


def _report(args: argparse.Namespace) -> Report:
    from nvmxfuzz.reports.campaign.coverage import coverage_of
    from nvmxfuzz.reports.campaign.gather import Sources, gather

    sources = Sources(
        again=lambda stored: _told(stored, args.store),
        pages=args.pages,
        coverage=(lambda _: ((), "It was not looked at.")) if args.no_coverage else coverage_of,
        command=shlex.join((*command_words(), *sys.argv[1:])),
    )
    with open_store(args.store, create=False) as store:
        return gather(store, typed_path(args.store), args.campaign, args.new_since, sources)


def _told(stored: StoredFinding, store: Path) -> Told:
    """Run a finding again; what cannot be run has no page, for a reason."""
    from nvmxfuzz.reports.campaign.gather import Told

    try:
        found = of_stored(stored, store)
        return Told(reproduction(found), "", dict(_programs(found)))
    except InputError as error:
        return Told(None, str(error), {})


def _programs(found: Named) -> Iterator[tuple[str, str]]:
    """Yield the stand-alone reproducers that there are of a VM entry."""
    if not isinstance(found.case, EntryCase):
        return
    for style in _STYLES:
        # One style may not be able to represent it; the TOML case is there in any event.
        with suppress(InputError):
            yield style, to_c(found.case, style, found.name)


def _demand_writable(path: Path) -> None:
    """InputError before the work is done, not after it."""
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(
            f"{path} cannot be written: name a file in a folder that is there and can be written"
        )


def _write(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    draft = path.with_name(f"{path.name}.new")
    try:
        draft.write_text(text, encoding="utf-8", errors="replace")
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written ({error.strerror}): make room there, or name another file"
        ) from error
