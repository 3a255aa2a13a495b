# SPDX-License-Identifier: GPL-2.0-only
"""One guest segment register of an entry, as the rules on segment registers look at it."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TypeAlias

from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.arch.segments import AccessRights
from nvmxfuzz.cpu.entry import Entry


class GuestSegment:
    """A segment register: its four fields, and which of the checks concern it.

    `type` is bits 3:0 of the access rights. `virtual_8086` is true if the register is one that
    virtual-8086 mode concerns and the guest will be in that mode. `checked` is true if the parts
    of the access rights are considered one by one.
    """

    __slots__ = (
        "ar",
        "base",
        "checked",
        "entry",
        "limit",
        "selector",
        "type",
        "usable",
        "virtual_8086",
    )

    def __init__(self, entry: Entry, fields: tuple[int, int, int, int]) -> None:
        self.entry = entry
        self.selector, self.base, self.limit, self.ar = fields
        self.type = self.ar & AccessRights.TYPE
        self.usable = self.checked = not self.ar & AccessRights.UNUSABLE
        self.virtual_8086 = 0


View: TypeAlias = Callable[[Entry], tuple[GuestSegment]]


def code_or_data_view(name: str) -> View:
    """Return the view of ES, CS, SS, DS, FS or GS.

    The access rights are considered part by part outside virtual-8086 mode, and only if the
    register is usable; CS need not be.
    """
    read = _reader(name)
    need_not_be_usable = name == "cs"

    def view(entry: Entry) -> tuple[GuestSegment]:
        segment = GuestSegment(entry, read(entry.vmcs))
        segment.virtual_8086 = entry.vmcs.guest_rflags & Rflags.VM
        segment.checked = (segment.usable or need_not_be_usable) and not segment.virtual_8086
        return (segment,)

    return view


def system_view(name: str) -> View:
    """Return the view of LDTR, whose access rights count if it is usable, or TR, which must be."""
    read = _reader(name)
    need_not_be_usable = name == "tr"

    def view(entry: Entry) -> tuple[GuestSegment]:
        segment = GuestSegment(entry, read(entry.vmcs))
        segment.checked = segment.usable or need_not_be_usable
        return (segment,)

    return view


def _reader(name: str) -> Callable[[object], tuple[int, int, int, int]]:
    return attrgetter(
        *(f"guest_{name}_{part}" for part in ("selector", "base", "limit", "ar_bytes"))
    )
