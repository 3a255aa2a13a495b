# SPDX-License-Identifier: GPL-2.0-only
"""nested_vmx_check_address_space_size() and nested_vmx_check_host_state(): vmcs12's host state.

vmx/nested.c, in the kernel's order. Each function returns the name of the first check that fails,
"" if none does; a failure is VMfailValid 8.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import VmEntry, VmExit
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer
from nvmxfuzz.kvm.check_values import (
    is_noncanonical_address,
    is_noncanonical_base_address,
    is_noncanonical_msr_address,
    kvm_pat_valid,
    kvm_valid_efer,
    kvm_valid_perf_global_ctrl,
    kvm_vcpu_is_legal_cr3,
    nested_cr4_valid,
    nested_host_cr0_valid,
)
from nvmxfuzz.kvm.nested_checks_cet import check_host_cet
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.machine.vmcs import Vmcs

_IA32E_HOST = int(VmExit.HOST_ADDRESS_SPACE_SIZE)
_RPL_AND_TI = 7


def nested_vmx_check_address_space_size(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """VM exit returns to the mode that L1 is in."""
    if (vmcs12.vm_exit_controls & _IA32E_HOST != 0) != (vcpu.efer & Efer.LMA != 0):
        return "host.address-space.size"
    return ""


def nested_vmx_check_host_state(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """What VM exit will load is what a processor can hold."""
    ia32e = vmcs12.vm_exit_controls & _IA32E_HOST != 0
    return (
        _check_control_registers(vcpu, vmcs12)
        or _check_msrs(vcpu, vmcs12)
        or _check_mode(vmcs12, ia32e)
        or _check_selectors(vmcs12, ia32e)
        or _check_bases(vcpu, vmcs12)
        or check_host_efer(vcpu, vmcs12, ia32e)
        or check_host_cet(vcpu, vmcs12, ia32e)
    )


def _check_control_registers(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    if not nested_host_cr0_valid(vcpu, vmcs12.host_cr0):
        return "host.cr0.fixed"
    if not nested_cr4_valid(vcpu, vmcs12.host_cr4):
        return "host.cr4.valid"
    if not kvm_vcpu_is_legal_cr3(vcpu, vmcs12.host_cr3):
        return "host.cr3.width"
    if (
        vcpu.behaviour.checks_cet_needs_wp
        and vmcs12.host_cr4 & Cr4.CET
        and not vmcs12.host_cr0 & Cr0.WP
    ):
        return "host.cet.write-protect"
    return ""


def _check_msrs(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    if is_noncanonical_msr_address(vmcs12.host_ia32_sysenter_esp, vcpu):
        return "host.sysenter-esp.canonical"
    if is_noncanonical_msr_address(vmcs12.host_ia32_sysenter_eip, vcpu):
        return "host.sysenter-eip.canonical"
    controls = vmcs12.vm_exit_controls
    if controls & VmExit.LOAD_IA32_PAT and not kvm_pat_valid(vmcs12.host_ia32_pat):
        return "host.pat.types"
    if controls & VmExit.LOAD_IA32_PERF_GLOBAL_CTRL and not kvm_valid_perf_global_ctrl(
        vcpu, vmcs12.host_ia32_perf_global_ctrl
    ):
        return "host.perf-global-ctrl.reserved"
    return ""


def _check_mode(vmcs12: Vmcs, ia32e: bool) -> str:
    if ia32e:
        return "" if vmcs12.host_cr4 & Cr4.PAE else "host.cr4.pae"
    if vmcs12.vm_entry_controls & VmEntry.IA_32E_MODE_GUEST:
        return "host.address-space.guest"
    if vmcs12.host_cr4 & Cr4.PCIDE:
        return "host.cr4.pcide"
    if vmcs12.host_rip >> 32:
        return "host.rip.width"
    return ""


def _check_selectors(vmcs12: Vmcs, ia32e: bool) -> str:
    if vmcs12.host_cs_selector & _RPL_AND_TI:
        return "host.cs.selector"
    if vmcs12.host_ss_selector & _RPL_AND_TI:
        return "host.ss.selector"
    if vmcs12.host_ds_selector & _RPL_AND_TI:
        return "host.ds.selector"
    if vmcs12.host_es_selector & _RPL_AND_TI:
        return "host.es.selector"
    if vmcs12.host_fs_selector & _RPL_AND_TI:
        return "host.fs.selector"
    if vmcs12.host_gs_selector & _RPL_AND_TI:
        return "host.gs.selector"
    if vmcs12.host_tr_selector & _RPL_AND_TI:
        return "host.tr.selector"
    if vmcs12.host_cs_selector == 0:
        return "host.cs.null"
    if vmcs12.host_tr_selector == 0:
        return "host.tr.null"
    if vmcs12.host_ss_selector == 0 and not ia32e:
        return "host.ss.null"
    return ""


def _check_bases(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    if is_noncanonical_base_address(vmcs12.host_fs_base, vcpu):
        return "host.fs.base"
    if is_noncanonical_base_address(vmcs12.host_gs_base, vcpu):
        return "host.gs.base"
    if is_noncanonical_base_address(vmcs12.host_gdtr_base, vcpu):
        return "host.gdtr.base"
    if is_noncanonical_base_address(vmcs12.host_idtr_base, vcpu):
        return "host.idtr.base"
    if is_noncanonical_base_address(vmcs12.host_tr_base, vcpu):
        return "host.tr.base"
    if is_noncanonical_address(vmcs12.host_rip, vcpu):
        return "host.rip.canonical"
    return ""


def check_host_efer(vcpu: Vcpu, vmcs12: Vmcs, ia32e: bool) -> str:
    """EFER is valid, with LMA and LME as VM exit is to leave them; `ia32e`: both 1."""
    if not vmcs12.vm_exit_controls & VmExit.LOAD_IA32_EFER:
        return ""
    efer = vmcs12.host_ia32_efer
    if not kvm_valid_efer(vcpu, efer):
        return "host.efer.reserved"
    if ia32e != (efer & Efer.LMA != 0):
        return "host.efer.lma"
    if ia32e != (efer & Efer.LME != 0):
        return "host.efer.lme"
    return ""
