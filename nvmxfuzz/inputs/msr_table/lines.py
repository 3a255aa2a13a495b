# SPDX-License-Identifier: GPL-2.0-only
"""Lines with an MSR and its value, in the many ways in which tools print them."""

from __future__ import annotations

import re
from typing import Final

from nvmxfuzz.inputs.msr_table.found import (
    EXAMPLE,
    INDEX_BY_NAME,
    MAX_LINE,
    Found,
    bad,
    hexadecimal,
    quote,
    split,
)
from nvmxfuzz.inputs.msr_table.rdmsr import CANNOT_READ, COMMAND, Rdmsr, cannot_read, finish

_PREFIX: Final = re.compile(
    r"<\d+>"  # kernel log level
    r"|\[ *\d+\.\d+\](?:\[ *[TC]\d+\])?"  # dmesg, with caller
    r"|(?:[A-Z][a-z]{2} +\d+ [\d:]{8}|\d{4}-\d\d-\d\dT[\d:.,+Z-]+) \S+ [^\s:]+:"  # syslog, journal
    r"|\d\d:\d\d:\d\d(?:\.\d+)?"
    r"|\[CHIPSEC\]"
    r"|\[?(?i:cpu)[ _#]?(?P<processor>\d{1,5})(?:\][ \t]*:?|[ \t]*:|(?=[ \t]))"
    r"|(?i:msr)\b:?",
    re.ASCII,
)
_CALL: Final = re.compile(r"(?i:rdmsr)\([ \t]*([0-9a-fA-FxX]{1,12})[ \t]*\)")
PAIR: Final = re.compile(
    r"(?P<open>\[)?(?P<index>(?:0[xX])?[0-9a-fA-F]+|(?:MSR_)?IA32_\w+)(?(open)\])"
    r"(?:[ \t]*\((?P<alias>[^()]*)\))?"
    r"(?:[ \t]*(?:=>|->|=|:|,)[ \t]*|[ \t]+)(?P<value>(?![=:,]|->)[^\s(]+)"
    r"(?:[ \t]+\([^()]*\))?"
)
_ABSENT: Final = ("-", "absent", "n/a", "#GP")


def from_lines(text: str) -> dict[int, int]:
    """Return the MSRs of a text in which every line is about one, or belongs to rdmsr."""
    found = Found()
    command: Rdmsr | None = None
    for number, raw in enumerate(split(text), 1):
        if len(raw) > MAX_LINE:
            bad(number, f"this is longer than {MAX_LINE} characters; {EXAMPLE}")
        line, processor = without_prefix(raw)
        started = COMMAND.fullmatch(line)
        refused = CANNOT_READ.fullmatch(line)
        if refused:
            cannot_read(number, hexadecimal(number, refused["index"], 32), command, found)
            command = None
        elif started:
            finish(command, found)
            command = Rdmsr(number, started["arguments"])
        elif command and not PAIR.fullmatch(line) and without_comment(line):
            command.printed(number, without_comment(line))
        elif without_comment(line):
            finish(command, found)
            command = None
            pair(number, without_comment(line), processor, found)
    finish(command, found)
    return found.msrs


def without_prefix(line: str) -> tuple[str, int]:
    """Return a line without what stands before the MSR, and the processor named there, else 0."""
    line, processor = line.strip(), 0
    while matched := _PREFIX.match(line):
        processor = int(matched["processor"] or processor)
        line = line[matched.end() :].lstrip()
    return _CALL.sub(r"\1", line, count=1), processor


def without_comment(line: str) -> str:
    """Return the line without a comment; `#GP` is a value."""
    return re.sub(r"(?:^|\s)#(?!GP\b).*", "", line).rstrip(" \t,;")


def pair(number: int, line: str, processor: int, found: Found) -> None:
    """Take a line with an MSR and its value."""
    if line.startswith("rdmsr"):
        line = line.removeprefix("rdmsr").lstrip()
    matched = PAIR.fullmatch(line)
    if not matched:
        bad(number, f"{quote(line)} is no MSR and its value; {EXAMPLE}")
    value = None if matched["value"] in _ABSENT else hexadecimal(number, matched["value"])
    index = index_of(number, matched["index"])
    if index is not None:
        found.add(number, index, value, processor)


def index_of(number: int, text: str) -> int | None:
    """Return the index that a number or a name is; None for an MSR that is none of VMX."""
    name = text.removeprefix("MSR_")
    if not name.startswith("IA32_"):
        return hexadecimal(number, name, 32)
    if name.startswith("IA32_VMX_") and name not in INDEX_BY_NAME:
        bad(number, f"no VMX capability MSR is named {quote(name)}; {EXAMPLE}")
    return INDEX_BY_NAME.get(name)
