# SPDX-License-Identifier: GPL-2.0-only
"""The lines of a log, without what dmesg, journalctl, syslog, a console or QEMU put before them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.errors import InputError

_LONGEST: Final = 512
"""A line of a dump is shorter; of a longer line the rest is dropped."""

_PREFIX: Final = re.compile(
    r"<\d{1,3}>"  # log level
    r"|\[ *\d+\.\d+\](?:\[ *(?P<caller>[TC]\d+)\])?"  # dmesg
    r"|\[[^\[\]]{0,60}\d:\d\d[^\[\]]{0,20}\]"  # dmesg --ctime and the like
    r"|[A-Z][a-z]{2} [ \d]\d [\d:]{8}(?:\.\d+)?(?: \d{4})? [^\s:]+ [^\s:]{1,60}:"  # syslog
    r"|\d{4}-\d\d-\d\d[T ][\d:.,]+(?:Z| ?[+-]\d\d:?\d\d)?(?: [^\s:]+ [^\s:=]{1,60}:|:)?"  # ISO
    r"|\d\d:\d\d:\d\d(?:\.\d+)?(?= )"
    r"|kvm(?:_intel)?(?: \[\d+\])?:"
    r"|(?:\S{0,200}/)?qemu[-\w.]*(?:\[\d+\])?:"
    r"|[|>]",  # quoted
    re.ASCII,
)
_BOMS: Final = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb": "utf-8-sig"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its number from 1, its text, and the task or CPU that printed it if that is told."""

    number: int
    text: str
    caller: str = ""


def lines_of(data: bytes) -> Iterator[Line]:
    """Yield the lines that are not empty. InputError if it is no text."""
    encoding = _BOMS.get(data[:2], "utf-8")
    if encoding != "utf-16" and b"\0" in data:
        raise InputError("it is no text: give a log, not a core dump or an image")
    text = data.decode(encoding, errors="replace")
    for number, raw in enumerate(re.split(r"\r\n?|\n", text), 1):
        line, caller = _without_prefix(raw[:_LONGEST])
        if line:
            yield Line(number, line, caller)


def _without_prefix(line: str) -> tuple[str, str]:
    line, caller = line.strip(), ""
    while line and (matched := _PREFIX.match(line)):
        caller = matched["caller"] or caller
        line = line[matched.end() :].lstrip()
    return line, caller
