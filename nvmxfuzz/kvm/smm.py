# SPDX-License-Identifier: GPL-2.0-only
"""enter_smm(), vmx_enter_smm() and RSM: system-management mode under KVM's default treatment.

smm.c of 6.12, x86.c and emulate.c of 6.1, vmx/vmx.c. The save area is that of AMD64, on Intel too.
L2 is left for L1 without a trace, and entered again behind L1's back: by the routines of VM exit
and VM entry, although neither is what an SMI does.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from nvmxfuzz.arch.msr import MSR_EFER
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags
from nvmxfuzz.kvm.msrs import kvm_set_msr
from nvmxfuzz.kvm.nested_state import restore_l2
from nvmxfuzz.kvm.nested_vmexit import nested_vmx_vmexit, vmx_leave_nested
from nvmxfuzz.kvm.segments import Segment
from nvmxfuzz.kvm.set_registers import (
    kvm_set_cr0,
    kvm_set_cr3,
    kvm_set_cr4,
    kvm_set_rflags,
    set_cr0,
    vmx_get_segment,
    vmx_set_segment,
)
from nvmxfuzz.kvm.vcpu_events import INTERRUPT_SHADOW, NotModelledError
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx, begin_entry, is_64_bit_mode
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmx_registers import kvm_set_dr7, vmx_set_cr4, vmx_set_efer

SAVE_AREA: Final = 0xFE00
"""Offset from SMBASE of the 512 bytes that KVM saves and restores."""
HANDLER: Final = 0x8000
"""Offset from SMBASE at which SMM begins."""

_SIZE: Final = 512
_REVISION: Final = 0x0002_0064
_NMI: Final = 8
_SEGMENTS: Final[Mapping[str, int]] = MappingProxyType(
    {
        **{name: 16 * number for number, name in enumerate(("es", "cs", "ss", "ds", "fs", "gs"))},
        "ldtr": 0x70,
        "tr": 0x90,
    }
)
_TABLES: Final[Mapping[str, int]] = MappingProxyType({"gdtr": 0x60, "idtr": 0x80})
_GPRS: Final = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *(f"r{number}" for number in range(8, 16)),
)
_INT_SHADOW: Final = 0xCB
_EFER: Final = 0xD0
_SMM_REVISION: Final = 0xFC
_SMBASE: Final = 0x100
_CR4, _CR3, _CR0, _DR7, _DR6, _RFLAGS, _RIP = (0x148 + 8 * number for number in range(7))
_RAX: Final = 0x1F8
_QUAD = struct.Struct("<Q")
_WORD = struct.Struct("<I")
_SEGMENT = struct.Struct("<HHIQ")


# ---------------------------------------------------------------------- SMI


def enter_smm(vmx: VcpuVmx) -> None:
    """An SMI is taken: save what runs, leave VMX operation aside, begin in real mode."""
    vcpu = vmx.vcpu
    if "long-mode" not in vcpu.virtual.features:
        raise NotModelledError("SMM of a vCPU without long mode")
    saved = enter_smm_save_state_64(vmx)
    vmx_enter_smm(vmx)
    vmx.in_smm = True
    written = vcpu.memory.write(vmx.smbase + SAVE_AREA & ALL_ONES, saved)
    if not written and vcpu.behaviour.has_smm_file:
        raise NotModelledError("SMRAM that is not there, of which the VM dies")
    if vcpu.vmcs["guest_interruptibility_info"] & _NMI:
        vmx.smm_inside_nmi = True
    else:
        vcpu.vmcs["guest_interruptibility_info"] |= _NMI
    kvm_set_rflags(vmx, int(Rflags.FIXED1))
    vcpu.rip = HANDLER
    if vcpu.behaviour.has_smm_file:
        vcpu.vmcs["guest_interruptibility_info"] &= ~3
    set_cr0(vmx, vcpu.cr0 & ~(Cr0.PE | Cr0.EM | Cr0.TS | Cr0.PG))
    vmx_set_cr4(vcpu, 0)
    vcpu.vmcs["guest_idtr_base"] = vcpu.vmcs["guest_idtr_limit"] = 0
    kvm_set_dr7(vcpu, 0x400)
    flat = {"limit": 0xFFFF_FFFF, "type": 3, "s": 1, "g": 1, "present": 1}
    code = Segment(base=vmx.smbase, selector=vmx.smbase >> 4 & 0xFFFF, **flat)
    vmx_set_segment(vmx, "cs", code)
    for name in ("ds", "es", "fs", "gs", "ss"):
        vmx_set_segment(vmx, name, Segment(**flat))
    vmx_set_efer(vcpu, 0)


def vmx_enter_smm(vmx: VcpuVmx) -> None:
    """Keep aside whether L1 is in VMX operation, and L2 active; neither is in SMM."""
    nested = vmx.nested
    nested.smm_guest_mode = vmx.vcpu.guest_mode
    if nested.smm_guest_mode:
        nested_vmx_vmexit(vmx, None)
    nested.smm_vmxon = nested.vmxon
    nested.vmxon = False


def enter_smm_save_state_64(vmx: VcpuVmx) -> bytes:
    """Return the save area of the guest that runs, L2's if that is active."""
    vcpu, vmcs = vmx.vcpu, vmx.vcpu.vmcs
    area = bytearray(_SIZE)
    for number, name in enumerate(_GPRS):
        _QUAD.pack_into(area, _RAX - 8 * number, _gpr(vmx, name))
    for at, value in (
        (_RIP, vcpu.rip),
        (_RFLAGS, vcpu.rflags),
        (_DR6, vmx.dr6),
        (_DR7, vcpu.dr7),
        (_CR0, vcpu.cr0),
        (_CR3, vcpu.cr3),
        (_CR4, vcpu.cr4),
        (_EFER, vcpu.efer),
    ):
        _QUAD.pack_into(area, at, value)
    _WORD.pack_into(area, _SMBASE, vmx.smbase & 0xFFFF_FFFF)
    _WORD.pack_into(area, _SMM_REVISION, _REVISION)
    for name, at in _SEGMENTS.items():
        segment = vmx_get_segment(vmx, name)
        rights = _segment_flags(segment)
        _SEGMENT.pack_into(area, at, segment.selector, rights, segment.limit, segment.base)
    for name, at in _TABLES.items():
        _SEGMENT.pack_into(area, at, 0, 0, vmcs[f"guest_{name}_limit"], vmcs[f"guest_{name}_base"])
    if vcpu.behaviour.has_smm_file:
        area[_INT_SHADOW] = interrupt_shadow(vmx)
    return bytes(area)


def _segment_flags(segment: Segment) -> int:
    """enter_smm_get_segment_flags(): userspace's flags may be of more bits, which run over."""
    return (
        segment.g << 15
        | segment.db << 14
        | segment.l << 13
        | segment.avl << 12
        | segment.present << 7
        | segment.dpl << 5
        | segment.s << 4
        | segment.type
    ) & 0xFFFF


def interrupt_shadow(vmx: VcpuVmx) -> int:
    """Return blocking by MOV SS (1) and by STI (2), as KVM's interface has them."""
    info = vmx.vcpu.vmcs["guest_interruptibility_info"]
    return info >> 1 & 1 | (info & 1) << 1


def _gpr(vmx: VcpuVmx, name: str) -> int:
    return vmx.vcpu.rsp if name == "rsp" else vmx.gprs[name]


# ---------------------------------------------------------------------- RSM


def em_rsm(vmx: VcpuVmx) -> bool:
    """RSM, which KVM emulates; a failure is a triple fault of whoever is left running.

    False where the emulator fails: it has no mode to go on in, L1 being without a code segment, or
    no SMRAM. What it has loaded straight into the vCPU stays.
    """
    vcpu = vmx.vcpu
    reachable = vcpu.memory.read(vmx.smbase + SAVE_AREA, _SIZE) is not None
    if not reachable and not vcpu.behaviour.has_smm_file:
        return False
    emulated, in_64_bit_mode = _Emulated.of(vmx), is_64_bit_mode(vmx)
    left = emulator_leave_smm(vmx, emulated)
    if not left:
        vmx.events.triple_fault = True
    fails = (left or vcpu.behaviour.has_smm_file) and not _has_mode(vmx, emulated.rflags)
    loads_shadow = left and vcpu.behaviour.has_smm_file
    if fails == loads_shadow:
        # Either the emulator ends the shadow with the instruction, or it fails to load another.
        vcpu.vmcs["guest_interruptibility_info"] &= ~INTERRUPT_SHADOW
    if fails:
        return False
    if left or vcpu.behaviour.has_smm_file:
        in_64_bit_mode = is_64_bit_mode(vmx)
    if not in_64_bit_mode:
        emulated.rip &= 0xFFFF_FFFF
    emulated.write_back(vmx)
    return True


@dataclass(slots=True)
class _Emulated:
    """Registers that the emulator holds itself, and writes to the vCPU when it does not fail.

    A VM entry on the way gives the vCPU those of L2, which stay where it does.
    """

    gprs: dict[str, int]
    rsp: int
    rip: int
    rflags: int

    @classmethod
    def of(cls, vmx: VcpuVmx) -> _Emulated:
        """What it holds when RSM is decoded, which has two bytes."""
        vcpu = vmx.vcpu
        return cls({}, vcpu.rsp, vcpu.rip + 2, vcpu.rflags & ~Rflags.RF)

    def write_back(self, vmx: VcpuVmx) -> None:
        vmx.gprs.update(self.gprs)
        vmx.vcpu.rsp, vmx.vcpu.rip = self.rsp, self.rip
        kvm_set_rflags(vmx, self.rflags)


def _has_mode(vmx: VcpuVmx, rflags: int) -> bool:
    """emulator_recalc_and_set_mode(): whether the emulator knows what mode the vCPU is in."""
    vcpu = vmx.vcpu
    if not vcpu.cr0 & Cr0.PE or rflags & Rflags.VM:
        return not vcpu.efer & Efer.LMA
    return not vmx_get_segment(vmx, "cs").unusable


def emulator_leave_smm(vmx: VcpuVmx, emulated: _Emulated) -> bool:
    """Leave SMM for what the save area says; False where that cannot be."""
    vcpu = vmx.vcpu
    area = vcpu.memory.read(vmx.smbase + SAVE_AREA, _SIZE)
    if area is None:
        return False
    if not vmx.smm_inside_nmi:
        vcpu.vmcs["guest_interruptibility_info"] &= ~_NMI
    vmx.in_smm = vmx.smm_inside_nmi = vmx.pdptrs_from_userspace = False
    if vcpu.cr4 & Cr4.PCIDE:
        kvm_set_cr4(vmx, vcpu.cr4 & ~Cr4.PCIDE)
    limit = 0 if vcpu.behaviour.has_smm_file else 0xFFF
    vmx_set_segment(vmx, "cs", Segment(type=0xB, s=1, g=1, present=1, limit=limit))
    if vcpu.cr0 & Cr0.PE:
        kvm_set_cr0(vmx, vcpu.cr0 & ~(Cr0.PG | Cr0.PE))
    if vcpu.cr4 & Cr4.PAE:
        kvm_set_cr4(vmx, vcpu.cr4 & ~Cr4.PAE)
    kvm_set_msr(vcpu, MSR_EFER, 0)
    if not vmx_leave_smm(vmx):
        return False
    loaded = rsm_load_state_64(vmx, area, emulated)
    if not loaded and vcpu.guest_mode and vcpu.behaviour.has_smm_file:
        # L1 shuts down, but what the emulator writes back last is of L2.
        vmx_leave_nested(vmx)
    return loaded


def vmx_leave_smm(vmx: VcpuVmx) -> bool:
    """Go on with VMX operation, and with L2, of which VM entry is pending then."""
    nested = vmx.nested
    if nested.smm_vmxon:
        nested.vmxon, nested.smm_vmxon = True, False
    if nested.smm_guest_mode:
        if not nested.vmxon or nested.current_vmptr == ALL_ONES:
            raise NotModelledError("an L2 that KVM has freed, and enters")
        begin_entry(vmx, launch=False)
        if restore_l2(vmx):
            return False
        vmx.nested.nested_run_pending = vmx.vcpu.nested_run_pending = True
        vmx.nested.smm_guest_mode = False
    return True


def rsm_load_state_64(vmx: VcpuVmx, area: bytes, emulated: _Emulated) -> bool:
    """Load the save area; False where a register cannot be what it says."""
    vcpu = vmx.vcpu
    for number, name in enumerate(_GPRS):
        value = _quad(area, _RAX - 8 * number)
        if name == "rsp":
            emulated.rsp = value
        else:
            emulated.gprs[name] = value
    emulated.rip = _quad(area, _RIP)
    rflags = _quad(area, _RFLAGS) | Rflags.FIXED1
    emulated.rflags = rflags if vcpu.behaviour.has_smm_file else rflags & 0xFFFF_FFFF
    if _quad(area, _DR6) >> 32:
        return False
    vmx.dr6 = _quad(area, _DR6) & 0xEFFF | 0xFFFE_0FF0 | _quad(area, _DR6) & 1 << 16
    if _quad(area, _DR7) >> 32:
        return False
    kvm_set_dr7(vcpu, _quad(area, _DR7))
    vmx.smbase = _WORD.unpack_from(area, _SMBASE)[0]
    if not kvm_set_msr(vcpu, MSR_EFER, _quad(area, _EFER) & ~Efer.LMA):
        return False
    _load_segment(vmx, area, "tr")
    _load_table(vmx, area, "idtr")
    _load_segment(vmx, area, "ldtr")
    _load_table(vmx, area, "gdtr")
    if not _rsm_enter_protected_mode(vmx, area):
        return False
    for name in ("es", "cs", "ss", "ds", "fs", "gs"):
        _load_segment(vmx, area, name)
    if vcpu.behaviour.has_smm_file:
        shadow = area[_INT_SHADOW]
        info = vcpu.vmcs["guest_interruptibility_info"] & ~3
        if shadow & 1:
            info |= 2
        elif shadow & 2:
            info |= 1
        vcpu.vmcs["guest_interruptibility_info"] = info
    return True


def _rsm_enter_protected_mode(vmx: VcpuVmx, area: bytes) -> bool:
    cr0, cr3, cr4 = (_quad(area, at) for at in (_CR0, _CR3, _CR4))
    if not vmx.vcpu.behaviour.has_smm_file:
        # The emulator takes 32 bits of these two.
        cr0, cr4 = cr0 & 0xFFFF_FFFF, cr4 & 0xFFFF_FFFF
    pcid = cr3 & 0xFFF if cr4 & Cr4.PCIDE else 0
    cr3 &= ~pcid
    loaded = kvm_set_cr3(vmx, cr3) and kvm_set_cr4(vmx, cr4 & ~Cr4.PCIDE) and kvm_set_cr0(vmx, cr0)
    if loaded and cr4 & Cr4.PCIDE:
        loaded = kvm_set_cr4(vmx, cr4)
        if loaded and pcid:
            loaded = kvm_set_cr3(vmx, cr3 | pcid)
    return loaded


def _load_segment(vmx: VcpuVmx, area: bytes, name: str) -> None:
    selector, rights, limit, base = _SEGMENT.unpack_from(area, _SEGMENTS[name])
    if not vmx.vcpu.behaviour.has_smm_file:
        # It goes through a descriptor, which has 20 bits for it.
        limit &= 0xF_FFFF
        if rights >> 15 & 1:
            limit = limit << 12 | 0xFFF
    present = rights >> 7 & 1
    segment = Segment(
        base=base,
        limit=limit & 0xFFFF_FFFF,
        selector=selector,
        type=rights & 0xF,
        s=rights >> 4 & 1,
        dpl=rights >> 5 & 3,
        present=present,
        avl=rights >> 12 & 1,
        l=rights >> 13 & 1,
        db=rights >> 14 & 1,
        g=rights >> 15 & 1,
        unusable=1 - present,
    )
    vmx_set_segment(vmx, name, segment)


def _load_table(vmx: VcpuVmx, area: bytes, name: str) -> None:
    _, _, limit, base = _SEGMENT.unpack_from(area, _TABLES[name])
    vmx.vcpu.vmcs[f"guest_{name}_base"] = base
    vmx.vcpu.vmcs[f"guest_{name}_limit"] = limit & 0xFFFF


def _quad(area: bytes, at: int) -> int:
    value: int = _QUAD.unpack_from(area, at)[0]
    return value
