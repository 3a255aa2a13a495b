# SPDX-License-Identifier: GPL-2.0-only
"""What `turbostat --add msr0x480,u64,raw` prints: a column for each MSR, a row for each processor.

Rows are repeated for each interval, with their header; the row of the whole system has no
processor, and no value of its own.
"""

from __future__ import annotations

import re
from typing import Final

from nvmxfuzz.inputs.msr_table.found import MAX_LINE, Found, bad, hexadecimal, quote, split

_COLUMN: Final = re.compile(r"(?:M|msr)0x(4[89][0-9a-f])", re.IGNORECASE)
HEADER: Final = re.compile(
    r"^(?:[\w%#/.+-]+[ \t]+)*(?:M|msr)0x4[89][0-9a-f](?=[ \t]*\r?$|[ \t]+\w)", re.I | re.M
)
"""A line that names such a column and nothing but columns before it."""

_VALUE: Final = re.compile("0x[0-9a-fA-F]{16}")
_ADVICE: Final = "call turbostat with --add msr0x480,u64,raw, and so on"


def from_turbostat(text: str) -> dict[int, int]:
    """Return the MSRs of the columns that are VMX capability MSRs."""
    found = Found()
    header: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for number, line in enumerate(split(text), 1):
        if len(line) > MAX_LINE:
            bad(number, f"this is longer than {MAX_LINE} characters; {_ADVICE}")
        cells = line.split("\t") if "\t" in line else line.split()
        if any(_COLUMN.fullmatch(cell) for cell in cells):
            header = cells
        elif header and any(cells):
            if len(cells) != len(header):
                bad(number, f"{len(cells)} columns below {len(header)} headings; {_ADVICE}")
            row = dict(zip(header, cells, strict=True))
            if tuple(cells) not in seen and row.get("CPU", "0") != "-":
                seen.add(tuple(cells))
                _take(number, row, found)
    return found.msrs


def _take(number: int, row: dict[str, str], found: Found) -> None:
    processor = row.get("CPU", "0")
    if not re.fullmatch("[0-9]{1,5}", processor):
        bad(number, f"{quote(processor)} is no number of a processor; {_ADVICE}")
    for heading, cell in row.items():
        column = _COLUMN.fullmatch(heading)
        if column:
            if not _VALUE.fullmatch(cell):
                bad(number, f"{quote(cell)} is no value of 16 digits; {_ADVICE}")
            found.add(number, int(column[1], 16), hexadecimal(number, cell), int(processor))
