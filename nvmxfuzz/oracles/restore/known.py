# SPDX-License-Identifier: GPL-2.0-only
"""Where KVM is known not to keep a promise about the capability MSRs, and why.

An entry covers sites of one oracle in certain kernels, and no other. What a page of docs/findings
tells at length is a sentence here.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from nvmxfuzz.oracles.known_breach import KnownBreach, covering

_ALL: Final = ("5.18", "6.1", "6.12")


_MSR: Final = r"IA32_VMX_\w+"
_TRUE: Final = r"IA32_VMX_(TRUE_)?(ENTRY|EXIT)_CTLS"

KNOWN: Final = (
    KnownBreach(
        "feature-control-without-cpuid",
        "restore.round-trip",
        "IA32_FEATURE_CONTROL",
        ("5.18", "6.1"),
        "Userspace too may set only what CPUID has now, and CPUID takes nothing away.",
    ),
    KnownBreach(
        "busy",
        "restore.round-trip",
        "in VMX operation",
        _ALL,
        "In VMX operation every write is refused, that of the present value too.",
    ),
    KnownBreach(
        "listed-without-cpuid",
        "restore.round-trip",
        "not readable",
        _ALL,
        "The list of MSRs to save is one for the system; without VMX in CPUID they do not exist.",
    ),
    KnownBreach(
        "zero-without-stuffing",
        "restore.round-trip",
        "never set",
        ("6.12",),
        "With the quirk off MSRs start at 0, which is no value that KVM takes.",
    ),
    KnownBreach(
        "timer-rate-cannot-be-written-back",
        "restore.round-trip",
        "IA32_VMX_MISC",
        ("6.1", "6.12"),
        "See timer-rate: the rate got in while the timer was hidden.",
    ),
    KnownBreach(
        "timer-rate",
        "restore.never-widens",
        "IA32_VMX_MISC timer-rate( of 0)?",
        _ALL,
        "The rate is held against KVM's only while the vCPU is offered the timer.",
    ),
    KnownBreach(
        "vmcs-enum",
        "restore.never-widens",
        "IA32_VMX_VMCS_ENUM",
        _ALL,
        "Any value is taken: KVM itself does not use it.",
    ),
    KnownBreach(
        "unset-without-stuffing",
        "restore.never-widens",
        rf"{_MSR} (must-be-1|fixed-to-1|revision|size) of 0",
        ("6.12",),
        "With the quirk off MSRs start at 0: userspace has to write them.",
    ),
    KnownBreach(
        "fixed1-follows-cpuid",
        "restore.never-widens",
        "IA32_VMX_CR4_FIXED1 may-be-1",
        _ALL,
        "What CR4 may hold is made of CPUID, whatever the processor has.",
    ),
    KnownBreach(
        "cr0-fixed1-is-all-ones",
        "restore.never-widens",
        "IA32_VMX_CR0_FIXED1 may-be-1",
        _ALL,
        "KVM_SET_CPUID2 makes it 32 ones, whatever the processor has (all have just that).",
    ),
    KnownBreach(
        "controls-follow-cpuid-5.18",
        "restore.never-widens",
        rf"({_TRUE}|IA32_VMX_PROCBASED_CTLS2) may-be-1",
        ("5.18",),
        "CPUID adds controls that the config has and the offered set lacks.",
    ),
    KnownBreach(
        "ioctl-is-a-list",
        "restore.atomic",
        "partly taken",
        _ALL,
        "KVM_SET_MSRS takes one after the other up to the first that is refused: its interface.",
    ),
    KnownBreach(
        "no-msrs-without-cpuid",
        "restore.order-free",
        f"CPUID and {_MSR}",
        _ALL,
        "VMX MSRs can be written once CPUID has VMX, and CPUID changes the secondary controls.",
    ),
    KnownBreach(
        "feature-control-before-cpuid",
        "restore.order-free",
        "CPUID and IA32_FEATURE_CONTROL",
        ("5.18", "6.1"),
        "Which bits userspace may set depends on the CPUID of the moment.",
    ),
    KnownBreach(
        "feature-control-ends-vmx",
        "restore.order-free",
        f"IA32_FEATURE_CONTROL and {_MSR}",
        _ALL,
        "A 0 that userspace writes ends VMX operation, and with it -EBUSY.",
    ),
    KnownBreach(
        "timer-rate-by-order",
        "restore.order-free",
        "IA32_VMX_MISC and IA32_VMX_TRUE_PINBASED_CTLS",
        _ALL,
        "See timer-rate: it depends on whether the timer is hidden first.",
    ),
    KnownBreach(
        "timer-rate-again",
        "restore.idempotent",
        "several MSRs",
        ("6.1", "6.12"),
        "See timer-rate: a list with the rate before the timer is taken once, and then no more.",
    ),
    KnownBreach(
        "narrowing-is-for-good",
        "restore.idempotent",
        "several MSRs",
        ("5.18",),
        "A value is held against the vCPU's own: a list that narrows an MSR in two steps is taken "
        "once, and then no more.",
    ),
    KnownBreach(
        "secondary-controls-follow-cpuid",
        "restore.survives-cpuid",
        "IA32_VMX_PROCBASED_CTLS2",
        _ALL,
        "CPUID brings back what userspace took away: INVPCID, RDTSCP, XSAVES, RDRAND, RDSEED, "
        "user wait; in 6.12 only with the quirk.",
    ),
    KnownBreach(
        "entry-exit-controls-follow-cpuid",
        "restore.survives-cpuid",
        _TRUE,
        ("5.18",),
        "The controls for BNDCFGS and PERF_GLOBAL_CTRL follow CPUID.",
    ),
    KnownBreach(
        "offered-from-hardware",
        "nested.within-config",
        rf"system: {_MSR} beyond",
        ("5.18",),
        "The MSRs are made of the processor's and not of the config.",
    ),
    KnownBreach(
        "pin-must-be-1-of-hardware",
        "nested.within-config",
        r"(system|vcpu): IA32_VMX_(TRUE_)?PINBASED_CTLS must-be-1",
        ("5.18",),
        "What must be 1 on the processor must be 1 for L1, offered or not.",
    ),
    KnownBreach(
        "halves-of-hardware",
        "nested.within-config",
        r"(system|vcpu): (pair \w+|incomplete virtual-apic)",
        ("5.18",),
        "What the processor has one half of is offered so: 6.1 made config and pairs agree.",
    ),
    KnownBreach(
        "fixed1-of-hardware",
        "nested.within-config",
        r"system: IA32_VMX_CR[04]_FIXED0 fixed",
        _ALL,
        "FIXED0 is KVM's, FIXED1 the processor's: a processor without PE, PG, NE or VMXE.",
    ),
    KnownBreach(
        "nmi-window-without-virtual-nmis",
        "nested.within-config",
        r"(system|vcpu): incomplete nmi-window",
        _ALL,
        "Offered where the processor has it: one that has no virtual NMIs with it is strange.",
    ),
    KnownBreach(
        "shadowing-without-secondary-controls",
        "nested.within-config",
        r"(system|vcpu): incomplete secondary",
        _ALL,
        "VMCS shadowing is offered also where secondary controls cannot be activated.",
    ),
    KnownBreach(
        "vm-functions-without-any",
        "nested.within-config",
        r"(system|vcpu): incomplete vm-functions",
        _ALL,
        "Without EPT the control is offered with no function at all.",
    ),
    KnownBreach(
        "unset-is-unsound",
        "nested.within-config",
        r"vcpu: IA32_VMX_"
        r"(BASIC size|VMCS_ENUM highest|(PINBASED|PROCBASED|EXIT|ENTRY)_CTLS must-be-1)",
        ("6.12",),
        "With the quirk off MSRs start at 0: userspace has to write them.",
    ),
    KnownBreach(
        "unsound-values-are-taken",
        "nested.within-config",
        rf"written: ({_MSR} (size|memory-type|must-be-1|fixed|highest)"
        r"|incomplete [a-z-]+|pair \w+)",
        _ALL,
        "A value is held bit by bit against what KVM offers, never against the other values.",
    ),
    KnownBreach(
        "unusable-values-are-taken",
        "nested.usable",
        r"written: (a control must be 1 and may not|no value of CR[04] is legal)",
        _ALL,
        "See unsound-values-are-taken: what must be 1 may be taken away.",
    ),
    KnownBreach(
        "pin-must-be-1-cannot-be-met",
        "nested.usable",
        "vcpu: a control must be 1 and may not",
        ("5.18",),
        "See pin-must-be-1-of-hardware: no VMCS satisfies it.",
    ),
    KnownBreach(
        "unset-cannot-be-met",
        "nested.usable",
        "vcpu: a control must be 1 and may not",
        ("6.12",),
        "See unset-is-unsound: the default1 controls must be 1, and none may.",
    ),
)


@cache
def known(oracle: str, site: str, kernel: str) -> KnownBreach[str] | None:
    """Return the entry that covers a site of an oracle in a kernel, None if there is none."""
    return covering(KNOWN, oracle, site, kernel)
