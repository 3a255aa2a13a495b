# SPDX-License-Identifier: GPL-2.0-only
"""Reads the registers that QEMU prints when KVM_RUN fails, of 64-bit guests and others.

QEMU takes the form with 16 digits where the guest is in 64-bit mode, else one with 8, in which
the upper halves are missing. The flags of a segment are the upper half of its descriptor; one
that is not present is unusable to KVM.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from nvmxfuzz.arch.segments import AccessRights
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.dumps.dump import Dump, Dumps
from nvmxfuzz.inputs.dumps.lines import Line

_FAILED: Final = re.compile(r"KVM: entry failed, hardware error (?:0x)?([0-9a-fA-F]{1,16})")
_INTERNAL: Final = re.compile(r"KVM internal error\. Suberror: (\d{1,9})")
_FIRST: Final = re.compile(r"[RE]AX=[0-9a-fA-F]{8,16}\b.*")
_GENERAL: Final = re.compile(r"(?:[RE](?:SI|DI|BP|SP)|R(?:8|9|1\d) ?)=[0-9a-fA-F]{8,16}\b.*")
_SEGMENT: Final = re.compile(
    r"(?P<name>[CDEFGS]S|LDT|TR) *= *(?P<selector>[0-9a-fA-F]{4}) +(?P<base>[0-9a-fA-F]{8,16}) "
    r"+(?P<limit>[0-9a-fA-F]{8}) +(?P<flags>[0-9a-fA-F]{8})\b.*"
)
_TABLE: Final = re.compile(
    r"(?P<name>[GI]DT) *= +(?P<base>[0-9a-fA-F]{8,16}) +(?P<limit>[0-9a-fA-F]{8})"
)
_PAIR: Final = re.compile(r"\b([A-Z][A-Z0-9]{1,4}) ?=([0-9a-fA-F]+)\b")
_PAIRS: Final = re.compile(r"(?:[RE]IP|CR0|DR6|EFER)=[0-9a-fA-F]{8,16}\b.*")

_FIELDS: Final[Mapping[str, str]] = {
    "RSP": "guest_rsp",
    "ESP": "guest_rsp",
    "RIP": "guest_rip",
    "EIP": "guest_rip",
    "RFL": "guest_rflags",
    "EFL": "guest_rflags",
    "CR0": "guest_cr0",
    "CR3": "guest_cr3",
    "CR4": "guest_cr4",
    "DR7": "guest_dr7",
}
_FACTS: Final[Mapping[str, str]] = {
    "CPL": "cpl",
    "II": "shadow",
    "SMM": "smm",
    "HLT": "halted",
    "EFER": "efer",
}
_SHORT: Final = 8
"""Digits of a number whose upper half may be missing."""
_FLAGS_SHIFT: Final = 8
_FLAGS: Final = 0xF0FF
"""The access rights that the upper half of a descriptor has, but for the limit between them."""


class QemuReader:
    """Takes the lines of a log one by one; what it has found is `finish`ed."""

    def __init__(self) -> None:
        self._dumps = Dumps()
        self._begin(0)

    def take(self, line: Line) -> bool:
        """Take a line; tell whether it belongs to a dump of QEMU."""
        return self._heading(line) or self._registers(line)

    def finish(self) -> Iterator[Dump]:
        """Return the dumps, the last one as far as it goes."""
        self._end()
        return iter(self._dumps.found)

    def _begin(self, number: int) -> None:
        self._number = number
        self._fields: dict[str, tuple[int, int]] = {}
        self._facts: dict[str, int] = {}
        self._error: int | None = None
        self._has_registers = False

    def _end(self) -> None:
        if self._has_registers or self._error is not None or "suberror" in self._facts:
            fields = {name: value for name, (value, _) in self._fields.items()}
            self._dumps.add(
                Dump("qemu", self._number, fields, dict(self._facts), error=self._error)
            )

    def _heading(self, line: Line) -> bool:
        failed, internal = _FAILED.search(line.text), _INTERNAL.search(line.text)
        if not failed and not internal:
            return False
        self._end()
        self._begin(line.number)
        if failed:
            self._error = int(failed[1], 16)
        if internal:
            self._facts["suberror"] = int(internal[1])
        return True

    def _registers(self, line: Line) -> bool:
        if _FIRST.fullmatch(line.text):
            if self._has_registers:
                self._end()
                self._begin(line.number)
            self._number = self._number or line.number
            self._has_registers = True
            self._facts["wide"] = int(line.text.startswith("R"))
            return True
        if not self._has_registers:
            return False
        return self._segment(line) or self._table(line) or self._pairs(line)

    def _segment(self, line: Line) -> bool:
        found = _SEGMENT.fullmatch(line.text)
        if not found:
            return False
        name = {"ldt": "ldtr"}.get(found["name"].lower(), found["name"].lower())
        rights = int(found["flags"], 16) >> _FLAGS_SHIFT & _FLAGS
        if not rights & AccessRights.P:
            rights |= AccessRights.UNUSABLE
        self._add(line, f"guest_{name}_selector", int(found["selector"], 16))
        self._add(line, f"guest_{name}_base", int(found["base"], 16))
        self._add(line, f"guest_{name}_limit", int(found["limit"], 16))
        self._add(line, f"guest_{name}_ar_bytes", rights)
        return True

    def _table(self, line: Line) -> bool:
        found = _TABLE.fullmatch(line.text)
        if not found:
            return False
        name = found["name"].lower()
        self._add(line, f"guest_{name}r_base", int(found["base"], 16))
        self._add(line, f"guest_{name}r_limit", int(found["limit"], 16))
        return True

    def _pairs(self, line: Line) -> bool:
        if not _PAIRS.fullmatch(line.text) and not _GENERAL.fullmatch(line.text):
            return False
        for name, digits in _PAIR.findall(line.text):
            if name in _FIELDS and len(digits) in (_SHORT, 2 * _SHORT):
                self._add(line, _FIELDS[name], int(digits, 16))
            elif name in _FACTS and len(digits) <= 2 * _SHORT:
                self._facts[_FACTS[name]] = int(digits, 16)
        return True

    def _add(self, line: Line, name: str, value: int) -> None:
        known, number = self._fields.setdefault(name, (value, line.number))
        if known != value:
            raise InputError(
                f"line {line.number}: {name} is {value:#x}, and {known:#x} on line {number}: two "
                "dumps are mixed, give one of them"
            )
