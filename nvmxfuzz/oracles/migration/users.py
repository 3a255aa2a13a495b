# SPDX-License-Identifier: GPL-2.0-only
"""A VM entry that depends on one capability: what an L1 does that uses the bit.

A base is repaired on a processor that demands what the capability allows, so that everything which
goes with it is there too; the result is an entry of the processor as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Primary, Secondary, VmFunction
from nvmxfuzz.arch.events import Activity, EventType, InterruptionInfo
from nvmxfuzz.arch.paging import Eptp, MemoryType
from nvmxfuzz.arch.vmx_msr import EptVpidCap, VmxMisc
from nvmxfuzz.inputs.bases import base, base_names, ept_pointer
from nvmxfuzz.inputs.repair import repair
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.oracles.restore.bit_names import CONTROL_TABLES, FIXED0, REGISTER_TABLES, Capability

_HALF: Final = 32
_WORD: Final = (1 << _HALF) - 1
_SECONDARY: Final = msr.MSR_IA32_VMX_PROCBASED_CTLS2
_PRIMARY: Final = msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS
_EPT_VPID: Final = msr.MSR_IA32_VMX_EPT_VPID_CAP

_FIELDS: Final = {
    msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS: "pin_based_vm_exec_control",
    _PRIMARY: "cpu_based_vm_exec_control",
    _SECONDARY: "secondary_vm_exec_control",
    msr.MSR_IA32_VMX_TRUE_EXIT_CTLS: "vm_exit_controls",
    msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS: "vm_entry_controls",
}
_REGISTERS: Final = {
    msr.MSR_IA32_VMX_CR0_FIXED0: ("guest_cr0", msr.MSR_IA32_VMX_CR0_FIXED1),
    msr.MSR_IA32_VMX_CR0_FIXED1: ("guest_cr0", msr.MSR_IA32_VMX_CR0_FIXED0),
    msr.MSR_IA32_VMX_CR4_FIXED0: ("guest_cr4", msr.MSR_IA32_VMX_CR4_FIXED1),
    msr.MSR_IA32_VMX_CR4_FIXED1: ("guest_cr4", msr.MSR_IA32_VMX_CR4_FIXED0),
}
"""A fixed-bit MSR -> the field that uses what it allows, and the MSR that can demand it."""

_IN_EPTP: Final = {
    int(EptVpidCap.PAGE_WALK_4): (int(Eptp.PAGE_WALK_LENGTH), 3 << 3),
    int(EptVpidCap.PAGE_WALK_5): (int(Eptp.PAGE_WALK_LENGTH), 4 << 3),
    int(EptVpidCap.MEMORY_TYPE_WB): (int(Eptp.MEMORY_TYPE), int(MemoryType.WB)),
    int(EptVpidCap.MEMORY_TYPE_UC): (int(Eptp.MEMORY_TYPE), int(MemoryType.UC)),
    int(EptVpidCap.ACCESSED_DIRTY): (int(Eptp.ACCESSED_DIRTY), int(Eptp.ACCESSED_DIRTY)),
}
"""A capability of EPT -> the field of an EPTP that uses it, and what the field then holds."""

_STATES: Final = {
    int(VmxMisc.ACTIVITY_HLT): Activity.HLT,
    int(VmxMisc.ACTIVITY_SHUTDOWN): Activity.SHUTDOWN,
    int(VmxMisc.ACTIVITY_WAIT_FOR_SIPI): Activity.WAIT_FOR_SIPI,
}
_SOFTWARE_INTERRUPT: Final = (
    InterruptionInfo.VALID | EventType.SOFTWARE_INTERRUPT << InterruptionInfo.TYPE.position | 0x80
)


@dataclass(frozen=True, slots=True)
class Use:
    """An entry of L1, and the base that it was made from."""

    capability: Capability
    base: str
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to make a user: MSRs of a processor that demands it, fields to begin with, the proof.

    Of `controls` the bits are set in the base's words.
    """

    msrs: Mapping[int, int]
    fields: Mapping[str, int]
    is_used: Callable[[Attempt], bool]
    controls: Mapping[str, int] = field(default_factory=dict)


def user_of(capability: Capability, profile: Profile) -> Use | None:
    """Return an entry on `profile` that uses the capability.

    None where no state of a VMCS does, as for an instruction, or where none is found.
    """
    plan = _plan(capability, profile)
    if plan is None:
        return None
    demanding = replace(profile, msrs={**profile.msrs, **plan.msrs})
    for name in base_names(profile):
        start = base(name, demanding)
        words = {word: getattr(start.vmcs, word) | bits for word, bits in plan.controls.items()}
        built = repair(replace(start, vmcs=start.vmcs.replace({**plan.fields, **words})))
        attempt = repair(replace(built, profile=profile))
        if plan.is_used(attempt):
            return Use(capability, name, attempt)
    return None


def plain_users(profile: Profile) -> tuple[tuple[str, Attempt], ...]:
    """Return each base as it enters on the processor: users of nothing in particular."""
    return tuple((name, repair(base(name, profile))) for name in base_names(profile))


def _plan(capability: Capability, profile: Profile) -> _Plan | None:
    msrs = profile.msrs
    if capability.index in CONTROL_TABLES:
        return _control(capability, msrs)
    if capability.index in REGISTER_TABLES:
        return _register(capability, msrs)
    if capability.index == _EPT_VPID:
        return _ept(capability, profile)
    if capability.index == msr.MSR_IA32_VMX_MISC:
        return _misc(capability)
    if capability.index == msr.MSR_IA32_VMX_VMFUNC:
        return _vm_function(capability, msrs)
    return None


def _control(capability: Capability, msrs: Mapping[int, int]) -> _Plan:
    index, word = capability.index, _FIELDS[capability.index]
    value = msrs.get(index, 0)
    if capability.kind == "may-be-0":
        return _cleared(capability, msrs)
    bit = capability.mask >> _HALF
    demands = {index: value | bit}
    controls = {word: bit}
    if index == _SECONDARY:
        demands, controls = _secondary(msrs, bit), _activated(bit)
    return _Plan(demands, {}, lambda attempt: _control_of(attempt, word, bit) != 0, controls)


def _cleared(capability: Capability, msrs: Mapping[int, int]) -> _Plan:
    index, bit, word = capability.index, capability.mask, _FIELDS[capability.index]
    without = {index: msrs.get(index, 0) & ~(bit << _HALF)}
    if index != _SECONDARY:
        return _Plan(without, {}, lambda attempt: not getattr(attempt.vmcs, word) & bit)
    activate = Primary.ACTIVATE_SECONDARY_CONTROLS
    return _Plan(
        without,
        {},
        lambda attempt: bool(
            attempt.vmcs.cpu_based_vm_exec_control & activate
            and not attempt.vmcs.secondary_vm_exec_control & bit
        ),
        _activated(0),
    )


def _control_of(attempt: Attempt, word: str, bit: int) -> int:
    """Return whether a control is in effect; of secondary ones, if they are activated."""
    vmcs = attempt.vmcs
    if word == "secondary_vm_exec_control" and not (
        vmcs.cpu_based_vm_exec_control & Primary.ACTIVATE_SECONDARY_CONTROLS
    ):
        return 0
    return int(getattr(vmcs, word) & bit)


def _secondary(msrs: Mapping[int, int], bits: int) -> dict[int, int]:
    """Return the MSRs of a processor that demands these secondary controls."""
    primary = msrs.get(_PRIMARY, 0) | Primary.ACTIVATE_SECONDARY_CONTROLS
    return {_PRIMARY: primary, _SECONDARY: msrs.get(_SECONDARY, 0) | bits}


def _activated(bits: int) -> dict[str, int]:
    """Return these secondary controls, and the primary one that they need."""
    return {
        "cpu_based_vm_exec_control": int(Primary.ACTIVATE_SECONDARY_CONTROLS),
        "secondary_vm_exec_control": bits,
    }


def _register(capability: Capability, msrs: Mapping[int, int]) -> _Plan:
    register, other = _REGISTERS[capability.index]
    limit = msrs.get(other, 0)
    bit = capability.mask
    if capability.index in FIXED0:
        clear = {other: limit & ~bit}
        return _Plan(clear, {}, lambda attempt: not getattr(attempt.vmcs, register) & bit)
    return _Plan(
        {other: limit | bit}, {}, lambda attempt: bool(getattr(attempt.vmcs, register) & bit)
    )


def _ept(capability: Capability, profile: Profile) -> _Plan | None:
    bit = capability.mask
    if bit not in _IN_EPTP:
        return None
    part, chosen = _IN_EPTP[bit]
    return _Plan(
        _secondary(profile.msrs, int(Secondary.ENABLE_EPT)),
        {"ept_pointer": ept_pointer(profile) & ~part | chosen},
        lambda attempt: bool(
            _control_of(attempt, "secondary_vm_exec_control", Secondary.ENABLE_EPT)
            and attempt.vmcs.ept_pointer & part == chosen
        ),
        _activated(int(Secondary.ENABLE_EPT)),
    )


def _misc(capability: Capability) -> _Plan | None:
    bit = capability.mask
    if bit in _STATES:
        state = int(_STATES[bit])
        fields = {"guest_activity_state": state}
        return _Plan({}, fields, lambda attempt: attempt.vmcs.guest_activity_state == state)
    if bit == VmxMisc.ZERO_LENGTH_INJECTION:
        fields = {"vm_entry_intr_info_field": _SOFTWARE_INTERRUPT, "vm_entry_instruction_len": 0}
        return _Plan({}, fields, _injects_without_length)
    if bit == VmxMisc.CR3_TARGETS and capability.value:
        count = capability.value >> VmxMisc.CR3_TARGETS.position
        fields = {"cr3_target_count": count}
        return _Plan({}, fields, lambda attempt: attempt.vmcs.cr3_target_count == count)
    return None


def _injects_without_length(attempt: Attempt) -> bool:
    vmcs = attempt.vmcs
    return vmcs.vm_entry_intr_info_field == _SOFTWARE_INTERRUPT and not (
        vmcs.vm_entry_instruction_len
    )


def _vm_function(capability: Capability, msrs: Mapping[int, int]) -> _Plan | None:
    if capability.mask != VmFunction.EPTP_SWITCHING:
        return None
    needed = Secondary.ENABLE_VM_FUNCTIONS | Secondary.ENABLE_EPT
    return _Plan(
        _secondary(msrs, int(needed)),
        {"vm_function_control": capability.mask},
        lambda attempt: bool(
            attempt.vmcs.vm_function_control & capability.mask
            and _control_of(attempt, "secondary_vm_exec_control", Secondary.ENABLE_VM_FUNCTIONS)
        ),
        _activated(int(needed)),
    )
