# SPDX-License-Identifier: GPL-2.0-only
"""The command line as a whole: its commands, and what all of them promise about errors."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from nvmxfuzz import __version__
from nvmxfuzz.cli import check, config, fuzz, replay, rules, show
from nvmxfuzz.errors import InputError

BAD_INPUT = 2


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake with one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}: see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = _Parser(
        prog="nvmxfuzz",
        description="Fuzz nested VM-Enter and VMX capability configs.",
        epilog="Exit status: 0 nothing wrong, 1 findings or failed vectors, 2 bad input, "
        "130 interrupted.",
    )
    top.add_argument("--version", action="version", version=f"nvmxfuzz {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (fuzz, check, config, replay, show, rules):
        command.add_parser(commands)
    return top


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status.

    0: nothing wrong; 1: findings, or a vector that does not hold; 2: bad input, with one sentence
    on stderr. Ctrl-C is for the caller; `nvmxfuzz fuzz` alone sees to it itself, and returns 130.
    """
    try:
        args = parser().parse_args(arguments)
        status: int = args.run(args)
        sys.stdout.flush()
    except InputError as error:
        print(f"nvmxfuzz: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        # The reader has seen enough; without this the interpreter complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status
