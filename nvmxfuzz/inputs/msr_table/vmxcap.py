# SPDX-License-Identifier: GPL-2.0-only
"""What QEMU's script `vmxcap` prints: a section for each MSR, a row for each bit with its name.

Of the control MSRs it prints no value: they are put together from the rows. What no row tells is
as on every processor: the unnamed controls of the default1 class are 1, all others are 0. An older
script prints no value of the other MSRs either. IA32_VMX_CR0_FIXED0 to _VMCS_ENUM it never reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from nvmxfuzz.arch import controls, msr
from nvmxfuzz.arch.bits import Bit, named_bits
from nvmxfuzz.arch.controls import Pin, Primary, Secondary, Tertiary, VmEntry, VmExit, VmFunction
from nvmxfuzz.arch.vmx_msr import EptVpidCap, VmxBasic, VmxMisc
from nvmxfuzz.inputs.msr_table.complete import existing_msrs
from nvmxfuzz.inputs.msr_table.found import MAX_LINE, bad, hexadecimal, quote, split

_WORD: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class _Kind:
    """A section: its MSR and the table of its bits; of controls the true MSR and its class too."""

    index: int
    table: type
    true: int = 0
    default1: int = 0
    two_halves: bool = False


_SECTIONS: Final = {
    "Basic VMX Information": _Kind(msr.MSR_IA32_VMX_BASIC, VmxBasic),
    "pin-based controls": _Kind(
        msr.MSR_IA32_VMX_PINBASED_CTLS,
        Pin,
        msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS,
        controls.PIN_DEFAULT1,
        two_halves=True,
    ),
    "primary processor-based controls": _Kind(
        msr.MSR_IA32_VMX_PROCBASED_CTLS,
        Primary,
        msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
        controls.PRIMARY_DEFAULT1,
        two_halves=True,
    ),
    "secondary processor-based controls": _Kind(
        msr.MSR_IA32_VMX_PROCBASED_CTLS2, Secondary, two_halves=True
    ),
    "tertiary processor-based controls": _Kind(msr.MSR_IA32_VMX_PROCBASED_CTLS3, Tertiary),
    "VM-Exit controls": _Kind(
        msr.MSR_IA32_VMX_EXIT_CTLS,
        VmExit,
        msr.MSR_IA32_VMX_TRUE_EXIT_CTLS,
        controls.VM_EXIT_DEFAULT1,
        two_halves=True,
    ),
    "VM-Entry controls": _Kind(
        msr.MSR_IA32_VMX_ENTRY_CTLS,
        VmEntry,
        msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS,
        controls.VM_ENTRY_DEFAULT1,
        two_halves=True,
    ),
    "Miscellaneous data": _Kind(msr.MSR_IA32_VMX_MISC, VmxMisc),
    "VPID and EPT capabilities": _Kind(msr.MSR_IA32_VMX_EPT_VPID_CAP, EptVpidCap),
    "VM Functions": _Kind(msr.MSR_IA32_VMX_VMFUNC, VmFunction),
}
HEADING: Final = re.compile(
    r"^(?:Basic VMX Information|pin-based controls|VM-Exit controls)[ \t\r]*$", re.MULTILINE
)
"""A line that only vmxcap prints."""

_OTHER_NAMES: Final[Mapping[type, Mapping[str, Bit]]] = {
    VmxBasic: {
        "Revision": VmxBasic.REVISION_ID,
        "VMCS size": VmxBasic.REGION_SIZE,
        "VMCS restricted to 32 bit addresses": VmxBasic.PHYSICAL_ADDRESSES_32_BIT,
        "Dual-monitor support": VmxBasic.DUAL_MONITOR_TREATMENT,
        "VMCS memory type": VmxBasic.MEMORY_TYPE,
        "INS/OUTS instruction information": VmxBasic.INS_OUTS_INFORMATION,
        "IA32_VMX_TRUE_*_CTLS support": VmxBasic.TRUE_CONTROLS,
        "Skip checks on event error code": VmxBasic.ANY_EXCEPTION_MAY_DELIVER_ERROR_CODE,
    },
    Primary: {"Activate secondary control": Primary.ACTIVATE_SECONDARY_CONTROLS},
    Secondary: {
        "APIC register emulation": Secondary.APIC_REGISTER_VIRTUALIZATION,
        "Conceal non-root operation from PT": Secondary.CONCEAL_VMX_FROM_PT,
        "Mode-based execute control (XS/XU)": Secondary.MODE_BASED_EXECUTE_CONTROL_FOR_EPT,
        "Sub-page write permissions": Secondary.SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT,
        "GPA translation for PT": Secondary.INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES,
        "TSC scaling": Secondary.USE_TSC_SCALING,
        "User wait and pause": Secondary.ENABLE_USER_WAIT_AND_PAUSE,
        "ENCLV exiting": Secondary.ENABLE_ENCLV_EXITING,
    },
    Tertiary: {"Enable IPI virtualization": Tertiary.IPI_VIRTUALIZATION},
    VmExit: {"Conceal VM exits from PT": VmExit.CONCEAL_VMX_FROM_PT},
    VmEntry: {"Conceal VM entries from PT": VmEntry.CONCEAL_VMX_FROM_PT},
    VmxMisc: {
        "VMX-preemption timer scale (log2)": VmxMisc.PREEMPTION_TIMER_RATE,
        "Store EFER.LMA into IA-32e mode guest control": VmxMisc.STORE_EFER_LMA,
        "HLT activity state": VmxMisc.ACTIVITY_HLT,
        "Shutdown activity state": VmxMisc.ACTIVITY_SHUTDOWN,
        "Wait-for-SIPI activity state": VmxMisc.ACTIVITY_WAIT_FOR_SIPI,
        "PT in VMX operation": VmxMisc.INTEL_PT_IN_VMX,
        "IA32_SMBASE support": VmxMisc.SMBASE_IN_SMM,
        "MSR-load/store count recommendation": VmxMisc.MAX_MSR_LIST,
        "VMWRITE to VM-exit information fields": VmxMisc.VMWRITE_ANY_FIELD,
        "Inject event with insn length=0": VmxMisc.ZERO_LENGTH_INJECTION,
    },
    EptVpidCap: {
        "Execute-only EPT translations": EptVpidCap.EXECUTE_ONLY,
        "Page-walk length 4": EptVpidCap.PAGE_WALK_4,
        "Page-walk length 5": EptVpidCap.PAGE_WALK_5,
        "Paging-structure memory type UC": EptVpidCap.MEMORY_TYPE_UC,
        "Paging-structure memory type WB": EptVpidCap.MEMORY_TYPE_WB,
        "2MB EPT pages": EptVpidCap.PAGE_2MB,
        "1GB EPT pages": EptVpidCap.PAGE_1GB,
        "INVEPT supported": EptVpidCap.INVEPT,
        "EPT accessed and dirty flags": EptVpidCap.ACCESSED_DIRTY,
        "INVVPID supported": EptVpidCap.INVVPID,
    },
}
"""What the script calls otherwise than the SDM does."""

_ROW: Final = re.compile(r"[ \t]+(?P<name>\S.*?)[ \t]+(?P<said>\S+)[ \t]*")
_NUMBER: Final = re.compile("[0-9]{1,10}")
_STATES: Final = {"yes": (0, 1, 0), "no": (0, 0, 0), "forced": (1, 1, 1), "default": (1, 1, 0)}
_STATES_OF_CONTROLS: Final = {**_STATES, "?": (1, 0, 1)}
"""What the script says of a bit -> must be 1, may be 1, must be 1 by the true MSR."""
_TELL: Final = "copy the lines as vmxcap prints them"


@dataclass(slots=True)
class _Section:
    """A section while it is read: the halves of its MSRs, and the rows that it had."""

    kind: _Kind
    number: int
    value: int | None = None
    """What the line `Hex:` has."""
    must: int = 0
    may: int = 0
    true_must: int = 0
    rows: dict[int, int] = field(default_factory=dict)
    """Mask of a row -> its line."""


def from_vmxcap(text: str) -> dict[int, int]:
    """Return the MSRs that the script has read; those that the processor lacks read as 0 there."""
    sections: dict[str, _Section] = {}
    current: _Section | None = None
    for number, line in enumerate(split(text), 1):
        if len(line) > MAX_LINE:
            bad(number, f"this is longer than {MAX_LINE} characters; {_TELL}")
        title = line.rstrip()
        if title in _SECTIONS:
            if title in sections:
                first = sections[title].number
                bad(number, f"{title!r} was already on line {first}; give one processor")
            current = sections[title] = _Section(_SECTIONS[title], number)
        elif not line[:1].isspace():
            current = None
        elif current is not None and title:
            _row(number, line, current)
        elif sections and title:
            bad(number, f"{quote(title)} stands below no section of vmxcap; {_TELL}")
    msrs: dict[int, int] = {}
    for section in sections.values():
        msrs |= _msrs(section)
    existing = existing_msrs(msrs)
    return {index: value for index, value in sorted(msrs.items()) if index in existing}


def _row(number: int, line: str, section: _Section) -> None:
    matched = _ROW.fullmatch(line)
    if not matched:
        bad(number, f"{quote(line.strip())} is no row of vmxcap; {_TELL}")
    name, said = matched["name"], matched["said"]
    if name == "Hex:" and not section.kind.two_halves:
        if section.value is not None or section.rows:
            bad(number, f"'Hex:' stands above all rows, and once; {_TELL}")
        section.value = hexadecimal(number, said)
        return
    mask = _bits(section.kind.table).get(_plain(name))
    if mask is None:
        if said != "no":
            bad(number, f"{quote(name)} is no bit that is known; give lines '0x480 = 0x...'")
        return
    first = section.rows.setdefault(mask, number)
    if first != number:
        bad(number, f"{quote(name)} was already given on line {first}; give it once")
    _take(number, said, mask, section)


def _take(number: int, said: str, mask: int, section: _Section) -> None:
    """Note what a row says of a bit, or of a field that is a number."""
    if mask.bit_count() > 1:
        most = mask // (mask & -mask)
        if not _NUMBER.fullmatch(said) or int(said) > most:
            bad(number, f"{quote(said)} is no number up to {most}; {_TELL}")
        section.may |= int(said) * (mask & -mask)
    else:
        states = _STATES_OF_CONTROLS if section.kind.two_halves else _STATES
        if said not in states:
            bad(number, f"{quote(said)} is none of {', '.join(states)}; {_TELL}")
        must, may, true_must = states[said]
        section.must |= must * mask
        section.may |= may * mask
        section.true_must |= true_must * mask
    if section.value is not None and (section.value ^ section.may) & mask:
        bad(number, f"{quote(said)} is not what 'Hex:' has on this bit; {_TELL}")


def _msrs(section: _Section) -> dict[int, int]:
    kind = section.kind
    if not kind.two_halves:
        return {kind.index: section.may if section.value is None else section.value}
    unnamed = kind.default1
    for mask in section.rows:
        unnamed &= ~mask
    may = section.may | unnamed
    found = {kind.index: section.must | unnamed | may << 32}
    if kind.true:
        found[kind.true] = section.true_must | unnamed | may << 32
    return found


@cache
def _bits(table: type) -> Mapping[str, int]:
    """Return the masks of a table by the names of the SDM and of the script."""
    found = {_plain(each.sdm_name): int(each) for each in named_bits(table).values()}
    others = _OTHER_NAMES.get(table, {})
    return found | {_plain(name): int(each) for name, each in others.items()}


def _plain(name: str) -> str:
    """Return a name without what different versions of the script write differently."""
    return re.sub(r"[] \-/()#,.*=_[]", "", name.lower())
