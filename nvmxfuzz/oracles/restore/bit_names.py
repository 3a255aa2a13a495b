# SPDX-License-Identifier: GPL-2.0-only
"""The VMX capability MSRs that L1 sees, told bit by bit in the SDM's words.

A `Capability` is one thing that an MSR offers, or does not. The default forms of the control MSRs
are left out: KVM computes them from the true ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.bits import Bit, named_bits
from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit, VmFunction
from nvmxfuzz.arch.registers import Cr0, Cr4
from nvmxfuzz.arch.vmx_msr import EptVpidCap, VmcsEnum, VmxBasic, VmxMisc
from nvmxfuzz.oracles.restore.offer import FORMS

Kind = Literal["may-be-1", "may-be-0", "feature", "number"]
"""A control, or bit of a register, that L1 may set; one that it may clear; a bit that says what
the processor can do; a field that is a number, of which each value is something by itself."""

CONTROL_TABLES: Final[dict[int, type]] = {
    msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS: Pin,
    msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS: Primary,
    msr.MSR_IA32_VMX_PROCBASED_CTLS2: Secondary,
    msr.MSR_IA32_VMX_TRUE_EXIT_CTLS: VmExit,
    msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS: VmEntry,
}
"""MSRs of two halves: below the bits that must be 1, above those that may be 1."""

FEATURE_TABLES: Final[dict[int, type]] = {
    msr.MSR_IA32_VMX_BASIC: VmxBasic,
    msr.MSR_IA32_VMX_MISC: VmxMisc,
    msr.MSR_IA32_VMX_VMCS_ENUM: VmcsEnum,
    msr.MSR_IA32_VMX_EPT_VPID_CAP: EptVpidCap,
    msr.MSR_IA32_VMX_VMFUNC: VmFunction,
}
REGISTER_TABLES: Final[dict[int, type]] = {
    msr.MSR_IA32_VMX_CR0_FIXED0: Cr0,
    msr.MSR_IA32_VMX_CR0_FIXED1: Cr0,
    msr.MSR_IA32_VMX_CR4_FIXED0: Cr4,
    msr.MSR_IA32_VMX_CR4_FIXED1: Cr4,
}
FIXED0: Final = (msr.MSR_IA32_VMX_CR0_FIXED0, msr.MSR_IA32_VMX_CR4_FIXED0)
FIXED1: Final = (msr.MSR_IA32_VMX_CR0_FIXED1, msr.MSR_IA32_VMX_CR4_FIXED1)

DEFAULT_FORMS: Final = frozenset(default for default, _ in FORMS.values())
NAMED_MSRS: Final = tuple(
    index
    for index in range(msr.MSR_IA32_VMX_BASIC, msr.MSR_IA32_VMX_VMFUNC + 1)
    if index not in DEFAULT_FORMS
)
"""The MSRs whose bits have names here, ascending."""

AREAS: Final[dict[int, str]] = {
    msr.MSR_IA32_VMX_BASIC: "basic",
    msr.MSR_IA32_VMX_MISC: "misc",
    msr.MSR_IA32_VMX_VMCS_ENUM: "fields",
    msr.MSR_IA32_VMX_PROCBASED_CTLS2: "secondary",
    msr.MSR_IA32_VMX_EPT_VPID_CAP: "EPT and VPID",
    msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS: "pin-based",
    msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS: "primary",
    msr.MSR_IA32_VMX_TRUE_EXIT_CTLS: "VM-exit",
    msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS: "VM-entry",
    msr.MSR_IA32_VMX_VMFUNC: "VM function",
}
"""What an MSR is about in a word; a bit of a control register says that itself."""

_HALF: Final = 32
_WORD: Final = (1 << _HALF) - 1


@dataclass(frozen=True, slots=True)
class Capability:
    """Something that the MSR `index` offers where its value has `mask` as `kind` tells.

    `mask` is within the 64 bits of the MSR. `named`: the SDM has a name for it.
    """

    index: int
    mask: int
    name: str
    kind: Kind
    named: bool = True
    value: int = 0
    """Of a number, the bits within `mask` that this capability stands for."""

    def is_offered(self, value: int) -> bool:
        """Tell whether an MSR with this value offers it."""
        if self.kind == "number":
            return value & self.mask == self.value
        if self.kind == "may-be-0":
            return value & self.mask == 0
        return value & self.mask != 0

    @property
    def text(self) -> str:
        """Name and kind for a reader, such as "CR3-load exiting may be 0"."""
        return f"{self.name} may be 0" if self.kind == "may-be-0" else self.name

    @property
    def label(self) -> str:
        """The text with what it is about, by which it is told from every other."""
        area = AREAS.get(self.index)
        return self.text if area is None else f"{area}: {self.text}"


def capabilities(index: int, *values: int) -> tuple[Capability, ...]:
    """Return what an MSR can offer, in the order of its bits; a number as each of `values` has it.

    Bits without a name that none of the values has are left out.
    """
    found = list(_of_bits(index))
    known = sum(each.mask for each in found if each.kind != "may-be-0")
    for field in _numbers(index):
        known |= field
        texts = dict.fromkeys(value & field for value in values)
        found += (_number(index, field, value) for value in texts)
    beyond = 0
    for value in values:
        beyond |= value & ~known
    if index in CONTROL_TABLES:
        beyond &= _WORD << _HALF
    if index not in FIXED0:
        found += _unnamed(index, beyond)
    return tuple(sorted(found, key=lambda each: (each.mask, each.kind, each.value)))


@cache
def _of_bits(index: int) -> tuple[Capability, ...]:
    table = CONTROL_TABLES.get(index)
    if table is not None:
        return tuple(_of_control(index, table))
    fixed = REGISTER_TABLES.get(index)
    if fixed is not None:
        kind: Kind = "may-be-0" if index in FIXED0 else "may-be-1"
        register = "CR0" if fixed is Cr0 else "CR4"
        return tuple(
            Capability(index, int(each), f"{register}.{attribute}", kind)
            for attribute, each in named_bits(fixed).items()
        )
    return tuple(
        Capability(index, int(each), each.sdm_name, "feature")
        for each in named_bits(FEATURE_TABLES[index]).values()
        if each.bit_count() == 1
    )


def _of_control(index: int, table: type) -> Iterator[Capability]:
    for each in named_bits(table).values():
        yield Capability(index, each << _HALF, each.sdm_name, "may-be-1")
        yield Capability(index, int(each), each.sdm_name, "may-be-0")


@cache
def _numbers(index: int) -> tuple[Bit, ...]:
    table = FEATURE_TABLES.get(index)
    if table is None:
        return ()
    return tuple(each for each in named_bits(table).values() if each.bit_count() > 1)


def _number(index: int, field: Bit, value: int) -> Capability:
    name = f"{field.sdm_name}: {value >> field.position:#x}"
    return Capability(index, int(field), name, "number", value=value)


def _unnamed(index: int, bits: int) -> Iterator[Capability]:
    half = _HALF if index in CONTROL_TABLES else 0
    table = REGISTER_TABLES.get(index)
    register = "" if table is None else "CR0 " if table is Cr0 else "CR4 "
    for position in range(64):
        if bits >> position & 1:
            kind: Kind = "may-be-1" if half or register else "feature"
            name = f"{register}bit {position - half}"
            yield Capability(index, 1 << position, name, kind, named=False)
