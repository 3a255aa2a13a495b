# SPDX-License-Identifier: GPL-2.0-only
"""vmx_set_vmx_msr() and every vmx_restore_*(): userspace gives a vCPU its VMX capability MSRs.

vmx/nested.c, with the kernel's function names, order and errno. `supported` is what a value is
held against: what KVM offers (6.1, 6.12), or what the vCPU has at the moment (5.18).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Pin
from nvmxfuzz.arch.vmx_msr import VmxBasic, VmxMisc
from nvmxfuzz.kvm.nested_msrs import CONTROL_MSRS, WHOLE_MSRS, NestedVmxMsrs, vmx_get_vmx_msr

WORD = (1 << 32) - 1
ALL_ONES = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class SetResult:
    """What a write came to: 0, or what the kernel returns (-errno, or 1), and which check it was.

    `check` is a name of ours, "" for a value that was taken.
    """

    errno: int
    check: str = ""

    def __bool__(self) -> bool:
        """Whether the value was taken."""
        return self.errno == 0


TAKEN = SetResult(0)

_BASIC_FEATURES = (
    VmxBasic.DUAL_MONITOR_TREATMENT | VmxBasic.INS_OUTS_INFORMATION | VmxBasic.TRUE_CONTROLS
)
_BASIC_RESERVED = 0xFF << 56 | 0x7 << 45 | 1 << 31

_MISC_FEATURES = (
    VmxMisc.STORE_EFER_LMA
    | VmxMisc.ACTIVITY_HLT
    | VmxMisc.ACTIVITY_SHUTDOWN
    | VmxMisc.ACTIVITY_WAIT_FOR_SIPI
    | VmxMisc.INTEL_PT_IN_VMX
    | VmxMisc.SMBASE_IN_SMM
    | VmxMisc.SMI_UNBLOCK_BY_VMXOFF
    | VmxMisc.VMWRITE_ANY_FIELD
    | VmxMisc.ZERO_LENGTH_INJECTION
)
_MISC_RESERVED = 0x1F << 9 | 1 << 31

_DEFAULT_CONTROLS = frozenset(
    {
        msr.MSR_IA32_VMX_PINBASED_CTLS,
        msr.MSR_IA32_VMX_PROCBASED_CTLS,
        msr.MSR_IA32_VMX_EXIT_CTLS,
        msr.MSR_IA32_VMX_ENTRY_CTLS,
    }
)
_TRUE_CONTROLS = frozenset(
    {
        msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS,
        msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
        msr.MSR_IA32_VMX_TRUE_EXIT_CTLS,
        msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS,
        msr.MSR_IA32_VMX_PROCBASED_CTLS2,
    }
)
_FIXED0 = frozenset({msr.MSR_IA32_VMX_CR0_FIXED0, msr.MSR_IA32_VMX_CR4_FIXED0})
_FIXED1 = frozenset({msr.MSR_IA32_VMX_CR0_FIXED1, msr.MSR_IA32_VMX_CR4_FIXED1})


def is_bitwise_subset(superset: int, subset: int, mask: int) -> bool:
    """Whether every bit of `subset` within `mask` is one of `superset`."""
    return subset & mask & ~superset == 0


def vmx_set_vmx_msr(
    msrs: NestedVmxMsrs, supported: NestedVmxMsrs, vmxon: bool, index: int, data: int
) -> SetResult:
    """Give MSR `index` the 64-bit value `data`; a value that is refused changes nothing.

    `vmxon`: L1 is in VMX operation, where its capabilities must stay.
    """
    if vmxon:
        return SetResult(-errno.EBUSY, "restore.vmx-operation")
    if index in _TRUE_CONTROLS:
        return vmx_restore_control_msr(msrs, supported, index, data)
    if index == msr.MSR_IA32_VMX_BASIC:
        return vmx_restore_vmx_basic(msrs, supported, data)
    if index == msr.MSR_IA32_VMX_MISC:
        return vmx_restore_vmx_misc(msrs, supported, data)
    if index == msr.MSR_IA32_VMX_EPT_VPID_CAP:
        return vmx_restore_vmx_ept_vpid_cap(msrs, supported, data)
    if index in _FIXED0:
        return vmx_restore_fixed0_msr(msrs, supported, index, data)
    if index == msr.MSR_IA32_VMX_VMCS_ENUM:
        msrs.vmcs_enum = data
        return TAKEN
    if index == msr.MSR_IA32_VMX_VMFUNC:
        return _restore_vmfunc(msrs, supported, data)
    return _never_restored(index)


def _never_restored(index: int) -> SetResult:
    if index in _DEFAULT_CONTROLS:
        return _refused("restore.default-controls.generated")
    if index in _FIXED1:
        return _refused("restore.fixed1.generated")
    return _refused("restore.index.unknown")


def _refused(check: str) -> SetResult:
    return SetResult(-errno.EINVAL, check)


def _whole(msrs: NestedVmxMsrs, index: int) -> int:
    value = vmx_get_vmx_msr(msrs, index)
    assert value is not None
    return value


def _put(msrs: NestedVmxMsrs, index: int, data: int) -> SetResult:
    halves = CONTROL_MSRS[index]
    setattr(msrs, halves.low, data & WORD)
    setattr(msrs, halves.high, data >> 32)
    return TAKEN


def vmx_restore_vmx_basic(msrs: NestedVmxMsrs, supported: NestedVmxMsrs, data: int) -> SetResult:
    """IA32_VMX_BASIC: no feature beyond the offered, 64-bit addresses, and at least KVM's size.

    Neither the memory type nor an upper bound of the size is looked at.
    """
    basic = supported.basic
    if not is_bitwise_subset(basic, data, _BASIC_FEATURES | _BASIC_RESERVED):
        return _refused("restore.basic.features")
    if data & VmxBasic.PHYSICAL_ADDRESSES_32_BIT:
        return _refused("restore.basic.address-width")
    if (basic ^ data) & VmxBasic.REVISION_ID:
        return _refused("restore.basic.revision-id")
    if basic & VmxBasic.REGION_SIZE > data & VmxBasic.REGION_SIZE:
        return _refused("restore.basic.region-size")
    msrs.basic = data
    return TAKEN


def vmx_restore_control_msr(
    msrs: NestedVmxMsrs, supported: NestedVmxMsrs, index: int, data: int
) -> SetResult:
    """A true control MSR: what must be 1 stays so, and no bit may be 1 beyond the offered.

    The halves are not compared with one another.
    """
    offered = _whole(supported, index)
    if not is_bitwise_subset(data, offered, WORD):
        return _refused("restore.controls.must-be-1")
    if not is_bitwise_subset(offered, data, WORD << 32):
        return _refused("restore.controls.may-be-1")
    return _put(msrs, index, data)


def vmx_restore_vmx_misc(msrs: NestedVmxMsrs, supported: NestedVmxMsrs, data: int) -> SetResult:
    """IA32_VMX_MISC; the timer's rate is looked at only while the vCPU is offered the timer."""
    misc = supported.misc_low | supported.misc_high << 32
    if not is_bitwise_subset(misc, data, _MISC_FEATURES | _MISC_RESERVED):
        return _refused("restore.misc.features")
    has_timer = msrs.pinbased_ctls_high & Pin.ACTIVATE_VMX_PREEMPTION_TIMER
    if has_timer and (data ^ misc) & VmxMisc.PREEMPTION_TIMER_RATE:
        return _refused("restore.misc.preemption-timer-rate")
    if data & VmxMisc.CR3_TARGETS > misc & VmxMisc.CR3_TARGETS:
        return _refused("restore.misc.cr3-targets")
    if data & VmxMisc.MAX_MSR_LIST > misc & VmxMisc.MAX_MSR_LIST:
        return _refused("restore.misc.max-msr-list")
    if (data ^ misc) & VmxMisc.MSEG_REVISION_ID:
        return _refused("restore.misc.mseg-revision-id")
    return _put(msrs, msr.MSR_IA32_VMX_MISC, data)


def vmx_restore_vmx_ept_vpid_cap(
    msrs: NestedVmxMsrs, supported: NestedVmxMsrs, data: int
) -> SetResult:
    """IA32_VMX_EPT_VPID_CAP: no bit beyond the offered."""
    offered = _whole(supported, msr.MSR_IA32_VMX_EPT_VPID_CAP)
    if not is_bitwise_subset(offered, data, ALL_ONES):
        return _refused("restore.ept-vpid.features")
    return _put(msrs, msr.MSR_IA32_VMX_EPT_VPID_CAP, data)


def vmx_restore_fixed0_msr(
    msrs: NestedVmxMsrs, supported: NestedVmxMsrs, index: int, data: int
) -> SetResult:
    """CR0_FIXED0 or CR4_FIXED0: what is fixed to 1 stays so; more may be, even beyond FIXED1."""
    if not is_bitwise_subset(data, _whole(supported, index), ALL_ONES):
        return _refused("restore.fixed0.must-be-1")
    setattr(msrs, WHOLE_MSRS[index], data)
    return TAKEN


def _restore_vmfunc(msrs: NestedVmxMsrs, supported: NestedVmxMsrs, data: int) -> SetResult:
    if data & ~supported.vmfunc_controls:
        return _refused("restore.vmfunc.functions")
    msrs.vmfunc_controls = data
    return TAKEN
