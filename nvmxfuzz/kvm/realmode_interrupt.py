# SPDX-License-Identifier: GPL-2.0-only
"""kvm_inject_realmode_interrupt(): an event in real-address mode that no processor delivers.

x86.c and __emulate_int_real() of emulate.c, where KVM has the guest in virtual-8086 mode: FLAGS,
CS and IP go to the stack, and the interrupt-vector table says where the guest goes on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.kvm.segments import Segment
from nvmxfuzz.kvm.set_registers import emulator_get_segment, kvm_set_rflags, vmx_set_segment
from nvmxfuzz.kvm.vcpu_events import NotModelledError
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx

_WORD: Final = 0xFFFF
_DWORD: Final = 0xFFFF_FFFF
_CODE: Final = 8
_WRITABLE: Final = 2
_EXPAND_DOWN: Final = 4
_CLEARED: Final = Rflags.IF | Rflags.TF | Rflags.AC


def kvm_inject_realmode_interrupt(vmx: VcpuVmx, vector: int, skipped: int) -> None:
    """Have the guest take an event; where that cannot be, it is a triple fault.

    `skipped` is the length of the instruction that raised it, 0 for others.
    """
    vcpu = vmx.vcpu
    vmx.events.emulated_delivery = True
    code = emulator_get_segment(vmx, "cs")
    rsp: int | None = vcpu.rsp
    for value in (vcpu.rflags, code.selector, vcpu.rip + skipped):
        rsp = None if rsp is None else _push(vmx, rsp, value & _WORD)
    table = vcpu.vmcs["guest_idtr_base"] + (vector << 2)
    selector, rip = (vcpu.memory.read_int(table + at, 2) for at in (2, 0))
    if rsp is None or selector is None or rip is None:
        vmx.events.triple_fault = True
        return
    _load_code_segment(vmx, code, selector)
    vcpu.rsp, vcpu.rip = rsp, rip
    kvm_set_rflags(vmx, vcpu.rflags & ~_CLEARED)


def _push(vmx: VcpuVmx, rsp: int, value: int) -> int | None:
    """em_push() of two bytes: return RSP after it, None where the stack does not take it."""
    stack = emulator_get_segment(vmx, "ss")
    mask = _DWORD if stack.db and not stack.unusable else _WORD
    moved = rsp & ~mask | rsp - 2 & mask
    offset = moved & mask
    if stack.unusable or not stack.type & _WRITABLE or not _is_within(stack, offset):
        return None
    address = stack.base + offset & _DWORD
    if not vmx.vcpu.memory.write(address, value.to_bytes(2, "little")):
        raise NotModelledError("a stack that is no memory")
    return moved


def _is_within(segment: Segment, offset: int) -> bool:
    limit = segment.limit
    if segment.type & (_CODE | _EXPAND_DOWN) == _EXPAND_DOWN:
        if offset <= limit:
            return False
        limit = _DWORD if segment.db else _WORD
    return offset + 1 <= limit


def _load_code_segment(vmx: VcpuVmx, old: Segment, selector: int) -> None:
    """Load CS as real-address mode does: the base follows, the limit stays as descriptors do."""
    code = replace(old, base=selector << 4, selector=selector, unusable=1 - old.present)
    vmx_set_segment(vmx, "cs", code)
