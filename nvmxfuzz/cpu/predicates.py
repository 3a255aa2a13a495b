# SPDX-License-Identifier: GPL-2.0-only
"""Helper predicates of the rules: what several of them ask of one number.

Each is one expression over integers, of the kind a rule's body is made of.
"""

from __future__ import annotations

from nvmxfuzz.arch.registers import Cr3, Efer, SCet
from nvmxfuzz.cpu.rule import UNKNOWN, Verdict

_LAM = Cr3.LAM_U48 | Cr3.LAM_U57
_EFER_LONG_MODE = Efer.SCE | Efer.LME | Efer.LMA
_S_CET_SHADOW_STACK = SCet.SH_STK_EN | SCet.WR_SHSTK_EN
_S_CET_BRANCH_TRACKING = (
    SCet.ENDBR_EN
    | SCet.LEG_IW_EN
    | SCet.NO_TRACK_EN
    | SCet.SUPPRESS_DIS
    | SCet.SUPPRESS
    | SCet.TRACKER
    | SCet.EB_LEG_BITMAP_BASE
)


def canonical(address: int, bits: int) -> bool:
    """Return True if a 64-bit address is canonical at `bits` bits: bits 63:bits-1 are equal."""
    return (address + (1 << bits - 1) & 0xFFFF_FFFF_FFFF_FFFF) >> bits == 0


def page_aligned(address: int) -> bool:
    """Return True if bits 11:0 of an address are 0."""
    return address & 0xFFF == 0


def aligned(address: int, size: int) -> bool:
    """Return True if an address is a multiple of `size`, a power of two in bytes."""
    return address & size - 1 == 0


def fits_in_32_bits(value: int) -> bool:
    """Return True if bits 63:32 of a value are 0."""
    return value >> 32 == 0


def only_bits(value: int, allowed: int) -> bool:
    """Return True if a value sets no bit outside the mask `allowed`."""
    return value & ~allowed == 0


def only_known_bits(value: int, implemented: int | None, defined: int) -> Verdict:
    """Return True if a value sets no reserved bit of a register that varies by processor.

    `implemented` is the mask of the bits this processor has, None if the profile does not say;
    `defined` the mask of those that any processor has. 0 is legal everywhere.
    """
    return (
        value & ~implemented == 0
        if implemented is not None
        else True
        if value == 0
        else False
        if value & ~defined
        else UNKNOWN
    )


def pat_memory_types(pat: int) -> bool:
    """Return True if each of the eight bytes of a PAT is 0, 1, 4, 5, 6 or 7."""
    return (pat & 0xF8F8_F8F8_F8F8_F8F8 | pat >> 1 & ~(pat >> 2) & 0x0101_0101_0101_0101) == 0


def cr3_address_fits(cr3: int, reserved: int) -> bool:
    """Return True if a CR3 sets no bit of `reserved`, its two bits of address masking aside."""
    return cr3 & reserved & ~_LAM == 0


def efer_bits(efer: int, features: frozenset[str]) -> bool:
    """Return True if an IA32_EFER sets no bit that is reserved on a processor with `features`."""
    return (
        efer
        & (
            Efer.RESERVED
            | (0 if "nx" in features else Efer.NXE)
            | (0 if "long-mode" in features else _EFER_LONG_MODE)
        )
        == 0
    )


def s_cet_bits(s_cet: int, features: frozenset[str]) -> bool:
    """Return True if an IA32_S_CET sets no bit that is reserved on a processor with `features`."""
    return (
        s_cet
        & (
            SCet.RESERVED
            | (0 if "cet-ss" in features else _S_CET_SHADOW_STACK)
            | (0 if "cet-ibt" in features else _S_CET_BRANCH_TRACKING)
        )
        == 0
    )


def s_cet_suppresses_or_waits(s_cet: int) -> bool:
    """Return True if an IA32_S_CET has SUPPRESS and TRACKER not both 1."""
    return s_cet & (SCet.SUPPRESS | SCet.TRACKER) != SCet.SUPPRESS | SCet.TRACKER


def last_msr_entry_byte(address: int, count: int) -> int:
    """Return the address of the last byte of an MSR area, as a number that does not wrap around."""
    return address + count * 16 - 1
