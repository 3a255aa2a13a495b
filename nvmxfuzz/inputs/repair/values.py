# SPDX-License-Identifier: GPL-2.0-only
"""Legal values nearest to a given one, for registers that host and guest share."""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.registers import Cr0, Cr3, Efer, FredConfig, Pat, SCet
from nvmxfuzz.inputs.repair.draft import Draft, DraftVmcs

_BYTE_ONES: Final = 0x0101_0101_0101_0101
NEVER_CHECKED: Final = Cr0.NW | Cr0.CD
"""Bits of CR0 that VM entry and VM exit do not change, and so do not check."""

_MASKING: Final = Cr3.LAM_U48 | Cr3.LAM_U57
_FRED_RSP: Final = ("ia32_fred_rsp1", "ia32_fred_rsp2", "ia32_fred_rsp3")
_FRED_SSP: Final = ("ia32_fred_ssp1", "ia32_fred_ssp2", "ia32_fred_ssp3")


def pat_of(value: int) -> int:
    """Return a PAT whose eight bytes are memory types: the types 2 and 3 become 0 and 1."""
    value &= ~Pat.RESERVED
    two_or_three = value >> 1 & ~(value >> 2) & _BYTE_ONES
    return value & ~(two_or_three << 1)


def efer_of(draft: Draft, value: int) -> int:
    """Return an EFER without the bits that the processor reserves."""
    value &= ~Efer.RESERVED
    if "nx" not in draft.profile.features:
        value &= ~Efer.NXE
    if not draft.long_mode:
        value &= ~(Efer.SCE | Efer.LME | Efer.LMA)
    return value


def cr3_of(draft: Draft, value: int) -> int:
    """Return a CR3 within the physical-address width, and with masking where that exists."""
    reserved = draft.caps.physical_reserved
    return value & ~(reserved & ~_MASKING if "lam" in draft.profile.features else reserved)


def s_cet_of(draft: Draft, value: int) -> int:
    """Return an S_CET without reserved bits, and not both suppressed and tracking."""
    value &= ~SCet.RESERVED
    features = draft.profile.features
    if "cet-ss" not in features:
        value &= ~(SCet.SH_STK_EN | SCet.WR_SHSTK_EN)
    if "cet-ibt" not in features:
        value &= SCet.SH_STK_EN | SCet.WR_SHSTK_EN
    if value & SCet.SUPPRESS and value & SCet.TRACKER:
        value &= ~SCet.SUPPRESS
    return value


def masked(value: int, implemented: int | None) -> int:
    """Return `value` with only the bits that the processor has; unknown bits are not risked."""
    return value & (implemented or 0)


def settle_fred(draft: Draft, vmcs: DraftVmcs, owner: str) -> None:
    """Make the FRED MSRs of `owner`, guest or host, loadable."""
    fields = vmcs.__dict__
    name = owner + "_ia32_fred_config"
    fields[name] = draft.canonical(fields[name] & ~FredConfig.RESERVED)
    for register in _FRED_RSP:
        name = f"{owner}_{register}"
        fields[name] = draft.canonical(fields[name] & ~0x3F)
    for register in _FRED_SSP:
        name = f"{owner}_{register}"
        fields[name] = draft.canonical(fields[name] & ~7)
