# SPDX-License-Identifier: GPL-2.0-only
"""The consistency checks of CET state in vmcs12, in kernels that have nested CET.

vmx/nested.c, as the patches were posted; each function returns the name of the first check that
fails, "" if none does.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import VmEntry, VmExit
from nvmxfuzz.arch.registers import SCet
from nvmxfuzz.kvm.check_values import is_canonical, is_noncanonical_msr_address
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.machine.vmcs import Vmcs

_SHADOW_STACK = SCet.SH_STK_EN | SCet.WR_SHSTK_EN
_TRACKING = 0xFFFF_FFFF_FFFF_FFFF & ~(_SHADOW_STACK | SCet.RESERVED)
_UNALIGNED_BITMAP = 3 << 12


def kvm_is_valid_u_s_cet(vcpu: Vcpu, value: int) -> bool:
    """Whether the vCPU's CPUID lets IA32_S_CET have the value."""
    features = vcpu.virtual.features
    if value & SCet.RESERVED or value & _UNALIGNED_BITMAP:
        return False
    if value & _SHADOW_STACK and "cet-ss" not in features:
        return False
    if value & _TRACKING and "cet-ibt" not in features:
        return False
    return not (value & SCet.SUPPRESS and value & SCet.TRACKER)


def check_host_cet(vcpu: Vcpu, vmcs12: Vmcs, ia32e: bool) -> str:
    """The CET state that VM exit loads is valid and fits the mode that it returns to."""
    if not vcpu.behaviour.knows_cet or not vmcs12.vm_exit_controls & VmExit.LOAD_CET_STATE:
        return ""
    s_cet, ssp = vmcs12.host_s_cet, vmcs12.host_ssp
    failed = _check_common(vcpu, s_cet, ssp, vmcs12.host_intr_ssp_table)
    if failed:
        return f"host.{failed}"
    if ia32e:
        if is_noncanonical_msr_address(s_cet, vcpu):
            return "host.s-cet.canonical"
        if is_noncanonical_msr_address(ssp, vcpu):
            return "host.ssp.canonical"
        return ""
    if s_cet >> 32:
        return "host.s-cet.width"
    return "host.ssp.width" if ssp >> 32 else ""


def check_guest_cet(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """The CET state that VM entry loads is valid; SSP may have one bit more than an address."""
    if not vcpu.behaviour.knows_cet or not vmcs12.vm_entry_controls & VmEntry.LOAD_CET_STATE:
        return ""
    ssp = vmcs12.guest_ssp
    failed = _check_common(vcpu, vmcs12.guest_s_cet, ssp, vmcs12.guest_intr_ssp_table)
    if failed:
        return f"guest.{failed}"
    if not is_canonical(ssp, vcpu.virtual.host_virt_addr_bits + 1):
        return "guest.ssp.width"
    return ""


def _check_common(vcpu: Vcpu, s_cet: int, ssp: int, table: int) -> str:
    if not kvm_is_valid_u_s_cet(vcpu, s_cet):
        return "s-cet.valid"
    if ssp & 3:
        return "ssp.alignment"
    if is_noncanonical_msr_address(table, vcpu):
        return "ssp-table.canonical"
    return ""
