# SPDX-License-Identifier: GPL-2.0-only
"""What a set of VMX capability MSRs offers L1, by name: to say what one has that another lacks.

A name is "AREA: WORDS", the words the SDM's. A control or a bit of a register has a name where
it may be 1 ("secondary: enable EPT"), and another where it may be 0 ("primary: CR3-load exiting
may be 0"). A number that an MSR holds is part of the name. All that L1 reads is named: two sets
with the same names are the same, but for reserved bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.bits import named_bits
from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit, VmFunction
from nvmxfuzz.arch.registers import Cr0, Cr4
from nvmxfuzz.arch.vmx_msr import EptVpidCap, VmcsEnum, VmxBasic, VmxMisc

_WORD: Final = (1 << 32) - 1
_ALL: Final = (1 << 64) - 1

_CONTROLS: Final[Mapping[int, tuple[str, type]]] = {
    msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS: ("pin-based", Pin),
    msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS: ("primary", Primary),
    msr.MSR_IA32_VMX_PROCBASED_CTLS2: ("secondary", Secondary),
    msr.MSR_IA32_VMX_TRUE_EXIT_CTLS: ("VM-exit", VmExit),
    msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS: ("VM-entry", VmEntry),
    msr.MSR_IA32_VMX_PINBASED_CTLS: ("default pin-based", Pin),
    msr.MSR_IA32_VMX_PROCBASED_CTLS: ("default primary", Primary),
    msr.MSR_IA32_VMX_EXIT_CTLS: ("default VM-exit", VmExit),
    msr.MSR_IA32_VMX_ENTRY_CTLS: ("default VM-entry", VmEntry),
}
_FIXED0: Final[Mapping[int, tuple[str, type]]] = {
    msr.MSR_IA32_VMX_CR0_FIXED0: ("CR0", Cr0),
    msr.MSR_IA32_VMX_CR4_FIXED0: ("CR4", Cr4),
}
_MAY_BE_1: Final[Mapping[int, tuple[str, type]]] = {
    msr.MSR_IA32_VMX_CR0_FIXED1: ("CR0", Cr0),
    msr.MSR_IA32_VMX_CR4_FIXED1: ("CR4", Cr4),
    msr.MSR_IA32_VMX_EPT_VPID_CAP: ("EPT and VPID", EptVpidCap),
    msr.MSR_IA32_VMX_VMFUNC: ("VM function", VmFunction),
}
_MIXED: Final[Mapping[int, tuple[str, type]]] = {
    msr.MSR_IA32_VMX_BASIC: ("basic", VmxBasic),
    msr.MSR_IA32_VMX_MISC: ("misc", VmxMisc),
    msr.MSR_IA32_VMX_VMCS_ENUM: ("fields", VmcsEnum),
}


@cache
def _names(area: str, table: type) -> tuple[str, ...]:
    """Return the name of each of 64 bits."""
    known = {
        each.position: each.sdm_name
        for each in named_bits(table).values()
        if each == 1 << each.position
    }
    return tuple(f"{area}: {known.get(position, f'bit {position}')}" for position in range(64))


def _set_bits(value: int, area: str, table: type) -> Iterator[str]:
    names = _names(area, table)
    return (names[position] for position in range(64) if value >> position & 1)


@lru_cache(maxsize=4096)
def names_of(index: int, value: int) -> frozenset[str]:
    """Return what a 64-bit value of one of 480H to 491H offers; none for another MSR."""
    if index in _CONTROLS:
        area, table = _CONTROLS[index]
        may_be_0 = (f"{name} may be 0" for name in _set_bits(~value & _WORD, area, table))
        return frozenset((*_set_bits(value >> 32, area, table), *may_be_0))
    if index in _FIXED0:
        return frozenset(f"{name} may be 0" for name in _set_bits(~value & _ALL, *_FIXED0[index]))
    if index in _MAY_BE_1:
        return frozenset(_set_bits(value, *_MAY_BE_1[index]))
    if index in _MIXED:
        return frozenset(_mixed(value, *_MIXED[index]))
    return frozenset()


def _mixed(value: int, area: str, table: type) -> Iterator[str]:
    """Yield the bits that are set, and each field of several bits with its number."""
    for each in named_bits(table).values():
        if each != 1 << each.position:
            yield f"{area}: {each.sdm_name} is {(value & each) >> each.position:#x}"
            value &= ~each
    yield from _set_bits(value, area, table)


def features(values: Mapping[int, int]) -> frozenset[str]:
    """Return all that these MSRs offer, values by index."""
    return frozenset().union(*(names_of(index, value) for index, value in values.items()))
