# SPDX-License-Identifier: GPL-2.0-only
"""nested_vmx_check_vmentry_hw(): a VM entry made to fail, to learn whether vmcs02 would VMfail.

vmx/nested.c, up to the kernel that took it out. A processor makes every check that ends in VMfail
before any that ends in a VM exit, so with RFLAGS bit 1 cleared in the guest state a sound vmcs02
ends in a VM exit. That exit resets DR7 and RFLAGS.IF of the host, which must be put back.
"""

from __future__ import annotations

from dataclasses import replace

from nvmxfuzz.arch.events import InterruptionInfo
from nvmxfuzz.arch.instruction_errors import InstructionError
from nvmxfuzz.kvm.hardware import Hardware, HardwareEntry, enter_hardware
from nvmxfuzz.kvm.vcpu import RESET_DR7, Vcpu

EARLY_HARDWARE_CHECK = "hardware.early-check.vmfail"


def nested_vmx_check_vmentry_hw(vcpu: Vcpu, hardware: Hardware) -> tuple[str, HardwareEntry | None]:
    """Make the dry run if it is asked for; return the name of its failure, or ""."""
    if not vcpu.early_check:
        return "", None
    vmcs = vcpu.vmcs
    switched = len(vcpu.msr_autoload)
    if switched:
        vmcs["vm_exit_msr_load_count"] = vmcs["vm_entry_msr_load_count"] = 0
    vmx_prepare_switch_to_guest(vcpu)
    vmcs["guest_rflags"] = 0
    vmcs["host_cr3"] = vcpu.host.cr3
    vmcs["host_cr4"] = vcpu.host.cr4
    entry = enter_hardware(vcpu, hardware, dry_run=True)
    if switched:
        vmcs["vm_exit_msr_load_count"] = vmcs["vm_entry_msr_load_count"] = switched
    if entry.outcome.kind in ("fail-valid", "fail-invalid"):
        if entry.outcome.number != InstructionError.ENTRY_INVALID_CONTROL_FIELD:
            vcpu.warn("nested_vmx_check_vmentry_hw.error")
        return EARLY_HARDWARE_CHECK, entry
    _restore_host(vcpu)
    if entry.outcome.kind != "exit":
        # The event of L2's is injected: the VM exit has told so.
        vmcs["vm_entry_intr_info_field"] &= ~InterruptionInfo.VALID
        vcpu.warn("nested_vmx_check_vmentry_hw.entered")
    return "", entry


def _restore_host(vcpu: Vcpu) -> None:
    """Undo what the VM exit did to the host: DR7 is 400H then, and interrupts are off.

    DR7 is written only if something on the host uses breakpoints; else it is 400H in any case.
    """
    after = replace(vcpu.host, dr7=RESET_DR7, interrupts_enabled=False)
    if after.breakpoints_active:
        after = replace(after, dr7=vcpu.kvm.host.dr7)
    vcpu.host = replace(after, interrupts_enabled=True)


def vmx_prepare_switch_to_guest(vcpu: Vcpu) -> None:
    """Set the host state that belongs to the running task."""
    vcpu.vmcs["host_gs_base"] = vcpu.host.gs_base
    vcpu.vmcs["host_rsp"] = vcpu.host.rsp
