# SPDX-License-Identifier: GPL-2.0-only
"""A config, a refusal and a warning for a reader: SDM names for bits, sentences for sites."""

from __future__ import annotations

from nvmxfuzz.arch.bits import named_bits
from nvmxfuzz.arch.controls import Pin, Primary, Secondary, Tertiary, VmEntry, VmExit
from nvmxfuzz.kvm.vmcs_config import KernelWarning, VmcsConfig

WORDS: tuple[tuple[str, type], ...] = (
    ("pin_based_exec_ctrl", Pin),
    ("cpu_based_exec_ctrl", Primary),
    ("cpu_based_2nd_exec_ctrl", Secondary),
    ("cpu_based_3rd_exec_ctrl", Tertiary),
    ("vmexit_ctrl", VmExit),
    ("vmentry_ctrl", VmEntry),
)
"""The control words of a config, in the order of the struct, with the table of their bits."""

_WARNINGS = {
    "ept_cap_without_control": "an EPT capability is reported, but not the control 'enable EPT'",
    "vpid_cap_without_control": "a VPID capability is reported, but not the control 'enable VPID'",
    "entry_exit_pair": (
        "of a VM-entry and VM-exit pair of controls only one half exists: entry {:#x}, exit {:#x}"
    ),
    "perf_global_ctrl_erratum": (
        "this processor model loses bits of IA32_PERF_GLOBAL_CTRL on VM exit: the VMX controls "
        "for it are not used"
    ),
    "unchecked_rdmsr": (
        "MSR {:#x} does not exist: RDMSR faulted and the value was taken to be 0 (from the "
        "kernel, not from KVM; only the first such MSR is named)"
    ),
    "warn": "a WARN of the kernel at {}",
    "unrecognised": "{}",
    "evmcs_unsupported": "controls {1:#x} of {0} have no field in the enlightened VMCS",
}

_REFUSALS = {
    "required": "a control that KVM requires is missing from {}",
    "ept_cap_without_control": "inconsistent: " + _WARNINGS["ept_cap_without_control"],
    "vpid_cap_without_control": "inconsistent: " + _WARNINGS["vpid_cap_without_control"],
    "entry_exit_pair": "inconsistent: a VM-entry control and its VM-exit control do not both exist",
    "basic.size": "IA32_VMX_BASIC reports a VMCS region larger than 4096 bytes",
    "basic.address_width": "IA32_VMX_BASIC limits VMX structures to 32 physical-address bits",
    "basic.memory_type": "IA32_VMX_BASIC does not report write-back memory for VMX structures",
}

_RESTORE = {
    "restore.vmx-operation": "L1 is in VMX operation, where its capabilities must stay",
    "restore.default-controls.generated": "KVM computes this MSR from the true one",
    "restore.fixed1.generated": "KVM computes this MSR from CPUID",
    "restore.index.unknown": "KVM does not emulate this MSR",
    "restore.basic.features": "a feature, or a reserved bit, that KVM does not offer here",
    "restore.basic.address-width": "VMX structures would be limited to 32 address bits",
    "restore.basic.revision-id": "another VMCS revision than KVM's",
    "restore.basic.region-size": "a smaller VMCS region than KVM uses",
    "restore.controls.must-be-1": "a control may be 0 that must be 1 here",
    "restore.controls.may-be-1": "a control may be 1 that KVM does not offer here",
    "restore.misc.features": "a feature, or a reserved bit, that KVM does not offer here",
    "restore.misc.preemption-timer-rate": "another rate of the VMX-preemption timer",
    "restore.misc.cr3-targets": "more CR3-target values than KVM has",
    "restore.misc.max-msr-list": "longer MSR lists than KVM takes",
    "restore.misc.mseg-revision-id": "another MSEG revision",
    "restore.ept-vpid.features": "a capability of EPT or VPID that KVM does not offer here",
    "restore.fixed0.must-be-1": "a bit may be 0 that is fixed to 1 here",
    "restore.vmfunc.functions": "a VM function that KVM does not offer here",
    "set-msr.index.unknown": "KVM does not know this MSR",
    "set-msr.vmx.read-only": "L1 cannot write it",
    "set-msr.vmx.no-cpuid": "the vCPU has no VMX: KVM has no nested, or CPUID does not tell of it",
    "set-msr.vmx.has-run": "the vCPU has run, and its capabilities stay as they are",
    "set-msr.feature-control.bits": "a bit that this vCPU's CPUID does not allow",
    "set-msr.feature-control.locked": "the MSR is locked",
}


def restore_text(check: str) -> str:
    """Return what a check of `msr_restore` or `msr_vcpu` found, "" for a name that is unknown."""
    return _RESTORE.get(check, "")


def warning_text(warning: KernelWarning) -> str:
    """Return one line, in this project's words, for a line of the kernel log."""
    site, _, word = warning.site.partition(".")
    template = _WARNINGS[site]
    return (
        template.format(word, *warning.arguments) if word else template.format(*warning.arguments)
    )


def refusal_text(site: str) -> str:
    """Return one line that says why the config was refused, for `ConfigOutcome.site`."""
    if not site:
        return "refused"
    if site in _REFUSALS:
        return _REFUSALS[site]
    kind, _, word = site.partition(".")
    return _REFUSALS[kind].format(word)


def control_names(value: int, table: type) -> tuple[str, ...]:
    """Return the SDM name of each bit that is set, lowest first; one without a name is `bit N`."""
    names = {bit.position: bit.sdm_name for bit in named_bits(table).values()}
    set_bits = (position for position in range(value.bit_length()) if value >> position & 1)
    return tuple(names.get(position, f"bit {position}") for position in set_bits)


def config_controls(config: VmcsConfig) -> dict[str, tuple[str, ...]]:
    """Return the names of the controls of each word of a config, by the kernel's word name."""
    return {word: control_names(getattr(config, word), table) for word, table in WORDS}
