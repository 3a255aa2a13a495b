# SPDX-License-Identifier: GPL-2.0-only
"""One guest segment register of an entry, as the rules on segment registers look at it."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.arch.segments import AccessRights
from nvmxfuzz.cpu.entry import Entry

_TYPE = int(AccessRights.TYPE)
_UNUSABLE = int(AccessRights.UNUSABLE)
_VM = int(Rflags.VM)
_LAST_NON_CONFORMING = 11
_WITHIN_PAGE = 0xFFF
_MEGABYTE = 20


class Trait:
    """What decides which checks concern a segment register, as bits of `GuestSegment.traits`."""

    VIRTUAL_8086 = 1 << 0
    """The register is one that virtual-8086 mode concerns, and the guest will be in that mode."""
    USABLE_64 = 1 << 1
    """The register is usable, and the processor supports Intel 64 architecture."""
    CHECKED = 1 << 2
    """The parts of the access rights are considered one by one."""
    BOUND_BY_RPL = 1 << 3
    """CHECKED; the type is 0 to 11, and "unrestricted guest" is 0."""
    ENDS_WITHIN_PAGE = 1 << 4
    """CHECKED; some bit of 11:0 of the limit is 0, which G = 1 cannot express."""
    REACHES_MEGABYTE = 1 << 5
    """CHECKED; some bit of 31:20 of the limit is 1, which G = 0 cannot express."""


class GuestSegment:
    """A segment register: its four fields, and the traits that several conditions ask for."""

    __slots__ = ("ar", "base", "entry", "limit", "selector", "traits")

    entry: Entry
    selector: int
    base: int
    limit: int
    ar: int
    traits: int


def view_of(name: str) -> Callable[[Entry], tuple[GuestSegment]]:
    """Return the view of the segment register `name` (as in `arch.segments`).

    The access rights are considered part by part if the register is usable; CS and TR need not
    be. In virtual-8086 mode only those of LDTR and TR are.
    """
    parts = ("selector", "base", "limit", "ar_bytes")
    read = attrgetter(*(f"guest_{name}_{part}" for part in parts))
    flags_that_matter = 0 if name in ("ldtr", "tr") else _VM
    always = name in ("cs", "tr")

    def view(entry: Entry) -> tuple[GuestSegment]:
        # Eight of these make a good part of a judgement: no calls, and no __init__.
        segment = GuestSegment()
        segment.entry = entry
        segment.selector, segment.base, limit, ar = read(entry.vmcs)
        segment.limit = limit
        segment.ar = ar
        unusable = ar & _UNUSABLE
        traits = 0 if unusable or not entry.intel_64 else Trait.USABLE_64
        if entry.vmcs.guest_rflags & flags_that_matter:
            traits |= Trait.VIRTUAL_8086
        elif always or not unusable:
            traits |= Trait.CHECKED
            if ar & _TYPE <= _LAST_NON_CONFORMING and not entry.unrestricted:
                traits |= Trait.BOUND_BY_RPL
            if limit & _WITHIN_PAGE != _WITHIN_PAGE:
                traits |= Trait.ENDS_WITHIN_PAGE
            if limit >> _MEGABYTE:
                traits |= Trait.REACHES_MEGABYTE
        segment.traits = traits
        return (segment,)

    return view
