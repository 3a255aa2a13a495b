# SPDX-License-Identifier: GPL-2.0-only
"""get_vmx_mem_address(): where the memory operand of a VMX instruction is, and its exceptions."""

from __future__ import annotations

from dataclasses import dataclass

from nvmxfuzz.arch.events import Vector
from nvmxfuzz.arch.registers import Cr4, Efer
from nvmxfuzz.kvm.check_values import is_noncanonical_address
from nvmxfuzz.kvm.guest_walk import Fault, kvm_read_guest_virt, kvm_write_guest_virt
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx, is_64_bit_mode
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES

_WORD = 0xFFFF_FFFF
_EXECUTABLE = 8
_EXPAND_DOWN = 4
_READABLE_OR_WRITABLE = 0xA
_UNUSABLE = 1 << 16
_LAM_U57 = 1 << 61
_LAM_U48 = 1 << 62
_BIT_63 = 1 << 63


@dataclass(frozen=True, slots=True)
class MemoryOperand:
    """A memory operand as the VM exit tells it.

    `offset` is displacement, base and scaled index together; `address_size` is 16, 32 or 64.
    """

    offset: int
    segment: str = "ds"
    address_size: int = 64
    length: int = 4
    """Of the whole instruction, in bytes."""


@dataclass(frozen=True, slots=True)
class RegisterOperand:
    """A register by name, "rsp" among them; MOV-like forms of VMREAD and VMWRITE take one."""

    name: str
    length: int = 3


def get_vmx_mem_address(
    vmx: VcpuVmx, operand: MemoryOperand, size: int, *, write: bool
) -> int | Fault:
    """Return the linear address, or the exception that segmentation makes of it."""
    vcpu = vmx.vcpu
    offset = operand.offset & (1 << operand.address_size) - 1
    base = vcpu.vmcs[f"guest_{operand.segment}_base"]
    violation = Fault(Vector.SS if operand.segment == "ss" else Vector.GP)
    if vcpu.efer & Efer.LMA:
        address = offset + (base if operand.segment in ("fs", "gs") else 0) & ALL_ONES
        address = vmx_get_untagged_addr(vmx, address)
        return violation if is_noncanonical_address(address, vcpu) else address
    rights = vcpu.vmcs[f"guest_{operand.segment}_ar_bytes"]
    if write:
        forbidden = not rights & _READABLE_OR_WRITABLE or rights & _EXECUTABLE
    else:
        forbidden = rights & _READABLE_OR_WRITABLE == _EXECUTABLE
    if forbidden:
        return Fault(Vector.GP)
    limit = vcpu.vmcs[f"guest_{operand.segment}_limit"]
    flat = base == 0 and limit == _WORD and (rights & _EXECUTABLE or not rights & _EXPAND_DOWN)
    if rights & _UNUSABLE or (not flat and offset + size - 1 > limit):
        return violation
    return base + offset & _WORD


def vmx_get_untagged_addr(vmx: VcpuVmx, address: int) -> int:
    """Return the address without what LAM lets it have above its width."""
    vcpu = vmx.vcpu
    if not vcpu.behaviour.knows_lam or not is_64_bit_mode(vmx):
        return address
    if address & _BIT_63:
        if not vcpu.cr4 & Cr4.LAM_SUP:
            return address
        bit = 56 if vcpu.cr4 & Cr4.LA57 else 47
    elif vcpu.cr3 & (_LAM_U57 | _LAM_U48):
        bit = 56 if vcpu.cr3 & _LAM_U57 else 47
    else:
        return address
    low = address & (1 << bit + 1) - 1
    extended = low | (ALL_ONES & ~((1 << bit + 1) - 1) if low >> bit else 0)
    return extended & ~_BIT_63 | address & _BIT_63


def read_operand(vmx: VcpuVmx, operand: MemoryOperand, size: int) -> int | Fault:
    """Return what is at a memory operand, little-endian, or the exception."""
    address = get_vmx_mem_address(vmx, operand, size, write=False)
    if isinstance(address, Fault):
        return address
    data = kvm_read_guest_virt(vmx.vcpu, address, size)
    return data if isinstance(data, Fault) else int.from_bytes(data, "little")


def write_operand(vmx: VcpuVmx, operand: MemoryOperand, size: int, value: int) -> Fault | None:
    """Store a value at a memory operand; return the exception, or None."""
    address = get_vmx_mem_address(vmx, operand, size, write=True)
    if isinstance(address, Fault):
        return address
    data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    return kvm_write_guest_virt(vmx.vcpu, address, data)


def kvm_register_read(vmx: VcpuVmx, name: str) -> int:
    """Return a register, of which only 64-bit code sees the upper half."""
    value = vmx.vcpu.rsp if name == "rsp" else vmx.gprs[name]
    return value if is_64_bit_mode(vmx) else value & _WORD


def kvm_register_write(vmx: VcpuVmx, name: str, value: int) -> None:
    """Set a register, likewise."""
    value = value if is_64_bit_mode(vmx) else value & _WORD
    if name == "rsp":
        vmx.vcpu.rsp = value
    else:
        vmx.gprs[name] = value
