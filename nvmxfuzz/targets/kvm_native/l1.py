# SPDX-License-Identifier: GPL-2.0-only
"""A hypervisor in L1, as the VM exits that its VMX instructions cause.

Nothing executes its code. `prepare` gives a vCPU the registers and page tables of a 64-bit kernel;
each function here is the exit of one instruction, to be put into a script of the hardware port.
KVM's own handlers do the rest: they read the operands, from memory or registers, and carry it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.events import EventType, InterruptionInfo, Vector
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer
from nvmxfuzz.inputs.places import CURRENT_VMCS, VMXON_REGION
from nvmxfuzz.targets.kvm_native.guest_memory import GuestMemory
from nvmxfuzz.targets.kvm_native.port import Exit
from nvmxfuzz.targets.kvm_native.structures import Segment, Sregs
from nvmxfuzz.targets.kvm_native.vcpu import Vcpu

OPERANDS: Final = 0x6000
"""Where the memory operands stand: a pointer to the VMXON region, and one to the VMCS."""

_PML4: Final = 0x3000
_PDPT: Final = 0x4000
_PAGE_DIRECTORY: Final = 0x5000
_TABLE: Final = 0x3
"""An entry of a paging structure: present, writable."""
_LARGE_PAGE: Final = 0x83

_VMX_ENABLED: Final = 1 << 0 | 1 << 2
"""IA32_FEATURE_CONTROL: locked, VMX outside SMX."""

_ADDRESS_64: Final = 2 << 7
_SEGMENT_DS: Final = 3 << 15
_NO_INDEX: Final = 1 << 22
_NO_BASE: Final = 1 << 27
_MEMORY_OPERAND: Final = _ADDRESS_64 | _SEGMENT_DS | _NO_INDEX | _NO_BASE
"""VM-exit instruction information: the address is the displacement, the exit qualification."""
_KIND_IN_RCX: Final = 1 << 28
_REGISTERS_RAX_RCX: Final = 1 << 10 | 0 << 3 | 1 << 28
"""Likewise: the operand is RAX, the field encoding stands in RCX."""

HLT: Final = Exit(ExitReason.HLT, length=1)
OUT: Final = Exit(ExitReason.IO_INSTRUCTION, qualification=0x80 << 16, length=2)
"""OUT to a port without a device: KVM returns to user space, also where HLT stays in the kernel."""
VMLAUNCH: Final = Exit(ExitReason.VMLAUNCH, length=3)
VMRESUME: Final = Exit(ExitReason.VMRESUME, length=3)
VMXOFF: Final = Exit(ExitReason.VMOFF, length=3)
UNDEFINED_OPCODE: Final = Exit(
    ExitReason.EXCEPTION_NMI,
    fields={
        "vm_exit_intr_info": InterruptionInfo.VALID
        | EventType.HARDWARE_EXCEPTION << InterruptionInfo.TYPE.position
        | Vector.UD
    },
)
"""An instruction that the guest does not have: KVM fetches it from memory, and may emulate it."""

SMI_HANDLER: Final = 0x3_8000
"""Where a processor begins after an SMI, as long as nobody has moved it."""


def _segment(selector: int, kind: int, *, code: bool = False, system: bool = False) -> Segment:
    return Segment(
        base=0,
        limit=0x67 if system else 0xFFFF_FFFF,
        selector=selector,
        type=kind,
        present=1,
        s=not system,
        db=not code and not system,
        l=code,
        g=not system,
    )


def sregs(apic_base: int = 0xFEE0_0900) -> Sregs:
    """Return the registers of a 64-bit kernel at CPL 0 with VMX enabled in CR4."""
    data = _segment(0x10, 3)
    return Sregs(
        cs=_segment(0x8, 11, code=True),
        **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data),
        tr=_segment(0x18, 11, system=True),
        ldt=Segment(type=2, unusable=1),
        cr0=Cr0.PE | Cr0.ET | Cr0.NE | Cr0.PG,
        cr3=_PML4,
        cr4=Cr4.PAE | Cr4.VMXE,
        efer=Efer.LME | Efer.LMA,
        apic_base=apic_base,
    )


def prepare(vcpu: Vcpu, memory: GuestMemory, revision: int | None = None) -> None:
    """Make the vCPU a hypervisor about to execute VMXON: registers, page tables, both regions.

    `revision` is the VMCS revision identifier in the regions; that of IA32_VMX_BASIC by default.
    """
    vcpu.set_msr(msr.MSR_IA32_FEAT_CTL, _VMX_ENABLED)
    vcpu.set_sregs(sregs(vcpu.get_sregs().apic_base))
    memory.write_int(_PML4, _PDPT | _TABLE)
    memory.write_int(_PDPT, _PAGE_DIRECTORY | _TABLE)
    memory.write_int(_PAGE_DIRECTORY, _LARGE_PAGE)
    if revision is None:
        revision = (vcpu.get_msr(msr.MSR_IA32_VMX_BASIC) or 0) & 0x7FFF_FFFF
    for number, region in enumerate((VMXON_REGION, CURRENT_VMCS)):
        memory.write_int(region, revision, 4)
        memory.write_int(OPERANDS + 8 * number, region)


def _with_operand(reason: int, operand: int) -> Exit:
    return Exit(reason, qualification=operand, length=4, information=_MEMORY_OPERAND)


def vmxon(operand: int = OPERANDS) -> Exit:
    """VMXON; `operand` is the linear address of the 8 bytes that point to the region."""
    return _with_operand(ExitReason.VMON, operand)


def vmclear(operand: int = OPERANDS + 8) -> Exit:
    """VMCLEAR."""
    return _with_operand(ExitReason.VMCLEAR, operand)


def vmptrld(operand: int = OPERANDS + 8) -> Exit:
    """VMPTRLD."""
    return _with_operand(ExitReason.VMPTRLD, operand)


def vmptrst(operand: int) -> Exit:
    """VMPTRST: the current-VMCS pointer goes to the linear address `operand`."""
    return _with_operand(ExitReason.VMPTRST, operand)


def invept(kind: int, descriptor: int) -> Exit:
    """INVEPT; `descriptor` is the linear address of 16 bytes."""
    return _invalidation(ExitReason.INVEPT, kind, descriptor)


def invvpid(kind: int, descriptor: int) -> Exit:
    """INVVPID; likewise."""
    return _invalidation(ExitReason.INVVPID, kind, descriptor)


def _invalidation(reason: int, kind: int, descriptor: int) -> Exit:
    return Exit(
        reason,
        qualification=descriptor,
        length=5,
        information=_MEMORY_OPERAND | _KIND_IN_RCX,
        registers={"rcx": kind},
    )


def vmwrite(name: str, value: int) -> Exit:
    """VMWRITE of a field, out of RAX."""
    registers = {"rax": value, "rcx": FIELD_BY_NAME[name].encoding}
    return Exit(ExitReason.VMWRITE, length=3, information=_REGISTERS_RAX_RCX, registers=registers)


def vmread(name: str) -> Exit:
    """VMREAD of a field, into RAX."""
    registers = {"rcx": FIELD_BY_NAME[name].encoding}
    return Exit(ExitReason.VMREAD, length=3, information=_REGISTERS_RAX_RCX, registers=registers)


def cpuid(leaf: int, subleaf: int = 0) -> Exit:
    """CPUID."""
    return Exit(ExitReason.CPUID, length=2, registers={"rax": leaf, "rcx": subleaf})


def vmwrites(fields: Mapping[str, int]) -> Iterable[Exit]:
    """Yield VMWRITEs of these fields, in order."""
    return (vmwrite(name, value) for name, value in fields.items())
