# SPDX-License-Identifier: GPL-2.0-only
"""Guest state of the bases: one function a kind of guest. SDM: "Checks on the Guest State Area"."""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.registers import Cr0, Cr4, Rflags
from nvmxfuzz.arch.segments import SEGMENTS
from nvmxfuzz.inputs import places
from nvmxfuzz.machine.profile import Profile

EFER_64: Final = 0xD01
"""SCE, LME, LMA and NXE."""

_CR0_PAGING = 0x8005_0033
_CR0_REAL = Cr0.ET | Cr0.NE
_FLAT = 0xFFFF_FFFF
_DATA_32 = 0xC093
_CODE_32 = 0xC09B
_CODE_64 = 0xA09B
_CODE_16 = 0x9B
_DATA_16 = 0x93
_V86 = 0xF3
_BUSY_TSS = 0x8B
_LDT = 0x82
_V86_PARAGRAPH = 0x100

_COMMON: Final = {
    "guest_cr3": places.GUEST_PAGE_TABLE,
    "guest_gdtr_base": 0x5000,
    "guest_gdtr_limit": 0x7F,
    "guest_idtr_base": 0x6000,
    "guest_idtr_limit": 0xFFF,
    "guest_dr7": 0x400,
    "guest_rflags": Rflags.FIXED1 + 0,
    "guest_rsp": 0x7000,
    "guest_rip": 0x7C00,
    "guest_sysenter_cs": 0x10,
    "guest_sysenter_esp": 0x6000,
    "guest_sysenter_eip": 0x7000,
}


def guest(name: str, profile: Profile) -> dict[str, int]:
    """Return the guest-state fields of the base `name` on `profile`."""
    match name:
        case "guest-64":
            return _protected(profile, _CODE_64, Cr4.PAE) | {"guest_ia32_efer": EFER_64}
        case "guest-pae":
            return _protected(profile, _CODE_32, Cr4.PAE) | {"guest_cr3": places.PDPTES}
        case "guest-real":
            return _real(profile)
        case "guest-v86":
            return _virtual_8086(profile)
        case _:
            return _protected(profile, _CODE_32, Cr4.PSE)


def _protected(profile: Profile, code: int, cr4: int) -> dict[str, int]:
    """Return flat segments under paging."""
    state = dict(_COMMON)
    for name in SEGMENTS[:6]:
        access = code if name == "cs" else _DATA_32
        state |= _segment(name, 0x10 if name == "cs" else 0x18, 0, (_FLAT, access))
    return state | _system_segments() | _control_registers(profile, _CR0_PAGING, cr4)


def _real(profile: Profile) -> dict[str, int]:
    """Return real-address mode, which only an unrestricted guest has."""
    state = dict(_COMMON)
    for name in SEGMENTS[:6]:
        state |= _segment(name, 0, 0, (0xFFFF, _CODE_16 if name == "cs" else _DATA_16))
    state |= _system_segments() | _control_registers(profile, _CR0_REAL, 0)
    return state | {"guest_cr0": state["guest_cr0"] & ~(Cr0.PE | Cr0.PG)}


def _virtual_8086(profile: Profile) -> dict[str, int]:
    """Return virtual-8086 mode under 32-bit paging."""
    state = dict(_COMMON)
    for name in SEGMENTS[:6]:
        state |= _segment(name, _V86_PARAGRAPH, _V86_PARAGRAPH << 4, (0xFFFF, _V86))
    state |= _system_segments() | _control_registers(profile, _CR0_PAGING, Cr4.PSE)
    return state | {"guest_rflags": Rflags.FIXED1 | Rflags.VM}


def _system_segments() -> dict[str, int]:
    return _segment("ldtr", 0x30, 0x8000, (0xFFFF, _LDT)) | _segment(
        "tr", 0x40, 0x9000, (0x67, _BUSY_TSS)
    )


def _segment(name: str, selector: int, start: int, descriptor: tuple[int, int]) -> dict[str, int]:
    limit, access = descriptor
    return {
        f"guest_{name}_selector": selector,
        f"guest_{name}_base": start,
        f"guest_{name}_limit": limit,
        f"guest_{name}_ar_bytes": access,
    }


def _control_registers(profile: Profile, cr0: int, cr4: int) -> dict[str, int]:
    caps = profile.caps
    return {
        "guest_cr0": (cr0 | caps.cr0_fixed0) & caps.cr0_fixed1,
        "guest_cr4": (cr4 | caps.cr4_fixed0) & caps.cr4_fixed1,
    }
