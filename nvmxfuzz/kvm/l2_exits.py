# SPDX-License-Identifier: GPL-2.0-only
"""nested_vmx_reflect_vmexit(): which exits of L2 are L1's, and what KVM does with the others.

vmx/nested.c; the handlers are those of vmx/vmx.c that are otherwise L1's. #UD, which has the
emulator behind it, is dealt with in `vmx_handle_exit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from nvmxfuzz.arch.controls import Primary, Secondary
from nvmxfuzz.arch.events import EventType, InterruptionInfo, Vector
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.kvm.check_values import nested_cpu_has2
from nvmxfuzz.kvm.guest_walk import Fault
from nvmxfuzz.kvm.msrs import kvm_set_msr
from nvmxfuzz.kvm.nested_operand import kvm_register_read
from nvmxfuzz.kvm.nested_vmx_result import (
    kvm_queue_exception,
    kvm_skip_emulated_instruction,
    queue_debug_exception,
)
from nvmxfuzz.kvm.set_registers import kvm_set_cr0, kvm_set_cr3, kvm_set_cr4
from nvmxfuzz.kvm.vcpu_events import NotModelledError
from nvmxfuzz.kvm.vcpu_has_events import kvm_emulate_halt_noskip
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmcs12 import write_fields
from nvmxfuzz.machine.vmcs import Vmcs

if TYPE_CHECKING:
    from nvmxfuzz.kvm.vmx_handle_exit import GuestExit

_WORD: Final = 0xFFFF_FFFF
_MOV_TO_CR: Final = 0
_FIELD_RANGE: Final = 15
_MSRS_HIGH: Final = 0xC000_0000
_MSRS_IN_BITMAP: Final = 0x2000
_BITMAP_HIGH: Final = 1024
_BITMAP_WRITES: Final = 2048
_PROTECTION: Final = Fault(Vector.GP)


# ---------------------------------------------------------------------- whose it is


def nested_vmx_reflects(vmx: VcpuVmx, guest: GuestExit) -> bool:
    """Whether an exit of L2 is L1's, by its reason; what KVM wants for itself goes before."""
    reason = guest.reason
    if reason in _L0_WANTS:
        return False
    if reason in _ALWAYS_L1:
        return True
    vmcs12 = vmx.vmcs12
    if reason in _BY_PRIMARY:
        return vmcs12.cpu_based_vm_exec_control & _BY_PRIMARY[reason] != 0
    decide = _BY_CASE.get(reason)
    if decide is None:
        raise NotModelledError(f"an exit of L2 for reason {reason}")
    return decide(vmx, vmcs12, guest)


def is_nmi(guest: GuestExit) -> bool:
    """Whether the exit is due to an NMI, which is the host's."""
    kind = (_interruption(guest) & InterruptionInfo.TYPE) >> InterruptionInfo.TYPE.position
    return kind == EventType.NMI


def exception_vector(guest: GuestExit) -> int:
    """Return the vector of an exit due to an exception."""
    return _interruption(guest) & 0xFF


def _interruption(guest: GuestExit) -> int:
    return guest.fields.get("vm_exit_intr_info", 0)


def _exception(vmx: VcpuVmx, vmcs12: Vmcs, guest: GuestExit) -> bool:
    del vmx
    vector = exception_vector(guest)
    if is_nmi(guest):
        return False
    if vector in (Vector.PF, Vector.AC):
        raise NotModelledError("#PF or #AC in L2")
    return vmcs12.exception_bitmap >> vector & 1 == 1


def nested_vmx_exit_handled_vmcs_access(vmx: VcpuVmx, vmcs12: Vmcs, guest: GuestExit) -> bool:
    """Whether L1 wants a VMREAD or VMWRITE of L2, by the bitmap that it has for that."""
    if not nested_cpu_has2(vmcs12, Secondary.VMCS_SHADOWING):
        return True
    field = kvm_register_read(vmx, "rcx")
    if field >> _FIELD_RANGE:
        return True
    reads = guest.reason == ExitReason.VMREAD
    bitmap = vmcs12.vmread_bitmap if reads else vmcs12.vmwrite_bitmap
    return _bit_of(vmx, bitmap, field)


def _bit_of(vmx: VcpuVmx, bitmap: int, number: int) -> bool:
    byte = vmx.vcpu.memory.read_int(bitmap + number // 8 & ALL_ONES, 1)
    return byte is None or byte >> number % 8 & 1 == 1


def nested_vmx_exit_handled_msr(vmx: VcpuVmx, vmcs12: Vmcs, guest: GuestExit) -> bool:
    """Whether L1 wants RDMSR or WRMSR of L2."""
    if not vmcs12.cpu_based_vm_exec_control & Primary.USE_MSR_BITMAPS:
        return True
    index = kvm_register_read(vmx, "rcx") & _WORD
    bitmap = vmcs12.msr_bitmap + (_BITMAP_WRITES if guest.reason == ExitReason.MSR_WRITE else 0)
    if index >= _MSRS_HIGH:
        index -= _MSRS_HIGH
        bitmap += _BITMAP_HIGH
    return index >= _MSRS_IN_BITMAP or _bit_of(vmx, bitmap, index)


def nested_vmx_exit_handled_cr(vmx: VcpuVmx, vmcs12: Vmcs, guest: GuestExit) -> bool:
    """Whether L1 wants MOV of L2 to a control register."""
    number, value = _mov_to_cr(vmx, guest)
    if number == 3:
        return vmcs12.cpu_based_vm_exec_control & Primary.CR3_LOAD_EXITING != 0
    if number == 0:
        return vmcs12.cr0_guest_host_mask & (value ^ vmcs12.cr0_read_shadow) != 0
    return vmcs12.cr4_guest_host_mask & (value ^ vmcs12.cr4_read_shadow) != 0


def _mov_to_cr(vmx: VcpuVmx, guest: GuestExit) -> tuple[int, int]:
    number = guest.qualification & 0xF
    if guest.qualification >> 4 & 3 != _MOV_TO_CR or guest.qualification >> 8 & 0xF:
        raise NotModelledError("an access of L2 to a control register that is no MOV from RAX")
    return number, kvm_register_read(vmx, "rax")


def _io(vmx: VcpuVmx, vmcs12: Vmcs, guest: GuestExit) -> bool:
    """nested_vmx_exit_handled_io()."""
    if not vmcs12.cpu_based_vm_exec_control & Primary.USE_IO_BITMAPS:
        return vmcs12.cpu_based_vm_exec_control & Primary.UNCONDITIONAL_IO_EXITING != 0
    port, size = guest.qualification >> 16, (guest.qualification & 7) + 1
    bitmaps = vmcs12.io_bitmap_a, vmcs12.io_bitmap_b
    return any(
        at > 0xFFFF or _bit_of(vmx, bitmaps[at >> 15], at & 0x7FFF)
        for at in range(port, port + size)
    )


_L0_WANTS: Final = frozenset(
    {
        *(ExitReason.EXTERNAL_INTERRUPT, ExitReason.EPT_VIOLATION, ExitReason.EPT_MISCONFIG),
        *(ExitReason.PREEMPTION_TIMER, ExitReason.PML_FULL, ExitReason.VMFUNC),
    }
)
_ALWAYS_L1: Final = frozenset(
    {
        *(ExitReason.TRIPLE_FAULT, ExitReason.TASK_SWITCH, ExitReason.CPUID, ExitReason.VMCALL),
        *(ExitReason.VMCLEAR, ExitReason.VMLAUNCH, ExitReason.VMPTRLD, ExitReason.VMPTRST),
        *(ExitReason.VMRESUME, ExitReason.VMOFF, ExitReason.VMON, ExitReason.INVEPT),
        *(ExitReason.INVVPID, ExitReason.APIC_ACCESS),
    }
)
_BY_PRIMARY: Final[Mapping[int, int]] = MappingProxyType(
    {
        int(ExitReason.INTERRUPT_WINDOW): int(Primary.INTERRUPT_WINDOW_EXITING),
        int(ExitReason.NMI_WINDOW): int(Primary.NMI_WINDOW_EXITING),
        int(ExitReason.HLT): int(Primary.HLT_EXITING),
        int(ExitReason.MONITOR_TRAP_FLAG): int(Primary.MONITOR_TRAP_FLAG),
    }
)
_BY_CASE: Final[Mapping[int, Callable[[VcpuVmx, Vmcs, GuestExit], bool]]] = MappingProxyType(
    {
        int(ExitReason.EXCEPTION_NMI): _exception,
        int(ExitReason.VMREAD): nested_vmx_exit_handled_vmcs_access,
        int(ExitReason.VMWRITE): nested_vmx_exit_handled_vmcs_access,
        int(ExitReason.MSR_READ): nested_vmx_exit_handled_msr,
        int(ExitReason.MSR_WRITE): nested_vmx_exit_handled_msr,
        int(ExitReason.CR_ACCESS): nested_vmx_exit_handled_cr,
        int(ExitReason.IO_INSTRUCTION): _io,
    }
)


# ---------------------------------------------------------------------- what KVM does itself


def skip_instruction_of_l2(vmx: VcpuVmx, length: int) -> None:
    """kvm_skip_emulated_instruction(), behind which L1's monitor trap flag is pending."""
    kvm_skip_emulated_instruction(vmx, length)
    vmx_update_emulated_instruction(vmx)


def vmx_update_emulated_instruction(vmx: VcpuVmx) -> None:
    """KVM has executed an instruction that ends in L2: the monitor trap flag of L1 traps it.

    RSM, which begins in L1, is one too where it goes back to L2.
    """
    if not vmx.vcpu.guest_mode:
        return
    queues = vmx.events.exception, vmx.events.exception_vmexit
    traps = vmx.vmcs12.cpu_based_vm_exec_control & Primary.MONITOR_TRAP_FLAG
    vmx.nested.mtf_pending = traps != 0 and not any(
        queued.pending and queued.vector != Vector.DB for queued in queues
    )


def complete_insn_gp(vmx: VcpuVmx, guest: GuestExit, done: bool) -> str:
    """kvm_complete_insn_gp(): the instruction is over, or raises #GP."""
    if not done:
        kvm_queue_exception(vmx, _PROTECTION)
    else:
        skip_instruction_of_l2(vmx, guest.length)
    return ""


def handle_set_cr(vmx: VcpuVmx, guest: GuestExit) -> str:
    """handle_cr() for MOV to CR0, CR3 or CR4: bits that L1 owns stay as it has them."""
    number, value = _mov_to_cr(vmx, guest)
    if number == 3:
        return complete_insn_gp(vmx, guest, kvm_set_cr3(vmx, value))
    vcpu, vmcs12 = vmx.vcpu, vmx.vmcs12
    if number == 0:
        mask = vmcs12.cr0_guest_host_mask
        done = kvm_set_cr0(vmx, value & ~mask | vmcs12.guest_cr0 & mask)
    else:
        mask = vmcs12.cr4_guest_host_mask
        done = kvm_set_cr4(vmx, value & ~mask | vmcs12.guest_cr4 & mask)
    if done:
        vcpu.vmcs[f"cr{number}_read_shadow"] = value
    return complete_insn_gp(vmx, guest, done)


def handle_wrmsr(vmx: VcpuVmx, guest: GuestExit) -> str:
    """kvm_emulate_wrmsr()."""
    vcpu, gprs = vmx.vcpu, vmx.gprs
    vcpu.vmcs12 = vmx.vmcs12
    value = gprs["rax"] & _WORD | (gprs["rdx"] & _WORD) << 32
    done = kvm_set_msr(vcpu, gprs["rcx"] & _WORD, value)
    write_fields(vmx.nested.cached_vmcs12, vcpu.vmcs12_writes)
    vcpu.vmcs12_writes.clear()
    return complete_insn_gp(vmx, guest, done)


def handle_hlt(vmx: VcpuVmx, guest: GuestExit) -> str:
    """kvm_emulate_halt(): L2 sleeps, and L1 does not know."""
    skip_instruction_of_l2(vmx, guest.length)
    kvm_emulate_halt_noskip(vmx)
    return ""


def handle_debug_exception(vmx: VcpuVmx, guest: GuestExit) -> str:
    """#DB, of which KVM wants to know and L1 does not: L2 shall have it."""
    queue_debug_exception(vmx, guest.qualification)
    return ""


def handle_interrupt_window(vmx: VcpuVmx, guest: GuestExit) -> str:
    """KVM looks for events again at the next entry, of L1 or L2."""
    del guest
    vmx.vcpu.vmcs["cpu_based_vm_exec_control"] &= ~Primary.INTERRUPT_WINDOW_EXITING
    return ""


def handle_nmi_window(vmx: VcpuVmx, guest: GuestExit) -> str:
    """The same for NMIs."""
    del guest
    vmx.vcpu.vmcs["cpu_based_vm_exec_control"] &= ~Primary.NMI_WINDOW_EXITING
    return ""


def _nothing(vmx: VcpuVmx, guest: GuestExit) -> str:
    del vmx, guest
    return ""


L0_HANDLERS: Final[Mapping[int, Callable[[VcpuVmx, GuestExit], str]]] = MappingProxyType(
    {
        int(ExitReason.EXTERNAL_INTERRUPT): _nothing,
        int(ExitReason.INTERRUPT_WINDOW): handle_interrupt_window,
        int(ExitReason.NMI_WINDOW): handle_nmi_window,
        int(ExitReason.CR_ACCESS): handle_set_cr,
        int(ExitReason.MSR_WRITE): handle_wrmsr,
        int(ExitReason.HLT): handle_hlt,
    }
)
"""What KVM does with an exit of L2 that is not L1's, exceptions aside."""
