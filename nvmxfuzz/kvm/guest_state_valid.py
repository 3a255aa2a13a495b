# SPDX-License-Identifier: GPL-2.0-only
"""vmx_guest_state_valid(): whether the segments in the loaded VMCS are ones VM entry would load.

vmx/vmx.c. It is how KVM finds out that hardware cannot run a guest without unrestricted guest; at
a nested VM entry it is the only software check of L2's segments, and it is not asked at all where
L2 is an unrestricted guest. Bases, limits and reserved bits are not looked at outside real mode.
"""

from __future__ import annotations

from collections.abc import Mapping

from nvmxfuzz.arch.registers import Cr0, Rflags
from nvmxfuzz.arch.segments import AccessRights, SegmentType

_UNUSABLE = int(AccessRights.UNUSABLE)
_S = int(AccessRights.S)
_TI = 4
_CODE_ACCESSED = SegmentType.CODE | SegmentType.ACCESSED
_CODE_CONFORMING = SegmentType.CODE | SegmentType.CONFORMING
_REAL_MODE_RIGHTS = 0xF3
_RIGHTS_SEEN = 0xF01F
"""Type, S, AVL, L, DB and G; P is taken from the unusable bit, the DPL forced to 3."""
_DPL_3 = 3 << 5
_P = 1 << 7


def guest_segments_valid(vmcs: Mapping[str, int], cr0: int, rflags: int) -> bool:
    """Return __vmx_guest_state_valid() for a guest with these registers and the VMCS's segments.

    KVM reads each segment through struct kvm_segment, in which a usable one is always present and
    bits 11:8 and 31:17 of the access rights do not exist.
    """
    if not cr0 & Cr0.PE or rflags & Rflags.VM:
        return all(rmode_segment_valid(vmcs, name) for name in ("cs", "ss", "ds", "es", "fs", "gs"))
    return (
        cs_ss_rpl_check(vmcs)
        and code_segment_valid(vmcs)
        and stack_segment_valid(vmcs)
        and data_segment_valid(vmcs, "ds")
        and data_segment_valid(vmcs, "es")
        and data_segment_valid(vmcs, "fs")
        and data_segment_valid(vmcs, "gs")
        and tr_valid(vmcs)
        and ldtr_valid(vmcs)
    )


def rmode_segment_valid(vmcs: Mapping[str, int], name: str) -> bool:
    """Base, limit and rights are what real mode and virtual-8086 mode give a segment."""
    rights = vmcs[f"guest_{name}_ar_bytes"]
    if rights & _UNUSABLE:
        return False
    seen = rights & _RIGHTS_SEEN | _DPL_3 | _P
    if name == "cs":
        seen = seen & ~0xF | SegmentType.DATA_ACCESSED
    return (
        vmcs[f"guest_{name}_base"] == vmcs[f"guest_{name}_selector"] << 4
        and vmcs[f"guest_{name}_limit"] == 0xFFFF
        and seen == _REAL_MODE_RIGHTS
    )


def cs_ss_rpl_check(vmcs: Mapping[str, int]) -> bool:
    """CS and SS have the same RPL."""
    return (vmcs["guest_cs_selector"] ^ vmcs["guest_ss_selector"]) & 3 == 0


def code_segment_valid(vmcs: Mapping[str, int]) -> bool:
    """CS is usable, accessed code with a DPL that fits its RPL."""
    rights = vmcs["guest_cs_ar_bytes"]
    if rights & _UNUSABLE or ~rights & _CODE_ACCESSED or not rights & _S:
        return False
    dpl = rights >> 5 & 3
    rpl = vmcs["guest_cs_selector"] & 3
    return dpl <= rpl if rights & SegmentType.CONFORMING else dpl == rpl


def stack_segment_valid(vmcs: Mapping[str, int]) -> bool:
    """SS is unusable, or writable accessed data whose DPL is its RPL."""
    rights = vmcs["guest_ss_ar_bytes"]
    if rights & _UNUSABLE:
        return True
    if rights & 0xB != SegmentType.DATA_ACCESSED or not rights & _S:
        return False
    return rights >> 5 & 3 == vmcs["guest_ss_selector"] & 3


def data_segment_valid(vmcs: Mapping[str, int], name: str) -> bool:
    """The segment is unusable, or code or data; unless conforming, its DPL is at least its RPL."""
    rights = vmcs[f"guest_{name}_ar_bytes"]
    if rights & _UNUSABLE:
        return True
    if not rights & _S:
        return False
    if ~rights & _CODE_CONFORMING:
        return rights >> 5 & 3 >= vmcs[f"guest_{name}_selector"] & 3
    return True


def tr_valid(vmcs: Mapping[str, int]) -> bool:
    """TR is a busy TSS of the GDT, of either kind whatever the mode."""
    rights = vmcs["guest_tr_ar_bytes"]
    if rights & _UNUSABLE or vmcs["guest_tr_selector"] & _TI:
        return False
    return rights & 0xF in (SegmentType.BUSY_16_TSS, SegmentType.BUSY_32_TSS)


def ldtr_valid(vmcs: Mapping[str, int]) -> bool:
    """LDTR is unusable, or an LDT of the GDT."""
    rights = vmcs["guest_ldtr_ar_bytes"]
    if rights & _UNUSABLE:
        return True
    return not vmcs["guest_ldtr_selector"] & _TI and rights & 0xF == SegmentType.LDT
