# SPDX-License-Identifier: GPL-2.0-only
"""Where KVM is known to differ from the rules, and why.

Most of it is by design: KVM checks itself what protects it, or what the processor would not see in
the merged VMCS, and leaves the rest to the processor. `docs/known-differences-kvm.md` lists the
entries. What looks like a mistake stands in `known_mistakes`.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from nvmxfuzz.arch import sections
from nvmxfuzz.oracles.known import always
from nvmxfuzz.oracles.kvm import known_where as where
from nvmxfuzz.oracles.kvm.known_mistakes import MISTAKES
from nvmxfuzz.oracles.kvm.tables import KvmDifference, KvmTables, tables_from

_CODE_AND_DATA: Final = ("cs", "ss", "ds", "es", "fs", "gs")
_DATA: Final = ("ds", "es", "fs", "gs")
_SYSTEM: Final = ("tr", "ldtr")
_ALL: Final = (*_CODE_AND_DATA, *_SYSTEM)


def _each(names: tuple[str, ...], *aspects: str) -> tuple[str, ...]:
    return tuple(f"guest.{name}.{aspect}" for aspect in aspects for name in names)


BY_DESIGN: Final = (
    KvmDifference(
        "kvm.execution.tpr-threshold",
        "The TPR threshold goes into the merged VMCS as it is, and VTPR is that of L2.",
        sections.EXECUTION_CONTROLS,
        always,
        unchecked=("execution.tpr-threshold.reserved", "execution.tpr-threshold.vtpr"),
        function="prepare_vmcs02_early",
    ),
    KvmDifference(
        "kvm.execution.tsc-multiplier",
        "A TSC multiplier of 0 makes one of 0 in the merged VMCS.",
        sections.EXECUTION_CONTROLS,
        always,
        unchecked=("execution.tsc-multiplier.zero",),
        function="kvm_calc_nested_tsc_multiplier",
    ),
    KvmDifference(
        "kvm.guest.registers",
        "These registers go into the merged VMCS as they are.",
        sections.GUEST_REGISTERS,
        always,
        unchecked=(
            "guest.cr4.pcide",
            "guest.sysenter-esp.canonical",
            "guest.sysenter-eip.canonical",
        ),
        function="prepare_vmcs02_rare",
    ),
    KvmDifference(
        "kvm.guest.freeze-in-smm",
        "A quirk, KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM, lets L1 set FREEZE_WHILE_SMM, which "
        "KVM does not offer it and leaves out of the merged VMCS.",
        sections.GUEST_REGISTERS,
        where.freezes_in_smm_alone,
        unchecked=("guest.debugctl.reserved",),
        function="nested_vmx_check_guest_state",
        later="nobody",
        kernels=("6.12",),
    ),
    KvmDifference(
        "kvm.guest.segments",
        "KVM looks at a part of what a segment register holds, and all of it goes into the merged "
        "VMCS.",
        sections.GUEST_SEGMENTS,
        always,
        unchecked=(
            *_each(("tr", "fs", "gs", "ldtr"), "base-canonical"),
            *_each(("cs", "ss", "ds", "es"), "base-high"),
            "guest.cs.type-unrestricted",
            "guest.cs.dpl-data",
            "guest.ss.dpl-data-cs",
            "guest.ss.dpl-real-mode",
            "guest.cs.db",
            *_each(_DATA, "accessed", "readable"),
            *_each(_SYSTEM, "s"),
            *_each(_ALL, "p", "reserved-low", "reserved-high", "g-clear", "g-set"),
        ),
        function="__vmx_guest_state_valid",
    ),
    KvmDifference(
        "kvm.guest.segments-unrestricted",
        "KVM does not look at the segment registers of an unrestricted guest.",
        sections.GUEST_SEGMENTS,
        where.unrestricted,
        unchecked=(
            *_each(_CODE_AND_DATA, "s"),
            "guest.ss.type",
            *_each(_CODE_AND_DATA, "v8086-base", "v8086-limit"),
        ),
        function="vmx_guest_state_valid",
    ),
    KvmDifference(
        "kvm.guest.system-segments",
        "KVM does not look at TR and LDTR of an unrestricted or virtual-8086 guest.",
        sections.GUEST_SEGMENTS,
        where.system_register_unseen,
        unchecked=(
            *_each(_SYSTEM, "ti", "type"),
            "guest.tr.usable",
        ),
        function="__vmx_guest_state_valid",
    ),
    KvmDifference(
        "kvm.guest.tss-of-16-bits",
        "KVM lets TR be a 16-bit TSS in IA-32e mode as well.",
        sections.GUEST_SEGMENTS,
        where.tss_of_16_bits_or_unseen,
        unchecked=("guest.tr.type-ia-32e",),
        function="tr_valid",
    ),
    KvmDifference(
        "kvm.guest.ss-unusable",
        "KVM does not look at the DPL of an SS that is unusable.",
        sections.GUEST_SEGMENTS,
        where.unusable_beside_good_code,
        unchecked=("guest.ss.dpl-rpl",),
        function="stack_segment_valid",
    ),
    KvmDifference(
        "kvm.guest.cs-dpl",
        "KVM holds the DPL of CS against the RPL of CS, not against the DPL of SS.",
        sections.GUEST_SEGMENTS,
        where.code_fits_its_rpl,
        unchecked=("guest.cs.dpl-non-conforming", "guest.cs.dpl-conforming"),
        function="code_segment_valid",
    ),
    KvmDifference(
        "kvm.guest.v8086-access-rights",
        "KVM takes P and the DPL of a virtual-8086 guest's segment registers for granted, and does "
        "not look at reserved bits.",
        sections.GUEST_SEGMENTS,
        where.rights_as_kvm_keeps_them,
        unchecked=_each(("ss", *_DATA), "v8086-access-rights"),
        function="rmode_segment_valid",
    ),
    KvmDifference(
        "kvm.guest.v8086-cs-access-rights",
        "KVM takes P, the DPL and the type of a virtual-8086 guest's CS for granted, and does not "
        "look at reserved bits.",
        sections.GUEST_SEGMENTS,
        where.code_rights_as_kvm_keeps_them,
        unchecked=("guest.cs.v8086-access-rights",),
        function="rmode_segment_valid",
    ),
    KvmDifference(
        "kvm.guest.descriptor-tables",
        "GDTR and IDTR go into the merged VMCS as they are.",
        sections.GUEST_DESCRIPTOR_TABLES,
        always,
        unchecked=("guest.gdtr.base", "guest.idtr.base", "guest.gdtr.limit", "guest.idtr.limit"),
        function="prepare_vmcs02_rare",
    ),
    KvmDifference(
        "kvm.guest.rip-rflags",
        "RIP and RFLAGS go into the merged VMCS as they are.",
        sections.GUEST_RIP_RFLAGS,
        always,
        unchecked=(
            "guest.rip.high",
            "guest.rip.linear-address",
            "guest.rflags.reserved",
            "guest.rflags.fixed-1",
            "guest.rflags.vm-ia-32e",
            "guest.rflags.vm-real-mode",
            "guest.rflags.if",
        ),
        function="prepare_vmcs02",
    ),
    KvmDifference(
        "kvm.guest.interruptibility",
        "The interruptibility state goes into the merged VMCS as it is.",
        sections.GUEST_NON_REGISTER,
        always,
        unchecked=(
            "guest.interruptibility.reserved",
            "guest.interruptibility.sti-and-mov-ss",
            "guest.interruptibility.sti-if",
            "guest.interruptibility.interrupt-sti",
            "guest.interruptibility.interrupt-mov-ss",
            "guest.interruptibility.nmi-mov-ss",
            "guest.interruptibility.nmi-sti",
            "guest.interruptibility.smi-outside-smm",
            "guest.interruptibility.virtual-nmi",
            "guest.interruptibility.enclave-mov-ss",
            "guest.interruptibility.enclave-sgx",
        ),
        function="prepare_vmcs02_early",
    ),
    KvmDifference(
        "kvm.guest.pending-debug",
        "The pending debug exceptions go into the merged VMCS as they are.",
        sections.GUEST_NON_REGISTER,
        always,
        unchecked=(
            "guest.pending-debug.reserved",
            "guest.pending-debug.bus-lock",
            "guest.pending-debug.bs-set",
            "guest.pending-debug.bs-clear",
            "guest.pending-debug.rtm-alone",
            "guest.pending-debug.rtm-enabled-breakpoint",
            "guest.pending-debug.rtm-support",
            "guest.pending-debug.rtm-mov-ss",
        ),
        function="prepare_vmcs02_rare",
    ),
    KvmDifference(
        "kvm.msr-load.spec-ctrl",
        "KVM asks the processor whether it takes a value for IA32_SPEC_CTRL; the one below it here "
        "takes all.",
        sections.MSR_LOADING,
        always,
        unchecked=("msr-load.spec-ctrl.reserved",),
        view="msr-load",
        function="kvm_spec_ctrl_test_value",
        later="nobody",
        of_models=False,
    ),
    KvmDifference(
        "kvm.guest.pdptes",
        "With EPT the PDPTEs go into the merged VMCS as they are.",
        sections.GUEST_PDPTES,
        always,
        unchecked=tuple(f"pdpte.vmcs.entry-{number}" for number in range(4)),
        function="prepare_vmcs02",
    ),
)
"""Checks that KVM leaves to the processor, which makes them on the merged VMCS."""

DIFFERENCES: Final = (*BY_DESIGN, *MISTAKES)
"""Every entry."""


@cache
def tables_of(target: str) -> KvmTables:
    """Return the tables of a target, such as "kvm-6.12"."""
    return tables_from(entries_of(target))


def entries_of(target: str) -> tuple[KvmDifference, ...]:
    """Return the entries that are about a target: a kernel, or the model of one."""
    kernel = target.removeprefix("kvm-").removeprefix("model-")
    modelled = target.startswith("kvm-model-")
    return tuple(
        each
        for each in DIFFERENCES
        if (not each.kernels or kernel in each.kernels) and (each.of_models or not modelled)
    )
