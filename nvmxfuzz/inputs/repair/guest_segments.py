# SPDX-License-Identifier: GPL-2.0-only
"""Guest segment and descriptor-table registers.

SDM: "Checks on Guest Segment Registers" and "Checks on Guest Descriptor-Table Registers". The
privilege level is the DPL of SS; the other registers follow it.
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.registers import Cr0, Cr4, Rflags
from nvmxfuzz.arch.segments import AccessRights, SegmentType, Selector
from nvmxfuzz.inputs.repair.draft import LOW_HALF, Coin, Draft

_DATA_REGISTERS: Final = ("ds", "es", "fs", "gs")
_CODE_OR_DATA: Final = ("cs", "ss", *_DATA_REGISTERS)
_NAMES: Final = {
    name: tuple(f"guest_{name}_{part}" for part in ("selector", "base", "limit", "ar_bytes"))
    for name in (*_CODE_OR_DATA, "ldtr", "tr")
}
_PRESENT: Final = AccessRights.S | AccessRights.P
_ACCESSED_CODE: Final = SegmentType.CODE | SegmentType.ACCESSED
_V86_LIMIT: Final = 0xFFFF
_V86_RIGHTS: Final = 0xF3
_LOW_LIMIT: Final = 0xFFF
_HIGH_LIMIT: Final = 0xFFF0_0000


def settle_guest_segments(draft: Draft) -> None:
    """All eight segment registers, GDTR and IDTR, for the mode that RFLAGS and controls set."""
    _mode(draft)
    if draft.vmcs.guest_rflags & Rflags.VM:
        _virtual_8086(draft)
    else:
        _stack_and_code(draft)
        for name in _DATA_REGISTERS:
            _data(draft, name)
    _task_register(draft)
    _ldtr(draft)
    _descriptor_tables(draft)


def _mode(draft: Draft) -> None:
    vmcs = draft.vmcs
    if draft.ia32e or not vmcs.guest_cr0 & Cr0.PE:
        vmcs.guest_rflags &= ~Rflags.VM


def _virtual_8086(draft: Draft) -> None:
    fields = draft.vmcs.__dict__
    for name in _CODE_OR_DATA:
        selector, base, limit, rights = _NAMES[name]
        fields[base] = fields[selector] << 4
        fields[limit] = _V86_LIMIT
        fields[rights] = _V86_RIGHTS


def _stack_and_code(draft: Draft) -> None:
    vmcs = draft.vmcs
    vmcs.guest_cs_ar_bytes = code = _code_type(draft, vmcs.guest_cs_ar_bytes)
    level = _privilege_level(draft, code)
    vmcs.guest_ss_ar_bytes = vmcs.guest_ss_ar_bytes & ~AccessRights.DPL | level << 5
    if not draft.unrestricted:
        vmcs.guest_ss_selector = vmcs.guest_ss_selector & ~Selector.RPL | level
        vmcs.guest_cs_selector = vmcs.guest_cs_selector & ~Selector.RPL | level
    _code(draft, level)
    if not vmcs.guest_ss_ar_bytes & AccessRights.UNUSABLE:
        rights = vmcs.guest_ss_ar_bytes & ~(AccessRights.RESERVED | SegmentType.CODE)
        vmcs.guest_ss_ar_bytes = rights | _PRESENT | SegmentType.DATA_ACCESSED
        vmcs.guest_ss_base &= LOW_HALF
        _granularity(draft, "ss")


def _code_type(draft: Draft, rights: int) -> int:
    """Return the access rights of CS as an accessed code segment, or for real mode also data."""
    if not rights & SegmentType.CODE and draft.unrestricted:
        kind = rights & AccessRights.TYPE
        if kind == SegmentType.DATA_ACCESSED or draft.coin(Coin.CODE_TYPE):
            return rights & ~AccessRights.TYPE | SegmentType.DATA_ACCESSED
    return rights | _ACCESSED_CODE


def _privilege_level(draft: Draft, code: int) -> int:
    """Return a DPL for SS that the mode, CS and FRED transitions permit."""
    vmcs = draft.vmcs
    level = vmcs.guest_ss_ar_bytes >> 5 & 3
    if not vmcs.guest_cr0 & Cr0.PE or not code & SegmentType.CODE:
        return 0
    if vmcs.guest_cr4 & Cr4.FRED and level in (1, 2):
        return 3 * draft.coin(Coin.FRED_LEVEL)
    return level


def _code(draft: Draft, level: int) -> None:
    vmcs = draft.vmcs
    rights = vmcs.guest_cs_ar_bytes & ~AccessRights.RESERVED | _PRESENT
    if not rights & SegmentType.CODE:
        rights &= ~AccessRights.DPL
    elif not rights & SegmentType.CONFORMING or rights >> 5 & 3 > level:
        rights = rights & ~AccessRights.DPL | level << 5
    if vmcs.guest_cr4 & Cr4.FRED and level == 0:
        rights |= AccessRights.L
    if draft.ia32e and rights & AccessRights.L:
        rights &= ~AccessRights.DB
    vmcs.guest_cs_ar_bytes = rights
    vmcs.guest_cs_base &= LOW_HALF
    _granularity(draft, "cs")


def _data(draft: Draft, name: str) -> None:
    fields = draft.vmcs.__dict__
    selector, base, _, rights_name = _NAMES[name]
    rights = fields[rights_name]
    if name in ("fs", "gs"):
        fields[base] = draft.canonical(fields[base])
    if rights & AccessRights.UNUSABLE:
        return
    if name in ("ds", "es"):
        fields[base] &= LOW_HALF
    rights = rights & ~AccessRights.RESERVED | _PRESENT | SegmentType.ACCESSED
    if rights & SegmentType.CODE:
        rights |= SegmentType.READABLE
    conforming = SegmentType.CODE | SegmentType.CONFORMING
    if not draft.unrestricted and rights & conforming != conforming:
        requested = fields[selector] & Selector.RPL
        if rights >> 5 & 3 < requested:
            if draft.coin(Coin.RPL):
                rights = rights & ~AccessRights.DPL | requested << 5
            else:
                fields[selector] = fields[selector] & ~Selector.RPL | rights >> 5 & 3
    fields[rights_name] = rights
    _granularity(draft, name)


def _granularity(draft: Draft, name: str) -> None:
    """Make limit and G agree: a limit with bits 31:20 is in pages, one without bits 11:0 not."""
    fields = draft.vmcs.__dict__
    _, _, limit_name, rights_name = _NAMES[name]
    limit = fields[limit_name]
    partial = limit & _LOW_LIMIT != _LOW_LIMIT
    if limit & _HIGH_LIMIT:
        if partial and fields[rights_name] & AccessRights.G:
            fields[limit_name] = limit | _LOW_LIMIT
        elif partial:
            fields[limit_name] = limit & ~_HIGH_LIMIT
        else:
            fields[rights_name] |= AccessRights.G
    elif partial:
        fields[rights_name] &= ~AccessRights.G


def _task_register(draft: Draft) -> None:
    vmcs = draft.vmcs
    vmcs.guest_tr_selector &= ~Selector.TI
    vmcs.guest_tr_base = draft.canonical(vmcs.guest_tr_base)
    rights = vmcs.guest_tr_ar_bytes
    task = (
        SegmentType.BUSY_32_TSS
        if draft.ia32e or rights & SegmentType.CODE
        else SegmentType.BUSY_16_TSS
    )
    cleared = AccessRights.TYPE | AccessRights.S | AccessRights.RESERVED | AccessRights.UNUSABLE
    vmcs.guest_tr_ar_bytes = rights & ~cleared | AccessRights.P | task
    _granularity(draft, "tr")


def _ldtr(draft: Draft) -> None:
    vmcs = draft.vmcs
    rights = vmcs.guest_ldtr_ar_bytes
    if rights & AccessRights.UNUSABLE:
        return
    vmcs.guest_ldtr_selector &= ~Selector.TI
    vmcs.guest_ldtr_base = draft.canonical(vmcs.guest_ldtr_base)
    cleared = AccessRights.TYPE | AccessRights.S | AccessRights.RESERVED
    vmcs.guest_ldtr_ar_bytes = rights & ~cleared | AccessRights.P | SegmentType.LDT
    _granularity(draft, "ldtr")


def _descriptor_tables(draft: Draft) -> None:
    vmcs = draft.vmcs
    vmcs.guest_gdtr_base = draft.canonical(vmcs.guest_gdtr_base)
    vmcs.guest_idtr_base = draft.canonical(vmcs.guest_idtr_base)
    vmcs.guest_gdtr_limit &= 0xFFFF
    vmcs.guest_idtr_limit &= 0xFFFF
