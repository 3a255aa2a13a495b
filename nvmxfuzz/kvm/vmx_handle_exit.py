# SPDX-License-Identifier: GPL-2.0-only
"""vmx_handle_exit(): what KVM does with a VM exit of L1, and which exits of L2 are L1's.

vmx/vmx.c and nested_vmx_reflect_vmexit() of vmx/nested.c. Exits that KVM deals with itself are
modelled where they are VMX instructions of L1 or do nothing; the others are named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.events import InterruptionInfo, Vector
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.kvm import nested_exit
from nvmxfuzz.kvm import nested_instructions as instructions
from nvmxfuzz.kvm.check_values import nested_cpu_has2
from nvmxfuzz.kvm.entry_run import VM_BUGGED, EntryRun, Over
from nvmxfuzz.kvm.guest_walk import Fault, kvm_read_guest_virt
from nvmxfuzz.kvm.hardware import WillingHardware
from nvmxfuzz.kvm.l2_exits import (
    L0_HANDLERS,
    exception_vector,
    handle_debug_exception,
    handle_interrupt_window,
    is_nmi,
    nested_vmx_reflects,
    vmx_update_emulated_instruction,
)
from nvmxfuzz.kvm.nested_enter import handle_vmlaunch
from nvmxfuzz.kvm.nested_operand import MemoryOperand, RegisterOperand, kvm_register_read
from nvmxfuzz.kvm.nested_vmexit import (
    FAILED_VMENTRY,
    L2Exit,
    has_shadow_vmcs12,
    nested_vmx_vmexit,
    vmx_emulation_required,
)
from nvmxfuzz.kvm.nested_vmx_result import (
    DONE,
    INTERNAL_ERROR,
    kvm_queue_exception,
    kvm_skip_emulated_instruction,
    nested_vmx_result,
    queue_debug_exception,
)
from nvmxfuzz.kvm.set_registers import emulator_get_segment
from nvmxfuzz.kvm.smm import em_rsm
from nvmxfuzz.kvm.vcpu_events import INTERRUPT_SHADOW, NotModelledError, clear_event_queues
from nvmxfuzz.kvm.vcpu_has_events import kvm_emulate_halt_noskip
from nvmxfuzz.kvm.vcpu_vmx import (
    MP_INIT_RECEIVED,
    MP_RUNNABLE,
    VcpuVmx,
    begin_entry,
    end_entry,
    is_64_bit_mode,
    vmx_get_cpl,
)
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmcs12 import write_fields

_REGISTERS: Final = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *(f"r{number}" for number in range(8, 16)),
)
_SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs")
_ADDRESS_SIZES: Final = (16, 32, 64)
_KVM_ENOSYS: Final = 1000
_KVM_EPERM: Final = 1
_WORD: Final = 0xFFFF_FFFF
_VMLAUNCH_LENGTH: Final = 3
_BASIC: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class GuestExit:
    """A VM exit as the processor tells it; `registers` are those that the guest has changed.

    `vmfail` is the number of a VM entry that was refused, `reason` with bit 31 one that failed.
    """

    reason: int
    qualification: int = 0
    length: int = 0
    information: int = 0
    fields: Mapping[str, int] = field(default_factory=dict)
    registers: Mapping[str, int] = field(default_factory=dict)
    vmfail: int | None = None


def handle_exit(vmx: VcpuVmx, guest: GuestExit) -> str:
    """Deal with an exit; how the instruction ended, "exit", "internal-error", or ""."""
    if vmx.vcpu.guest_mode:
        return _exit_of_l2(vmx, guest)
    handler = _HANDLERS.get(guest.reason)
    if handler is None or guest.vmfail is not None:
        raise NotModelledError(f"an exit of L1 for reason {guest.reason & _BASIC}")
    return handler(vmx, guest)


# ---------------------------------------------------------------------- L1


def _memory(vmx: VcpuVmx, guest: GuestExit) -> MemoryOperand:
    """Return the memory operand that VM-exit instruction information describes."""
    info = guest.information
    offset = guest.qualification
    if not info & 1 << 27:
        offset += kvm_register_read(vmx, _REGISTERS[info >> 23 & 0xF])
    if not info & 1 << 22:
        offset += kvm_register_read(vmx, _REGISTERS[info >> 18 & 0xF]) << (info & 3)
    return MemoryOperand(
        offset & ALL_ONES, _SEGMENTS[info >> 15 & 7], _ADDRESS_SIZES[info >> 7 & 7], guest.length
    )


def _either(vmx: VcpuVmx, guest: GuestExit) -> MemoryOperand | RegisterOperand:
    if guest.information & 1 << 10:
        return RegisterOperand(_REGISTERS[guest.information >> 3 & 0xF], guest.length)
    return _memory(vmx, guest)


def _second(guest: GuestExit) -> str:
    return _REGISTERS[guest.information >> 28 & 0xF]


def _vmlaunch(vmx: VcpuVmx, guest: GuestExit) -> str:
    return nested_vmx_run(vmx, launch=guest.reason == ExitReason.VMLAUNCH)


def nested_vmx_run(vmx: VcpuVmx, *, launch: bool) -> str:
    """VMLAUNCH or VMRESUME: "entered", "exit" for an entry that failed, or how it ended."""
    vcpu = begin_entry(vmx, launch)
    try:
        handle_vmlaunch(EntryRun(vcpu, WillingHardware()))
    except Over as over:
        vcpu.nested_run_pending = False
        end_entry(vmx)
        return _not_entered(vmx, over)
    vmx.nested.has_preemption_timer_deadline = False
    if vmx.shadowing:
        instructions.keep_shadow_vmcs(vmx)
    end_entry(vmx)
    vmcs12 = vcpu.vmcs12
    if has_shadow_vmcs12(vmcs12):
        image = vcpu.memory.read(vmcs12.vmcs_link_pointer, len(vmx.nested.cached_shadow_vmcs12))
        if image is not None:
            vmx.nested.cached_shadow_vmcs12[:] = image
    if vcpu.halted or vcpu.waits_for_sipi:
        vmx.nested.nested_run_pending = vcpu.nested_run_pending = False
        if vcpu.halted:
            kvm_emulate_halt_noskip(vmx)
        else:
            vmx.mp_state = MP_INIT_RECEIVED
    vmx.emulation_required = vmx_emulation_required(vmx)
    return "entered"


def _not_entered(vmx: VcpuVmx, over: Over) -> str:
    outcome = over.outcome
    if vmx.vcpu.aborted:
        vmx.events.triple_fault = True
    if over.died == VM_BUGGED:
        raise over
    if outcome is None:
        return INTERNAL_ERROR
    if outcome.kind == "fault":
        return kvm_queue_exception(vmx, Fault(outcome.number))
    if outcome.kind == "exit":
        vmx.emulation_required = vmx_emulation_required(vmx)
        return "exit"
    return nested_vmx_result(vmx, outcome)


def _hypercall(vmx: VcpuVmx, guest: GuestExit) -> str:
    """VMCALL of L1: no hypercall of KVM's is known to it by this number."""
    if vmx.gprs["rax"] & _WORD in _HYPERCALLS:
        raise NotModelledError("a hypercall of L1")
    value = -(_KVM_EPERM if vmx_get_cpl(vmx) else _KVM_ENOSYS) & ALL_ONES
    vmx.gprs["rax"] = value if is_64_bit_mode(vmx) else value & _WORD
    kvm_skip_emulated_instruction(vmx, guest.length)
    return DONE


_HYPERCALLS: Final = range(1, 16)


def _exception(vmx: VcpuVmx, guest: GuestExit) -> str:
    info = guest.fields.get("vm_exit_intr_info", 0)
    if info & 0xFF != Vector.UD:
        raise NotModelledError("an exception that L1 causes")
    return handle_ud(vmx)


def handle_ud(vmx: VcpuVmx) -> str:
    """An instruction of L1 that it does not have: KVM emulates RSM in SMM, hardly any other."""
    code = fetch_code(vmx)
    if code == RSM and vmx.in_smm and not vmx.vcpu.guest_mode:
        single_step = vmx.vcpu.rflags & Rflags.TF
        if em_rsm(vmx):
            if single_step:
                queue_debug_exception(vmx)
            vmx_update_emulated_instruction(vmx)
            return ""
        kvm_queue_exception(vmx, instructions.UNDEFINED)
        return INTERNAL_ERROR if not vmx.vcpu.guest_mode and not vmx_get_cpl(vmx) else ""
    if code == RSM:
        # The emulator raises the exception, and is done with the instruction before.
        vmx.vcpu.vmcs["guest_interruptibility_info"] &= ~INTERRUPT_SHADOW
    elif code[:1] in _MAYBE_EMULATED:
        raise NotModelledError("an instruction that KVM may emulate")
    return kvm_queue_exception(vmx, instructions.UNDEFINED)


def fetch_code(vmx: VcpuVmx) -> bytes:
    """Return two bytes of code, or what there is of them."""
    vcpu = vmx.vcpu
    if vcpu.guest_mode and nested_cpu_has2(vmx.vmcs12, Secondary.ENABLE_EPT):
        raise NotModelledError("code of L2 behind EPT")
    rip = vcpu.rip
    if not is_emulated_in_64_bits(vmx):
        if not is_within_cs(vmx, rip):
            return b""
        rip = rip + vcpu.vmcs["guest_cs_base"] & _WORD
    found = kvm_read_guest_virt(vcpu, rip, 2, fetch=True)
    return b"" if isinstance(found, Fault) else found


def is_emulated_in_64_bits(vmx: VcpuVmx) -> bool:
    """init_emulate_ctxt(): to the emulator RFLAGS.VM, which userspace may set, comes first."""
    return not vmx.vcpu.rflags & Rflags.VM and is_64_bit_mode(vmx)


def is_within_cs(vmx: VcpuVmx, rip: int) -> bool:
    """Whether the emulator fetches there: CS is usable, with a limit as of a descriptor."""
    segment = emulator_get_segment(vmx, "cs")
    limit = segment.limit
    if segment.type & _EXPAND_DOWN_MASK == _EXPAND_DOWN:
        if rip <= limit:
            return False
        limit = _WORD if segment.db else 0xFFFF
    return not segment.unusable and rip <= limit


_EXPAND_DOWN_MASK: Final = 0xC
_EXPAND_DOWN: Final = 4
RSM: Final = b"\x0f\xaa"
_PREFIXES: Final = (
    0x26,
    0x2E,
    0x36,
    0x3E,
    *range(0x40, 0x50),
    *range(0x64, 0x68),
    0xF0,
    0xF2,
    0xF3,
)
_MAYBE_EMULATED: Final = frozenset(bytes([code]) for code in (0x0F, *_PREFIXES))
"""First bytes of instructions that KVM emulates after #UD: two-byte opcodes, and prefixes."""


def _nothing(vmx: VcpuVmx, guest: GuestExit) -> str:
    del vmx, guest
    return ""


Handler = Callable[[VcpuVmx, GuestExit], str]

_HANDLERS: Final[Mapping[int, Handler]] = MappingProxyType(
    {
        int(ExitReason.VMON): lambda v, g: instructions.handle_vmxon(v, _memory(v, g)),
        int(ExitReason.VMOFF): lambda v, _: instructions.handle_vmxoff(v),
        int(ExitReason.VMCLEAR): lambda v, g: instructions.handle_vmclear(v, _memory(v, g)),
        int(ExitReason.VMPTRLD): lambda v, g: instructions.handle_vmptrld(v, _memory(v, g)),
        int(ExitReason.VMPTRST): lambda v, g: instructions.handle_vmptrst(v, _memory(v, g)),
        int(ExitReason.VMREAD): lambda v, g: instructions.handle_vmread(
            v, _second(g), _either(v, g)
        ),
        int(ExitReason.VMWRITE): lambda v, g: instructions.handle_vmwrite(
            v, _second(g), _either(v, g)
        ),
        int(ExitReason.INVEPT): lambda v, g: instructions.handle_invept(
            v, _second(g), _memory(v, g)
        ),
        int(ExitReason.INVVPID): lambda v, g: instructions.handle_invvpid(
            v, _second(g), _memory(v, g)
        ),
        int(ExitReason.VMLAUNCH): _vmlaunch,
        int(ExitReason.VMRESUME): _vmlaunch,
        int(ExitReason.VMCALL): _hypercall,
        int(ExitReason.EXCEPTION_NMI): _exception,
        int(ExitReason.INTERRUPT_WINDOW): handle_interrupt_window,
        int(ExitReason.EXTERNAL_INTERRUPT): _nothing,
    }
)


# ---------------------------------------------------------------------- L2


def _exit_of_l2(vmx: VcpuVmx, guest: GuestExit) -> str:
    if guest.vmfail is not None:
        return _late_vmfail(vmx)
    if not guest.reason & FAILED_VMENTRY and not nested_vmx_reflects(vmx, guest):
        return _exit_that_is_not_l1s(vmx, guest)
    interruption = guest.fields.get("vm_exit_intr_info", 0)
    if interruption & InterruptionInfo.VALID and interruption & InterruptionInfo.DELIVER_ERROR_CODE:
        code = guest.fields.get("vm_exit_intr_error_code", 0)
        write_fields(vmx.nested.cached_vmcs12, {"vm_exit_intr_error_code": code})
    nested_vmx_vmexit(
        vmx,
        L2Exit(guest.reason, guest.qualification, interruption),
    )
    return "exit"


def _exit_that_is_not_l1s(vmx: VcpuVmx, guest: GuestExit) -> str:
    if guest.reason == ExitReason.EXCEPTION_NMI:
        if is_nmi(guest):
            return ""
        if exception_vector(guest) == Vector.DB:
            return handle_debug_exception(vmx, guest)
        return _exception(vmx, guest)
    if guest.reason in (ExitReason.VMREAD, ExitReason.VMWRITE):
        return _HANDLERS[guest.reason](vmx, guest)
    handler = L0_HANDLERS.get(guest.reason)
    if handler is None:
        raise NotModelledError(f"an exit of L2 for reason {guest.reason}, which KVM deals with")
    return handler(vmx, guest)


def _late_vmfail(vmx: VcpuVmx) -> str:
    """The processor refuses vmcs02: L1 is told of invalid controls, whatever it was."""
    vcpu = vmx.vcpu
    vcpu.fired.append("hardware.entry.vmfail")
    vcpu.vmcs12 = vmx.vmcs12
    vcpu.vmcs12_writes.clear()
    nested_exit.nested_vmx_vmexit(vcpu, 0, 0, failed=True)
    # It is taken for VMLAUNCH even where RSM has brought L2 back.
    vcpu.rip = vcpu.rip + vcpu.vmcs["vm_exit_instruction_len"] - _VMLAUNCH_LENGTH & ALL_ONES
    clear_event_queues(vmx.events)
    vmx.nested.mtf_pending = vmx.events.get_nested_state_pages = False
    vmx.mp_state = MP_RUNNABLE
    end_entry(vmx)
    vmx.events.triple_fault |= bool(vcpu.aborted)
    vmx.nested.shadow_vmcs = {}
    vmx.emulation_required = vmx_emulation_required(vmx)
    if vcpu.rflags & Rflags.TF:
        queue_debug_exception(vmx)
    return "vmfail-valid 7"
