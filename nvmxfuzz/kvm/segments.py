# SPDX-License-Identifier: GPL-2.0-only
"""struct kvm_segment, and real-address mode where KVM cannot use unrestricted guest.

vmx/vmx.c. Without unrestricted guest, a guest without protection runs in virtual-8086 mode: what it
believes its segments and flags to be is kept aside in `RealMode`, and the VMCS has others. Nobody
sees CR4.VME, which is not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.arch.segments import AccessRights

if TYPE_CHECKING:
    from nvmxfuzz.kvm.vcpu import Vcpu

_UNUSABLE: Final = int(AccessRights.UNUSABLE)
_CHANGED: Final = ("cs", "ss", "es", "ds", "fs", "gs")
"""Segments that virtual-8086 mode has otherwise."""
_DATA_ACCESSED: Final = 3
_TSS_LIMIT: Final = 0x2088
_BUSY_TSS: Final = 0x8B
_VIRTUAL_8086: Final = Rflags.IOPL | Rflags.VM


@dataclass(slots=True)
class Segment:
    """struct kvm_segment; numbers are as wide as there, a flag is 0 or 1."""

    base: int = 0
    limit: int = 0
    selector: int = 0
    type: int = 0
    present: int = 0
    dpl: int = 0
    db: int = 0
    s: int = 0
    l: int = 0  # noqa: E741 # the structure's name for it
    g: int = 0
    avl: int = 0
    unusable: int = 0


@dataclass(slots=True)
class RealMode:
    """vmx->rmode while vm86_active: TR too is what the guest had in protected mode."""

    segments: dict[str, Segment] = field(default_factory=dict)


def is_unrestricted_guest(vcpu: Vcpu) -> bool:
    """Whether the guest that the loaded VMCS runs needs no protection or paging."""
    if not vcpu.params.unrestricted_guest:
        return False
    return not vcpu.guest_mode or (
        vcpu.vmcs["secondary_vm_exec_control"] & Secondary.UNRESTRICTED_GUEST != 0
    )


def read_segment(vcpu: Vcpu, name: str) -> Segment:
    """vmx_get_segment(): a segment as the guest has it; a usable one is always present."""
    vmcs = vcpu.vmcs
    if vcpu.rmode is not None and name != "ldtr":
        kept = replace(vcpu.rmode.segments[name])
        if name != "tr" and kept.selector != vmcs[f"guest_{name}_selector"]:
            kept.base = vmcs[f"guest_{name}_base"]
            kept.selector = vmcs[f"guest_{name}_selector"]
        return kept
    return segment_of(
        vmcs[f"guest_{name}_selector"],
        (
            vmcs[f"guest_{name}_base"],
            vmcs[f"guest_{name}_limit"],
            vmcs[f"guest_{name}_ar_bytes"],
        ),
    )


def segment_of(selector: int, values: tuple[int, int, int]) -> Segment:
    """Return a segment from its selector and (base, limit, access rights)."""
    base, limit, rights = values
    unusable = rights >> 16 & 1
    return Segment(
        base=base,
        limit=limit,
        selector=selector,
        type=rights & 0xF,
        present=1 - unusable,
        dpl=rights >> 5 & 3,
        db=rights >> 14 & 1,
        s=rights >> 4 & 1,
        l=rights >> 13 & 1,
        g=rights >> 15 & 1,
        avl=rights >> 12 & 1,
        unusable=unusable,
    )


def vmx_segment_access_rights(segment: Segment) -> int:
    """Return access rights as a VMCS has them; what is not present is unusable."""
    return (
        segment.type & 0xF
        | (segment.s & 1) << 4
        | (segment.dpl & 3) << 5
        | (segment.present & 1) << 7
        | (segment.avl & 1) << 12
        | (segment.l & 1) << 13
        | (segment.db & 1) << 14
        | (segment.g & 1) << 15
        | (_UNUSABLE if segment.unusable or not segment.present else 0)
    )


def write_segment(vcpu: Vcpu, name: str, segment: Segment) -> None:
    """__vmx_set_segment()."""
    vmcs = vcpu.vmcs
    if vcpu.rmode is not None and name != "ldtr":
        vcpu.rmode.segments[name] = replace(segment)
        if name == "tr":
            vmcs["guest_tr_selector"] = segment.selector & 0xFFFF
        elif segment.s:
            fix_rmode_seg(vcpu, name)
        return
    rights = vmx_segment_access_rights(segment)
    if is_unrestricted_guest(vcpu) and name != "ldtr":
        rights |= 1
    _put(vmcs, name, segment, rights)


def _put(vmcs: dict[str, int], name: str, segment: Segment, rights: int) -> None:
    vmcs[f"guest_{name}_base"] = segment.base
    vmcs[f"guest_{name}_limit"] = segment.limit & 0xFFFF_FFFF
    vmcs[f"guest_{name}_selector"] = segment.selector & 0xFFFF
    vmcs[f"guest_{name}_ar_bytes"] = rights


def fix_rmode_seg(vcpu: Vcpu, name: str) -> None:
    """Have a segment in the VMCS as virtual-8086 mode allows it, as far as KVM takes care."""
    assert vcpu.rmode is not None
    kept = vcpu.rmode.segments[name]
    changed = replace(kept, dpl=3, type=_DATA_ACCESSED if name == "cs" else kept.type)
    _put(vcpu.vmcs, name, kept, vmx_segment_access_rights(changed))


def enter_rmode(vcpu: Vcpu) -> None:
    """CR0.PE was cleared, and the processor cannot do without: virtual-8086 mode it is."""
    if vcpu.guest_mode:
        vcpu.warn("enter_rmode.guest_mode")
    segments = {name: read_segment(vcpu, name) for name in ("tr", *_CHANGED)}
    vcpu.rmode = RealMode(segments)
    vcpu.vmcs["guest_tr_base"] = vcpu.kvm.places.rmode_tss
    vcpu.vmcs["guest_tr_limit"], vcpu.vmcs["guest_tr_ar_bytes"] = _TSS_LIMIT, _BUSY_TSS
    vcpu.vmcs["guest_rflags"] = vcpu.rflags | _VIRTUAL_8086
    for name in _CHANGED:
        fix_rmode_seg(vcpu, name)


def enter_pmode(vcpu: Vcpu) -> None:
    """CR0.PE was set: the loaded VMCS, whichever it is, gets what was kept aside."""
    assert vcpu.rmode is not None
    segments = {name: read_segment(vcpu, name) for name in ("tr", *_CHANGED)}
    vcpu.rmode = None
    vcpu.vmcs["guest_rflags"] = vcpu.rflags
    for name, segment in segments.items():
        write_segment(vcpu, name, segment)


def hardware_rflags(vcpu: Vcpu, rflags: int) -> int:
    """Return what the VMCS has as RFLAGS for a guest that has `rflags`."""
    return rflags if vcpu.rmode is None else rflags | _VIRTUAL_8086
