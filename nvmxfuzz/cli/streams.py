# SPDX-License-Identifier: GPL-2.0-only
"""The standard streams: any text can be written, a sentence stays one line, a lost one is told."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.outside import printable

_STANDARD = 3


def prepare() -> None:
    """Make both streams take any name of a file; InputError if stdout is closed."""
    _occupy()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # The name of a file may hold bytes that the encoding of the terminal has not.
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        raise InputError("stdout is closed: send it to a file, or to /dev/null")


def complain(sentence: str) -> None:
    """Print a sentence on stderr in one line, where there is one to print on."""
    if sys.stderr is None:
        return
    try:
        print(f"nvmxfuzz: {printable(sentence)}", file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO | None) -> None:
    """Drop what a stream has not got rid of; else the interpreter complains of it at its end."""
    if stream is None:
        return
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):
        return


def _occupy() -> None:
    """Let no file be opened under the number of a standard stream that is closed."""
    for number in range(_STANDARD):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
