# SPDX-License-Identifier: GPL-2.0-only
"""What a VMX instruction of L1 may come to, by its operation in the SDM.

SDM: "VMX Instructions", "VM Instruction Error Numbers". An outcome is told as `StepResult` tells
it. What is not known here, because what decides it cannot be seen, is None. What a VM entry comes
to that gets as far as the checks of the VMCS is a matter of `entry`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.arch.events import Vector
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.instruction_errors import InstructionError as Error
from nvmxfuzz.arch.registers import Cr4
from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.machine.processor import NO_POINTER
from nvmxfuzz.oracles.session.state import State
from nvmxfuzz.oracles.session.witness import PLACE_ADDRESSES

DONE: Final = "done"
ENTRY: Final = "entry"
"""The checks of the VMCS are reached."""
INVALID: Final = "vmfail-invalid"

_UD: Final = f"fault {int(Vector.UD)}"
_GP: Final = f"fault {int(Vector.GP)}"
_SS: Final = f"fault {int(Vector.SS)}"
_PF: Final = f"fault {int(Vector.PF)}"
_FAULT_BY_OPERAND: Final[Mapping[str, frozenset[str]]] = {
    "good": frozenset(),
    "unmapped": frozenset({_PF}),
    "read-only": frozenset(),
    "non-canonical": frozenset({_GP}),
    "stack": frozenset({_SS}),
}
_NOT_64_BIT: Final = ("compatibility", "real", "virtual-8086")
_MEMORY: Final = ("vmxon", "vmclear", "vmptrld", "vmptrst", "invept", "invvpid")
_OPERANDS_OF_FIELDS: Final = ("vmread-memory", "vmwrite-memory")
_REVISION_WRONG: Final = ("wrong-revision", "unbacked", "zero")
_NOT_REGIONS: Final = ("unaligned", "beyond-width", "all-ones")
_CORE: Final = frozenset(
    {
        *("guest_cr0", "guest_cr3", "guest_cr4", "guest_rip", "guest_rsp", "guest_rflags"),
        *("host_cr0", "host_cr3", "host_cr4", "host_rip", "host_rsp", "host_cs_selector"),
        *("guest_cs_selector", "guest_cs_base", "guest_cs_limit", "guest_cs_ar_bytes"),
        *("pin_based_vm_exec_control", "cpu_based_vm_exec_control", "exception_bitmap"),
        *("vm_exit_controls", "vm_entry_controls", "vmcs_link_pointer", "guest_activity_state"),
    }
)
"""Fields that every processor with VMX has."""

_EPT: Final = 1 << 33
_VPID: Final = 1 << 37
_SHADOWING: Final = 1 << 46
_INVEPT: Final = 1 << 20
_INVVPID: Final = 1 << 32
_WRITES_EXIT_INFORMATION: Final = 1 << 29
_WORD: Final = (1 << 32) - 1
_MOV_SS: Final = 1


def fail(state: State, error: int) -> str:
    """Return what VMfail() is with an error number."""
    return INVALID if state.current == NO_POINTER else f"vmfail-valid {int(error)}"


@dataclass(frozen=True, slots=True)
class Doubts:
    """What a session has done that cannot be seen: then some checks may pass or fail."""

    revisions: bool = False
    """Memory of a region may hold another revision identifier."""
    cpuid: bool = False
    """CPUID has changed."""
    paging: bool = False
    """L1's paging structures are others."""
    evmcs: bool = False
    """L1 may have an enlightened VMCS, which counts as current and is none of the SDM's."""


def permitted(step: SessionStep, state: State, doubts: Doubts) -> frozenset[str] | None:
    """Return what an instruction may come to in L1, which is plain; None if that is not known."""
    mode = step.chosen("mode")
    if doubts.evmcs or step.kind in _OPERANDS_OF_FIELDS:
        return None
    if mode in _NOT_64_BIT:
        return frozenset({_UD})
    if step.kind == "vmxon":
        return _vmxon(step, state, doubts)
    if not state.in_vmx:
        return frozenset({_UD})
    if mode == "no-vmxe" or not state.sregs["cr4"] & Cr4.VMXE:
        # No processor lets that be in VMX operation.
        return None
    if step.kind in ("invept", "invvpid") and not _exists(step.kind, state):
        return frozenset({_UD})
    if mode == "user":
        return frozenset({_GP})
    if step.kind in _MEMORY:
        return _with_operand(step, state, doubts)
    moved = doubts.revisions and state.current == PLACE_ADDRESSES["shadow-vmcs"]
    if moved or state.vmcs12.get("launch_state", 0) not in (0, 1):
        # Somebody has written to the region: whether it is a shadow, or launched, is not seen.
        return None
    return frozenset(_without_operand(step, state))


def _vmxon(step: SessionStep, state: State, doubts: Doubts) -> frozenset[str] | None:
    mode = step.chosen("mode")
    if mode == "no-vmxe" or not state.sregs["cr4"] & Cr4.VMXE:
        return frozenset({_UD})
    if mode == "user":
        return frozenset({_GP})
    faults = _faults(step, doubts)
    if faults is None:
        return None
    if state.in_vmx:
        return frozenset({fail(state, Error.VMXON_IN_VMX_ROOT_OPERATION)}) | faults
    if not _may_enter_vmx_operation(state):
        return frozenset({_GP}) | faults
    if faults:
        return faults
    region = step.chosen("region")
    if region in _NOT_REGIONS:
        return frozenset({INVALID})
    if doubts.revisions:
        return frozenset({INVALID, DONE})
    bad = region in (*_REVISION_WRONG, "shadow-vmcs")
    return frozenset({INVALID if bad else DONE})


def _may_enter_vmx_operation(state: State) -> bool:
    locked = state.msr("IA32_FEATURE_CONTROL") & 5 == 5
    return locked and all(
        state.msr(f"IA32_VMX_{name.upper()}_FIXED0") & ~state.sregs[name] == 0
        and state.sregs[name] & ~state.msr(f"IA32_VMX_{name.upper()}_FIXED1") == 0
        for name in ("cr0", "cr4")
    )


def _faults(step: SessionStep, doubts: Doubts) -> frozenset[str] | None:
    """Return the faults of the memory operand, None if they are not known."""
    return None if doubts.paging else _FAULT_BY_OPERAND[step.chosen("operand")]


def _exists(kind: str, state: State) -> bool:
    controls, able = state.msr("IA32_VMX_PROCBASED_CTLS2"), state.msr("IA32_VMX_EPT_VPID_CAP")
    control, ability = (_EPT, _INVEPT) if kind == "invept" else (_VPID, _INVVPID)
    return controls & control != 0 and able & ability != 0


def _with_operand(step: SessionStep, state: State, doubts: Doubts) -> frozenset[str] | None:
    faults = _faults(step, doubts)
    if faults is None:
        return None
    match step.kind:
        case "vmptrst":
            written = frozenset({DONE, _PF}) if step.chosen("operand") == "read-only" else None
            return faults or written or frozenset({DONE})
        case "invept" | "invvpid":
            refused = frozenset({fail(state, Error.INVALID_OPERAND_TO_INVEPT_INVVPID)})
            if not _type_supported(step, state):
                return refused
            if faults:
                return faults
            if step.kind == "invvpid" and _is_of_five_levels(step, state, doubts):
                return refused | {DONE}
            valid = _eptp_valid if step.kind == "invept" else _vpid_valid
            if not valid(step, state):
                return refused
            return refused | {DONE} if _is_high_eptp(step) else frozenset({DONE})
    return faults or _pointer(step, state, doubts)


def _pointer(step: SessionStep, state: State, doubts: Doubts) -> frozenset[str]:
    """VMCLEAR and VMPTRLD."""
    region, loads = step.chosen("region"), step.kind == "vmptrld"
    if region in _NOT_REGIONS:
        error = Error.VMPTRLD_INVALID_ADDRESS if loads else Error.VMCLEAR_INVALID_ADDRESS
        return frozenset({fail(state, error)})
    if PLACE_ADDRESSES[region] == state.nested["vmxon_pa"]:
        error = Error.VMPTRLD_VMXON_POINTER if loads else Error.VMCLEAR_VMXON_POINTER
        return frozenset({fail(state, error)})
    if not loads:
        return frozenset({DONE})
    refused = fail(state, Error.VMPTRLD_INCORRECT_VMCS_REVISION_ID)
    if doubts.revisions:
        return frozenset({DONE, refused})
    shadowing = state.msr("IA32_VMX_PROCBASED_CTLS2") & _SHADOWING
    wrong = region in _REVISION_WRONG or (region == "shadow-vmcs" and not shadowing)
    return frozenset({refused if wrong else DONE})


def _type_supported(step: SessionStep, state: State) -> bool:
    kind, able = step.number("type"), state.msr("IA32_VMX_EPT_VPID_CAP")
    if step.kind == "invept":
        return kind in (1, 2) and able >> 24 + kind & 1 != 0
    return kind <= 3 and able >> 40 + kind & 1 != 0


def _eptp_valid(step: SessionStep, state: State) -> bool:
    """Whether a VM entry would take the EPTP; of the address only what no processor has is told."""
    if step.number("type") != 1:
        return True
    eptp, able = step.number("eptp"), state.msr("IA32_VMX_EPT_VPID_CAP")
    memory_type = {0: able >> 8 & 1, 6: able >> 14 & 1}.get(eptp & 7, 0)
    walk = {3: able >> 6 & 1, 4: able >> 7 & 1}.get(eptp >> 3 & 7, 0)
    dirty = not eptp >> 6 & 1 or able >> 21 & 1
    return bool(memory_type and walk and dirty) and not eptp & 0xF80 and not eptp >> 52


def _is_high_eptp(step: SessionStep) -> bool:
    """Whether the width of physical addresses decides, which no view shows: 36 bits have all."""
    return step.kind == "invept" and step.number("type") == 1 and step.number("eptp") >> 36 != 0


def _vpid_valid(step: SessionStep, _state: State) -> bool:
    kind, address = step.number("type"), step.number("address")
    if kind == 2:
        return True
    return step.number("vpid") != 0 and (kind != 0 or _is_canonical(address, 48))


def _is_of_five_levels(step: SessionStep, state: State, doubts: Doubts) -> bool:
    """Whether the width of linear addresses decides: that of CR4.LA57, or of the processor."""
    address, by_address = step.number("address"), step.number("type") == 0
    wide = doubts.cpuid or state.msr("IA32_VMX_CR4_FIXED1") & Cr4.LA57 != 0
    only_wide = _is_canonical(address, 57) and not _is_canonical(address, 48)
    return by_address and step.number("vpid") != 0 and wide and only_wide


def _is_canonical(address: int, width: int) -> bool:
    return address >> width - 1 in (0, (1 << 65 - width) - 1)


def _without_operand(step: SessionStep, state: State) -> tuple[str, ...]:
    if step.kind == "vmxoff":
        return (DONE,)
    if state.current == NO_POINTER:
        return (INVALID,)
    if step.kind in ("vmread", "vmwrite"):
        return _field_access(step, state)
    return _entry(step, state)


def _field_access(step: SessionStep, state: State) -> tuple[str, ...]:
    field = FIELD_BY_NAME[step.chosen("field")]
    unsupported = fail(state, Error.UNSUPPORTED_VMCS_COMPONENT)
    if field.name in _CORE:
        return (DONE,)
    writable = field.type != "exit-info" or state.msr("IA32_VMX_MISC") & _WRITES_EXIT_INFORMATION
    if step.kind == "vmwrite" and not writable:
        return fail(state, Error.VMWRITE_READ_ONLY_VMCS_COMPONENT), unsupported
    return DONE, unsupported


def _entry(step: SessionStep, state: State) -> tuple[str, ...]:
    if state.current == PLACE_ADDRESSES["shadow-vmcs"]:
        return (INVALID,)
    if state.events.get("interrupt.shadow", 0) & _MOV_SS:
        return (fail(state, Error.ENTRY_EVENTS_BLOCKED_BY_MOV_SS),)
    launched = state.vmcs12.get("launch_state", 0) != 0
    if step.kind == "vmlaunch" and launched:
        return (fail(state, Error.VMLAUNCH_NONCLEAR_VMCS),)
    if step.kind == "vmresume" and not launched:
        return (fail(state, Error.VMRESUME_NONLAUNCHED_VMCS),)
    return (ENTRY,)
