# SPDX-License-Identifier: GPL-2.0-only
"""What the VMX capability MSRs mean, computed once per profile.

SDM: "VMX Capability Reporting Facility". Nothing is corrected: an inconsistent table gives
inconsistent capabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.bits import Bit
from nvmxfuzz.arch.vmx_msr import VmxBasic, VmxMisc

_ALL_ONES = 0xFFFF_FFFF_FFFF_FFFF
_LOW = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the processor lets VM entry accept; `*_must` bits must be 1, `*_may` bits can be 1.

    A control word whose MSR is absent has both masks 0: none of its controls may be 1. An absent
    CR0 or CR4 MSR fixes no bit. Every other absent MSR counts as 0.
    """

    pin_must: int
    pin_may: int
    primary_must: int
    primary_may: int
    secondary_must: int
    secondary_may: int
    tertiary_may: int
    exit_must: int
    exit_may: int
    exit2_may: int
    entry_must: int
    entry_may: int

    cr0_fixed0: int
    """Bits of CR0 that must be 1 in VMX operation."""
    cr0_fixed1: int
    """Bits of CR0 that can be 1 in VMX operation."""
    cr4_fixed0: int
    cr4_fixed1: int

    revision: int
    """VMCS revision identifier, 31 bits."""
    region_size: int
    """Size of a VMXON or VMCS region in bytes."""
    address_limit_bits: int
    """Width of the physical addresses of VMX structures: 32 where BASIC[48], else MAXPHYADDR."""
    physical_reserved: int
    """Address bits beyond `address_limit_bits`."""
    dual_monitor: bool
    any_exception_may_deliver_error_code: bool
    nested_exception: bool

    efer_lma_stored: bool
    activity_supported: int
    """Bit n is 1 where activity state n is supported."""
    pt_in_vmx: bool
    cr3_targets: int
    """How many CR3-target values there are."""
    max_msr_list: int
    """How many entries an MSR list should hold at most."""
    smi_unblock_by_vmxoff: bool
    vmwrite_any: bool
    zero_length_injection: bool

    ept_vpid_cap: int
    vmfunc_may: int


def derive_capabilities(msrs: Mapping[int, int], maxphyaddr: int) -> Capabilities:
    """Return what `msrs` say on a processor with `maxphyaddr` physical-address bits."""
    basic = msrs.get(msr.MSR_IA32_VMX_BASIC, 0)
    misc = msrs.get(msr.MSR_IA32_VMX_MISC, 0)
    true = basic & VmxBasic.TRUE_CONTROLS
    limit = 32 if basic & VmxBasic.PHYSICAL_ADDRESSES_32_BIT else maxphyaddr

    def word(plain: int, true_msr: int) -> tuple[int, int]:
        value = msrs.get(true_msr if true else plain, 0)
        return value & _LOW, value >> 32

    pin = word(msr.MSR_IA32_VMX_PINBASED_CTLS, msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS)
    primary = word(msr.MSR_IA32_VMX_PROCBASED_CTLS, msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS)
    vm_exit = word(msr.MSR_IA32_VMX_EXIT_CTLS, msr.MSR_IA32_VMX_TRUE_EXIT_CTLS)
    vm_entry = word(msr.MSR_IA32_VMX_ENTRY_CTLS, msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS)
    secondary = msrs.get(msr.MSR_IA32_VMX_PROCBASED_CTLS2, 0)
    return Capabilities(
        pin_must=pin[0],
        pin_may=pin[1],
        primary_must=primary[0],
        primary_may=primary[1],
        secondary_must=secondary & _LOW,
        secondary_may=secondary >> 32,
        tertiary_may=msrs.get(msr.MSR_IA32_VMX_PROCBASED_CTLS3, 0),
        exit_must=vm_exit[0],
        exit_may=vm_exit[1],
        exit2_may=msrs.get(msr.MSR_IA32_VMX_EXIT_CTLS2, 0),
        entry_must=vm_entry[0],
        entry_may=vm_entry[1],
        cr0_fixed0=msrs.get(msr.MSR_IA32_VMX_CR0_FIXED0, 0),
        cr0_fixed1=msrs.get(msr.MSR_IA32_VMX_CR0_FIXED1, _ALL_ONES),
        cr4_fixed0=msrs.get(msr.MSR_IA32_VMX_CR4_FIXED0, 0),
        cr4_fixed1=msrs.get(msr.MSR_IA32_VMX_CR4_FIXED1, _ALL_ONES),
        revision=_field(basic, VmxBasic.REVISION_ID),
        region_size=_field(basic, VmxBasic.REGION_SIZE),
        address_limit_bits=limit,
        physical_reserved=_ALL_ONES & -(1 << limit),
        dual_monitor=bool(basic & VmxBasic.DUAL_MONITOR_TREATMENT),
        any_exception_may_deliver_error_code=bool(
            basic & VmxBasic.ANY_EXCEPTION_MAY_DELIVER_ERROR_CODE
        ),
        nested_exception=bool(basic & VmxBasic.NESTED_EXCEPTION),
        efer_lma_stored=bool(misc & VmxMisc.STORE_EFER_LMA),
        activity_supported=_activity_states(misc),
        pt_in_vmx=bool(misc & VmxMisc.INTEL_PT_IN_VMX),
        cr3_targets=_field(misc, VmxMisc.CR3_TARGETS),
        max_msr_list=512 * (_field(misc, VmxMisc.MAX_MSR_LIST) + 1),
        smi_unblock_by_vmxoff=bool(misc & VmxMisc.SMI_UNBLOCK_BY_VMXOFF),
        vmwrite_any=bool(misc & VmxMisc.VMWRITE_ANY_FIELD),
        zero_length_injection=bool(misc & VmxMisc.ZERO_LENGTH_INJECTION),
        ept_vpid_cap=msrs.get(msr.MSR_IA32_VMX_EPT_VPID_CAP, 0),
        vmfunc_may=msrs.get(msr.MSR_IA32_VMX_VMFUNC, 0),
    )


def _field(value: int, mask: Bit) -> int:
    return (value & mask) >> mask.position


def _activity_states(misc: int) -> int:
    # Bits 6, 7 and 8 announce the states 1, 2 and 3; the active state needs no announcement.
    announced = VmxMisc.ACTIVITY_HLT | VmxMisc.ACTIVITY_SHUTDOWN | VmxMisc.ACTIVITY_WAIT_FOR_SIPI
    return 1 | (misc & announced) >> 5
