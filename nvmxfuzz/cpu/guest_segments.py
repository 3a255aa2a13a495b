# SPDX-License-Identifier: GPL-2.0-only
"""The rules of the SDM's "Checks on Guest Segment Registers", in its order.

A statement that the SDM makes of several registers is a rule for each of them. The SDM demands
nothing of a null selector: a register is unusable because its access rights say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from nvmxfuzz.arch.events import Interruptibility
from nvmxfuzz.arch.registers import Cr0, Cr4, Rflags
from nvmxfuzz.arch.sections import GUEST_SEGMENTS
from nvmxfuzz.arch.segments import AccessRights, SegmentType, Selector
from nvmxfuzz.cpu.failures import GUEST_STATE
from nvmxfuzz.cpu.predicates import canonical, fits_in_32_bits
from nvmxfuzz.cpu.rule import Condition, Given, Section, within
from nvmxfuzz.cpu.segment_view import GuestSegment, Trait, view_of

SECTION = Section(GUEST_SEGMENTS, GUEST_STATE)

CODE_AND_DATA = ("cs", "ss", "ds", "es", "fs", "gs")
SYSTEM = ("tr", "ldtr")
DATA = ("ds", "es", "fs", "gs")

VIEWS = {name: view_of(name) for name in (*CODE_AND_DATA, *SYSTEM)}

_Predicate: TypeAlias = Callable[[GuestSegment], bool]

_PARAGRAPH_BITS = 4
_VIRTUAL_8086_LIMIT = 0xFFFF
_VIRTUAL_8086_RIGHTS = 0xF3
_RESERVED_LOW = 0x0000_0F00
_RESERVED_HIGH = 0xFFFE_0000
_CODE_OR_READABLE = SegmentType.CODE | SegmentType.READABLE


def each(
    names: Iterable[str], aspect: str, when: Condition | None = None, case: str = ""
) -> Callable[[_Predicate], _Predicate]:
    """Declare the decorated function as the rule `guest.NAME.aspect` of each register `names`."""

    def declare(predicate: _Predicate) -> _Predicate:
        for name in names:
            rule = f"guest.{name}.{aspect}"
            SECTION.rule(rule, when=when, view=name, segment=name.upper(), case=case)(predicate)
        return predicate

    return declare


checked = Given("traits", Trait.CHECKED)
in_virtual_8086 = Given("traits", Trait.VIRTUAL_8086)
usable_on_intel_64 = Given("traits", Trait.USABLE_64)
bound_by_rpl = Given("traits", Trait.BOUND_BY_RPL)
ends_within_page = Given("traits", Trait.ENDS_WITHIN_PAGE)
reaches_megabyte = Given("traits", Trait.REACHES_MEGABYTE)

on_intel_64 = Given("entry.intel_64")
"""The processor supports Intel 64 architecture."""

in_ia_32e_mode = Given("entry.ia32e_guest")
"""The guest will be in IA-32e mode."""


def outside_ia_32e_mode(segment: GuestSegment) -> bool:
    """The guest will not be in IA-32e mode."""
    return segment.entry.ia32e_guest == 0


def restricted(segment: GuestSegment) -> bool:
    """The guest will not be virtual-8086, and "unrestricted guest" is 0."""
    return segment.entry.unrestricted == 0 and segment.traits & Trait.VIRTUAL_8086 == 0


@within("entry.unrestricted")
def unrestricted(segment: GuestSegment) -> bool:
    """The guest will not be virtual-8086, and "unrestricted guest" is 1."""
    return segment.traits & Trait.VIRTUAL_8086 == 0


@within("traits", Trait.CHECKED)
def data(segment: GuestSegment) -> bool:
    """The type is 3, read/write accessed expand-up data."""
    return segment.ar & AccessRights.TYPE == 3


@within("traits", Trait.CHECKED)
def non_conforming(segment: GuestSegment) -> bool:
    """The type is 9 or 11, accessed non-conforming code."""
    return segment.ar & AccessRights.TYPE in (9, 11)


@within("traits", Trait.CHECKED)
def conforming(segment: GuestSegment) -> bool:
    """The type is 13 or 15, accessed conforming code."""
    return segment.ar & AccessRights.TYPE in (13, 15)


def with_data_cs(segment: GuestSegment) -> bool:
    """The guest will not be virtual-8086, and the type of CS is 3."""
    return (
        segment.entry.vmcs.guest_cs_ar_bytes & AccessRights.TYPE == 3
        and segment.traits & Trait.VIRTUAL_8086 == 0
    )


def in_real_mode(segment: GuestSegment) -> bool:
    """CR0.PE is 0; VM is then 0 too, unless it breaks a rule of its own."""
    return segment.entry.vmcs.guest_cr0 & Cr0.PE == 0 and segment.traits & Trait.VIRTUAL_8086 == 0


@within("entry.vmcs.guest_cr4", Cr4.FRED)
def with_fred(segment: GuestSegment) -> bool:
    """The guest will use FRED transitions: it is in IA-32e mode with CR4.FRED = 1."""
    return segment.entry.ia32e_guest != 0 and segment.traits & Trait.VIRTUAL_8086 == 0


@within("entry.vmcs.guest_cr4", Cr4.FRED)
def at_cpl_0_with_fred(segment: GuestSegment) -> bool:
    """The guest will use FRED transitions, and the DPL of SS is 0."""
    return (
        segment.entry.ia32e_guest != 0
        and segment.traits & Trait.VIRTUAL_8086 == 0
        and segment.entry.vmcs.guest_ss_ar_bytes & AccessRights.DPL == 0
    )


@within("entry.vmcs.guest_cr4", Cr4.FRED)
def at_cpl_3_with_fred(segment: GuestSegment) -> bool:
    """The guest will use FRED transitions, and the DPL of SS is 3."""
    return (
        segment.entry.ia32e_guest != 0
        and segment.traits & Trait.VIRTUAL_8086 == 0
        and segment.ar & AccessRights.DPL == AccessRights.DPL
    )


@within("traits", Trait.CHECKED)
def in_64_bit_mode(segment: GuestSegment) -> int:
    """The guest will be in IA-32e mode and L is 1."""
    return segment.entry.ia32e_guest and segment.ar & AccessRights.L


# Selector fields


@each(["tr"], "ti")
@each(["ldtr"], "ti", when=checked)
def selects_from_gdt(segment: GuestSegment) -> bool:
    """TI in the selector of {segment} is 0."""
    return segment.selector & Selector.TI == 0


@each(["ss"], "rpl", when=restricted)
def same_rpl_as_cs(segment: GuestSegment) -> bool:
    """The RPL of SS equals that of CS, unless the guest is virtual-8086 or unrestricted."""
    return (segment.selector ^ segment.entry.vmcs.guest_cs_selector) & Selector.RPL == 0


# Base-address fields


@each(CODE_AND_DATA, "v8086-base", when=in_virtual_8086)
def base_is_paragraph(segment: GuestSegment) -> bool:
    """In virtual-8086 mode the base of {segment} is its selector times 16."""
    return segment.base == segment.selector << _PARAGRAPH_BITS


@each(["tr", "fs", "gs"], "base-canonical", when=on_intel_64)
@each(["ldtr"], "base-canonical", when=usable_on_intel_64)
def canonical_base(segment: GuestSegment) -> bool:
    """The base of {segment} is a canonical address."""
    return canonical(segment.base, segment.entry.profile.linear_address_bits)


@each(["cs"], "base-high", when=on_intel_64)
@each(["ss", "ds", "es"], "base-high", when=usable_on_intel_64)
def base_in_32_bits(segment: GuestSegment) -> bool:
    """Bits 63:32 of the base of {segment} are 0."""
    return fits_in_32_bits(segment.base)


# Limit fields


@each(CODE_AND_DATA, "v8086-limit", when=in_virtual_8086)
def limit_is_64k(segment: GuestSegment) -> bool:
    """In virtual-8086 mode the limit of {segment} is FFFFH."""
    return segment.limit == _VIRTUAL_8086_LIMIT


# Access-rights fields


@each(CODE_AND_DATA, "v8086-access-rights", when=in_virtual_8086)
def rights_are_f3(segment: GuestSegment) -> bool:
    """In virtual-8086 mode the access rights of {segment} are F3H: present data of DPL 3."""
    return segment.ar == _VIRTUAL_8086_RIGHTS


@each(["cs"], "type", when=restricted)
def accessed_code(segment: GuestSegment) -> bool:
    """The type of CS is 9, 11, 13 or 15 (accessed code), unless the guest is unrestricted."""
    return segment.ar & AccessRights.TYPE in (9, 11, 13, 15)


@each(["cs"], "type-unrestricted", when=unrestricted)
def accessed_code_or_data(segment: GuestSegment) -> bool:
    """The type of an unrestricted guest's CS is 3 (accessed data), 9, 11, 13 or 15."""
    return segment.ar & AccessRights.TYPE in (3, 9, 11, 13, 15)


@each(["ss"], "type", when=checked)
def writable_accessed_data(segment: GuestSegment) -> bool:
    """The type of a usable SS is 3 or 7 (read/write, accessed data)."""
    return segment.ar & AccessRights.TYPE in (3, 7)


@each(DATA, "accessed", when=checked)
def accessed(segment: GuestSegment) -> bool:
    """Bit 0 (accessed) of the type of a usable {segment} is 1."""
    return segment.ar & SegmentType.ACCESSED != 0


@each(DATA, "readable", when=checked)
def readable_if_code(segment: GuestSegment) -> bool:
    """A usable {segment} whose type has bit 3 (code) has bit 1 (readable) too."""
    return segment.ar & _CODE_OR_READABLE != SegmentType.CODE


@each(CODE_AND_DATA, "s", when=checked)
def code_or_data(segment: GuestSegment) -> bool:
    """S in the access rights of {segment} is 1: a code or data segment."""
    return segment.ar & AccessRights.S != 0


@each(["cs"], "dpl-data", when=data)
def data_cs_at_dpl_0(segment: GuestSegment) -> bool:
    """The DPL of a CS of type 3 (accessed data) is 0."""
    return segment.ar & AccessRights.DPL == 0


@each(["cs"], "dpl-non-conforming", when=non_conforming)
def dpl_of_ss(segment: GuestSegment) -> bool:
    """The DPL of a CS of type 9 or 11 (non-conforming code) equals that of SS."""
    return (segment.ar ^ segment.entry.vmcs.guest_ss_ar_bytes) & AccessRights.DPL == 0


@each(["cs"], "dpl-conforming", when=conforming)
def dpl_at_most_that_of_ss(segment: GuestSegment) -> bool:
    """The DPL of a CS of type 13 or 15 (conforming code) is not above that of SS."""
    return segment.ar & AccessRights.DPL <= (
        segment.entry.vmcs.guest_ss_ar_bytes & AccessRights.DPL
    )


@each(["cs"], "l-fred", when=at_cpl_0_with_fred)
def cpl_0_in_64_bit_mode(segment: GuestSegment) -> bool:
    """L of CS is 1 if the guest uses FRED transitions and the DPL of SS is 0."""
    return segment.ar & AccessRights.L != 0


@each(["ss"], "dpl-rpl", when=restricted)
def dpl_is_rpl(segment: GuestSegment) -> bool:
    """The DPL of SS, usable or not, equals its RPL, unless the guest is unrestricted."""
    return (segment.ar & AccessRights.DPL) >> 5 == segment.selector & Selector.RPL


@each(["ss"], "dpl-data-cs", when=with_data_cs, case="the type of CS is 3 (accessed data)")
@each(["ss"], "dpl-real-mode", when=in_real_mode, case="CR0.PE is 0")
def dpl_0(segment: GuestSegment) -> bool:
    """The DPL of SS, usable or not, is 0 if {case}."""
    return segment.ar & AccessRights.DPL == 0


@each(["ss"], "dpl-fred", when=with_fred)
def dpl_0_or_3(segment: GuestSegment) -> bool:
    """The DPL of SS is 0 or 3 if the guest uses FRED transitions."""
    return segment.ar & AccessRights.DPL in (0, AccessRights.DPL)


@each(["ss"], "iopl-fred", when=at_cpl_3_with_fred)
def no_io_privilege_at_cpl_3(segment: GuestSegment) -> bool:
    """IOPL in RFLAGS is 0 if the guest uses FRED transitions and the DPL of SS is 3."""
    return segment.entry.vmcs.guest_rflags & Rflags.IOPL == 0


@each(["ss"], "sti-fred", when=at_cpl_3_with_fred)
def no_blocking_by_sti_at_cpl_3(segment: GuestSegment) -> bool:
    """There is no blocking by STI if the guest uses FRED transitions and the DPL of SS is 3."""
    return segment.entry.vmcs.guest_interruptibility_info & Interruptibility.BLOCKING_BY_STI == 0


@each(DATA, "dpl", when=bound_by_rpl)
def dpl_at_least_rpl(segment: GuestSegment) -> bool:
    """A usable {segment} of type 0 to 11 has a DPL of at least its RPL, unless unrestricted."""
    return (segment.ar & AccessRights.DPL) >> 5 >= segment.selector & Selector.RPL


@each(["tr"], "type", when=outside_ia_32e_mode)
def busy_tss(segment: GuestSegment) -> bool:
    """The type of TR is 3 or 11 (16-bit or 32-bit busy TSS) outside IA-32e mode."""
    return segment.ar & AccessRights.TYPE in (3, 11)


@each(["tr"], "type-ia-32e", when=in_ia_32e_mode)
def busy_64_bit_tss(segment: GuestSegment) -> bool:
    """The type of TR is 11 (64-bit busy TSS) in IA-32e mode."""
    return segment.ar & AccessRights.TYPE == 11


@each(["ldtr"], "type", when=checked)
def ldt(segment: GuestSegment) -> bool:
    """The type of a usable LDTR is 2 (LDT)."""
    return segment.ar & AccessRights.TYPE == 2


@each(["tr"], "s")
@each(["ldtr"], "s", when=checked)
def system(segment: GuestSegment) -> bool:
    """S in the access rights of {segment} is 0: a system segment."""
    return segment.ar & AccessRights.S == 0


@each([*CODE_AND_DATA, "ldtr"], "p", when=checked)
@each(["tr"], "p")
def present(segment: GuestSegment) -> bool:
    """P in the access rights of {segment} is 1."""
    return segment.ar & AccessRights.P != 0


@each([*CODE_AND_DATA, "ldtr"], "reserved-low", when=checked)
@each(["tr"], "reserved-low")
def bits_11_to_8_clear(segment: GuestSegment) -> bool:
    """Bits 11:8 of the access rights of {segment} are 0."""
    return segment.ar & _RESERVED_LOW == 0


@each(["cs"], "db", when=in_64_bit_mode)
def no_default_size_in_64_bit_mode(segment: GuestSegment) -> bool:
    """D/B of CS is 0 if the guest is in IA-32e mode and L is 1."""
    return segment.ar & AccessRights.DB == 0


@each([*CODE_AND_DATA, *SYSTEM], "g-clear", when=ends_within_page)
def byte_granular(segment: GuestSegment) -> bool:
    """G of {segment} is 0 if any bit of 11:0 of its limit is 0."""
    return segment.ar & AccessRights.G == 0


@each([*CODE_AND_DATA, *SYSTEM], "g-set", when=reaches_megabyte)
def page_granular(segment: GuestSegment) -> bool:
    """G of {segment} is 1 if any bit of 31:20 of its limit is 1."""
    return segment.ar & AccessRights.G != 0


@each(["tr"], "usable")
def tr_usable(segment: GuestSegment) -> bool:
    """The unusable bit of TR is 0."""
    return segment.ar & AccessRights.UNUSABLE == 0


@each([*CODE_AND_DATA, "ldtr"], "reserved-high", when=checked)
@each(["tr"], "reserved-high")
def bits_31_to_17_clear(segment: GuestSegment) -> bool:
    """Bits 31:17 of the access rights of {segment} are 0."""
    return segment.ar & _RESERVED_HIGH == 0
