# SPDX-License-Identifier: GPL-2.0-only
"""What a case consists of: the one table behind encoder, decoder, printer, mutator and minimiser.

A slot is one value of a case, or of a world. Its position is part of the binary format: a new slot
of whatever area goes to the end of its layout, with `since` and `VERSION` one up. The slots of each
version are then the first ones of the next, and old bytes keep their meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from struct import Struct
from types import MappingProxyType
from typing import Final, Literal

from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.msr import VMX_CAPABILITY_MSRS
from nvmxfuzz.inputs import places
from nvmxfuzz.inputs.case import SlotKind
from nvmxfuzz.inputs.vmcs_order import VMCS_ORDER
from nvmxfuzz.inputs.world import FEATURES, PARAMETERS

VERSION: Final = 1
"""Version of the binary format, its first byte: the greatest `since` of any slot."""

KERNELS: Final = ("5.18", "6.1", "6.12")

Area = Literal["vmcs", "processor", "case", "memory", "msr", "parameter", "cpuid"]

_AREAS: Final[tuple[Area, ...]] = (
    *("vmcs", "processor", "case", "memory", "msr"),
    *("parameter", "cpuid"),
)

LayoutKind = SlotKind | Literal["world"]
"""What has a layout: the cases that are nothing else, and the worlds of the others."""
_FORMATS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}


# There is one object for each slot: comparing and hashing it by identity is what decoding needs.
@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """One value of a case, an unsigned integer of `width` bits.

    `address` is where a slot of the area "memory" lies, or the index of an MSR. With `choices`
    the value is the position of a word, and `boolean` marks the words false and true. `since` is
    the version of the format that first has the slot.
    """

    name: str
    area: Area
    width: int
    meaning: str
    address: int = 0
    choices: tuple[str, ...] = ()
    since: int = 1
    size: int = field(init=False)
    """Bytes of the slot in the binary format: 1, 2, 4 or 8."""
    mask: int = field(init=False)
    """The greatest value of `width` bits."""

    def __post_init__(self) -> None:
        """Fill in what decoding asks for each record."""
        size = 1 if self.width <= 8 else 1 << ((self.width + 7) // 8 - 1).bit_length()
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "mask", (1 << self.width) - 1)

    @property
    def boolean(self) -> bool:
        """Whether the slot is true or false."""
        return self.width == 1 and not self.choices

    def fit(self, value: int) -> int:
        """Return the legal value that arbitrary bits stand for."""
        return value % len(self.choices) if self.choices else value & self.mask

    def show(self, value: int) -> str:
        """Return `value` as a reader expects it: a word, true or false, or hex at full width."""
        if self.choices:
            return self.choices[value]
        if self.boolean:
            return "true" if value else "false"
        return f"0x{value:0{(self.width + 3) // 4}x}"


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The slots of one kind in the order of the format, with what is derived from them."""

    harness: LayoutKind
    slots: tuple[Slot, ...]
    by_name: Mapping[str, Slot] = field(init=False, repr=False)
    by_area: Mapping[Area, tuple[Slot, ...]] = field(init=False, repr=False)
    index: Mapping[str, int] = field(init=False, repr=False)
    words: Struct = field(init=False, repr=False)
    """Every slot once, packed without gaps, little-endian."""

    def __post_init__(self) -> None:
        names = [slot.name for slot in self.slots]
        if len(set(names)) != len(names):
            raise ValueError("two slots have the same name")
        by_name = dict(zip(names, self.slots, strict=True))
        index = {name: position for position, name in enumerate(names)}
        by_area = {area: tuple(slot for slot in self.slots if slot.area == area) for area in _AREAS}
        object.__setattr__(self, "by_name", MappingProxyType(by_name))
        object.__setattr__(self, "by_area", MappingProxyType(by_area))
        object.__setattr__(self, "index", MappingProxyType(index))
        formats = "".join(_FORMATS[slot.size] for slot in self.slots)
        object.__setattr__(self, "words", Struct("<" + formats))


def field_slot(name: str, since: int = 1) -> Slot:
    """Return the slot of the VMCS field `name`, which version `since` of the format first has."""
    found = FIELD_BY_NAME[name]
    return Slot(name, "vmcs", found.width, found.sdm_name, since=since)


_PROCESSOR_SLOTS: Final = (
    Slot("cr0", "processor", 64, "CR0 of the executing hypervisor"),
    Slot("cr3", "processor", 64, "CR3 of the executing hypervisor"),
    Slot("cr4", "processor", 64, "CR4 of the executing hypervisor"),
    Slot("efer", "processor", 64, "IA32_EFER of the executing hypervisor"),
    Slot("rflags", "processor", 64, "RFLAGS of the executing hypervisor"),
    Slot("cpl", "processor", 2, "current privilege level"),
    Slot("cs_l", "processor", 1, "CS.L: with IA-32e mode, the hypervisor runs 64-bit code"),
    Slot("in_smm", "processor", 1, "in SMM, under the dual-monitor treatment"),
    Slot("blocking_by_mov_ss", "processor", 1, "MOV SS or POP SS was the instruction before"),
    Slot("vmxon_pointer", "processor", 64, "VMXON pointer; all ones outside VMX operation"),
    Slot("current_vmcs", "processor", 64, "current-VMCS pointer; all ones where there is none"),
    Slot("current_vmcs_is_shadow", "processor", 1, "the current VMCS is a shadow VMCS"),
    Slot(
        "executive_vmcs_launched", "processor", 1, "launch state of the executive VMCS; read in SMM"
    ),
    Slot(
        "executive_controls_valid",
        "processor",
        1,
        "the execution controls of the executive VMCS are valid; read in SMM",
    ),
    Slot("rtit_ctl", "processor", 64, "IA32_RTIT_CTL of the executing hypervisor"),
)

_ATTEMPT_SLOTS: Final = (
    Slot("instruction", "case", 1, "what enters the guest", choices=("vmlaunch", "vmresume")),
    Slot("launch_state", "case", 1, "launch state of the VMCS", choices=("clear", "launched")),
)


def _msr_load_slots() -> tuple[Slot, ...]:
    slots: list[Slot] = []
    for number in range(places.MSR_LOAD_ENTRIES):
        at = places.MSR_LOAD_AREA + number * places.MSR_ENTRY_SIZE
        where = f"entry {number + 1} of the VM-entry MSR-load area"
        slots += (
            Slot(f"msr_load{number}_index", "memory", 32, f"MSR index, {where}", at),
            Slot(f"msr_load{number}_reserved", "memory", 32, f"reserved, {where}", at + 4),
            Slot(f"msr_load{number}_value", "memory", 64, f"MSR data, {where}", at + 8),
        )
    return tuple(slots)


_MEMORY_SLOTS: Final = (
    *_msr_load_slots(),
    *(
        Slot(f"pdpte{number}", "memory", 64, "PDPTE in memory", places.PDPTES + 8 * number)
        for number in range(4)
    ),
    Slot("vtpr", "memory", 32, "virtual task-priority register", places.VTPR),
    Slot(
        "linked_vmcs_revision",
        "memory",
        32,
        "revision identifier and (bit 31) shadow indicator of the linked VMCS",
        places.LINKED_VMCS,
    ),
    Slot("eptp_list0", "memory", 64, "first entry of the EPTP list", places.EPTP_LIST),
)

ENTRY_LAYOUT: Final[tuple[Slot, ...]] = (
    *(field_slot(name) for name in VMCS_ORDER),
    *_PROCESSOR_SLOTS,
    *_ATTEMPT_SLOTS,
    *_MEMORY_SLOTS,
    # Version 1 ends here. What comes later is added below, of whatever area.
)


def present(name: str) -> str:
    """Return the slot that tells whether the MSR with the slot `name` exists."""
    return f"{name}_exists"


def _msr_slots() -> tuple[Slot, ...]:
    slots: list[Slot] = []
    for index, sdm_name in VMX_CAPABILITY_MSRS:
        name = sdm_name.lower()
        slots += (
            Slot(name, "msr", 64, f"{sdm_name}, MSR {index:#x}", index),
            Slot(present(name), "msr", 1, f"whether {sdm_name} exists", index),
        )
    return tuple(slots)


_IDENTITY: Final = (
    Slot("family", "case", 9, "processor family, extended family added"),
    Slot("model", "case", 8, "processor model, extended model in bits 7:4"),
    Slot("stepping", "case", 4, "processor stepping"),
    Slot("kernel", "case", 8, "kernel version", choices=KERNELS),
)

CONFIG_LAYOUT: Final[tuple[Slot, ...]] = (
    *_IDENTITY,
    Slot("error_on_inconsistent_vmcs_config", "case", 1, "module parameter of kvm_intel"),
    Slot("enlightened_vmcs", "case", 1, "module parameter of kvm_intel"),
    Slot("has_sgx", "case", 1, "CPUID reports SGX"),
    Slot("evmcs", "case", 1, "the kernel runs on a Hyper-V that offers enlightened VMCSs"),
    *_msr_slots(),
    # Version 1 ends here, as above.
)


def toggled(feature: str) -> str:
    """Return the slot that tells whether a CPUID feature is not as the profile has it."""
    return f"cpuid_{feature.lower()}"


WORLD_LAYOUT: Final[tuple[Slot, ...]] = (
    *_IDENTITY,
    Slot("has_sgx", "case", 1, "CPUID reports SGX"),
    Slot("pmu_version", "case", 3, "version of architectural performance monitoring"),
    Slot("evmcs", "case", 1, "the kernel runs on a Hyper-V that offers enlightened VMCSs"),
    Slot("stuffs_feature_msrs", "case", 1, "the VM's quirk of that name, which 6.12 knows, is on"),
    *(Slot(name, "parameter", 1, "module parameter") for name in PARAMETERS),
    *(
        Slot(
            toggled(name), "cpuid", 1, f"CPUID has {name} where the profile has it not, or lacks it"
        )
        for name in FEATURES
    ),
    *_msr_slots(),
    # Version 1 ends here, as above.
)

_LAYOUTS: Final[Mapping[LayoutKind, tuple[Slot, ...]]] = MappingProxyType(
    {"vm_entry": ENTRY_LAYOUT, "capability_config": CONFIG_LAYOUT, "world": WORLD_LAYOUT}
)


def known_version(number: int) -> int:
    """Return the version of the format that a first byte says: 1 where there is no such version."""
    return number if 0 < number <= VERSION else 1


@cache
def layout(harness: LayoutKind, version: int = VERSION) -> Layout:
    """Return the slots of a kind as `version` of the format knows them."""
    return Layout(harness, tuple(slot for slot in _LAYOUTS[harness] if slot.since <= version))
