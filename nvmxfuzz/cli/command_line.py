# SPDX-License-Identifier: GPL-2.0-only
"""The command line as a whole: its commands, and what all of them promise about errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from nvmxfuzz import __version__
from nvmxfuzz.cli import (
    bench,
    bisect,
    build,
    check,
    compare,
    config,
    corpus,
    explain,
    export,
    findings,
    fuzz,
    migrate,
    replay,
    report,
    repro,
    rules,
    show,
    status,
    targets,
)
from nvmxfuzz.cli.streams import complain, prepare, silence
from nvmxfuzz.errors import InputError

BAD_INPUT = 2


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake with one sentence."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message}: see {self.prog} --help")
        self.exit(BAD_INPUT)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = _Parser(
        prog="nvmxfuzz",
        description="Fuzz nested VM-Enter and VMX capability configs.",
        epilog="Exit status: 0 answered, or nothing found; 1 findings, failed vectors or witnesses "
        "that differ; 2 bad input; 130 interrupted.",
    )
    top.add_argument("--version", action="version", version=f"nvmxfuzz {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (
        *(fuzz, status, corpus, check, compare, config, migrate, explain),
        *(replay, findings, repro, bisect, export, report, show, rules, targets, build, bench),
    ):
        command.add_parser(commands)
    return top


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status.

    0: answered, or nothing found; 1: findings, a vector that does not hold, or witnesses that
    differ; 2: bad input, or something that the system refuses, with one sentence on stderr. Ctrl-C
    is for the caller; `nvmxfuzz fuzz` alone sees to it itself, and returns 130.
    """
    try:
        prepare()
        return _status(arguments)
    except InputError as error:
        complain(str(error))
    except BrokenPipeError:
        # The reader has seen enough.
        silence(sys.stdout)
        return 0
    except OSError as error:
        complain(_refused(error))
    except MemoryError:
        complain("there is not enough memory: free some, or raise the limit on it")
    _flush()
    return BAD_INPUT


def _status(arguments: Sequence[str] | None) -> int:
    """Run one command to the end, which is when its output is out."""
    try:
        args = parser().parse_args(arguments)
    except SystemExit:
        # The help, or a mistake that has been told.
        sys.stdout.flush()
        raise
    status: int = args.run(args)
    sys.stdout.flush()
    return status


def _flush() -> None:
    try:
        sys.stdout.flush()
    except (AttributeError, OSError):
        # Closed or full: there is one sentence about it, not two.
        silence(sys.stdout)


def _refused(error: OSError) -> str:
    reason = error.strerror or str(error)
    what = "a file or the output" if error.filename is None else str(error.filename)
    return f"the system does not let {what} be used ({reason}): see to that, and call again"
