# SPDX-License-Identifier: GPL-2.0-only
"""What a table of capability MSRs offers, and what each kernel promises to make of it.

Stated a second time, from the SDM's "VMX Capability Reporting Facility" and from the texts of the
commits, so that an oracle does not repeat a mistake of `nvmxfuzz.kvm`. Nothing here calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.vmx_msr import VmxBasic
from nvmxfuzz.kvm.host import HostCpu

LOW = (1 << 32) - 1

WORD_MSRS = {
    "pin_based_exec_ctrl": msr.MSR_IA32_VMX_PINBASED_CTLS,
    "cpu_based_exec_ctrl": msr.MSR_IA32_VMX_PROCBASED_CTLS,
    "cpu_based_2nd_exec_ctrl": msr.MSR_IA32_VMX_PROCBASED_CTLS2,
    "vmexit_ctrl": msr.MSR_IA32_VMX_EXIT_CTLS,
    "vmentry_ctrl": msr.MSR_IA32_VMX_ENTRY_CTLS,
}
"""Each 32-bit word of a config and the MSR that reports its allowed settings."""

PAIRS = (
    (
        "IA32_PERF_GLOBAL_CTRL",
        VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL,
        VmExit.LOAD_IA32_PERF_GLOBAL_CTRL,
    ),
    ("IA32_PAT", VmEntry.LOAD_IA32_PAT, VmExit.LOAD_IA32_PAT),
    ("IA32_EFER", VmEntry.LOAD_IA32_EFER, VmExit.LOAD_IA32_EFER),
    ("IA32_BNDCFGS", VmEntry.LOAD_IA32_BNDCFGS, VmExit.CLEAR_IA32_BNDCFGS),
    ("IA32_RTIT_CTL", VmEntry.LOAD_IA32_RTIT_CTL, VmExit.CLEAR_IA32_RTIT_CTL),
)
"""(MSR, VM-entry control that loads it, VM-exit control that loads or clears it)."""

CR8_EXITING = Primary.CR8_LOAD_EXITING | Primary.CR8_STORE_EXITING
PAGING_EXITING = Primary.CR3_LOAD_EXITING | Primary.CR3_STORE_EXITING | Primary.INVLPG_EXITING
VIRTUAL_APIC = (
    Secondary.VIRTUALIZE_X2APIC_MODE
    | Secondary.APIC_REGISTER_VIRTUALIZATION
    | Secondary.VIRTUAL_INTERRUPT_DELIVERY
)

_REQUIRED_5_18: Mapping[str, int] = {
    "pin_based_exec_ctrl": Pin.EXTERNAL_INTERRUPT_EXITING | Pin.NMI_EXITING,
    "cpu_based_exec_ctrl": (
        CR8_EXITING
        | PAGING_EXITING
        | Primary.HLT_EXITING
        | Primary.MWAIT_EXITING
        | Primary.MONITOR_EXITING
        | Primary.RDPMC_EXITING
        | Primary.MOV_DR_EXITING
        | Primary.UNCONDITIONAL_IO_EXITING
        | Primary.USE_TSC_OFFSETTING
    ),
    "cpu_based_2nd_exec_ctrl": 0,
    "vmexit_ctrl": (
        VmExit.HOST_ADDRESS_SPACE_SIZE
        | VmExit.SAVE_DEBUG_CONTROLS
        | VmExit.ACKNOWLEDGE_INTERRUPT_ON_EXIT
    ),
    "vmentry_ctrl": int(VmEntry.LOAD_DEBUG_CONTROLS),
}
_REQUIRED_6_1: Mapping[str, int] = {
    **_REQUIRED_5_18,
    "cpu_based_exec_ctrl": (
        _REQUIRED_5_18["cpu_based_exec_ctrl"] | Primary.INTERRUPT_WINDOW_EXITING
    ),
    "vmentry_ctrl": _REQUIRED_5_18["vmentry_ctrl"] | VmEntry.IA_32E_MODE_GUEST,
}


# CPUID.01H:EAX without its reserved bits, of a processor of type 0.
_BROKEN_PREEMPTION_TIMERS = frozenset(
    {0x106A0, 0x106A1, 0x106A4, 0x106A5, 0x106E5, 0x20652, 0x20655, 0x206E6, 0x306A8}
)


@dataclass(frozen=True, slots=True)
class Promise:
    """What one kernel version promises; masks by word name."""

    required: Mapping[str, int]
    sanitizes_pairs: bool
    has_parameter: bool
    clears_needless_exiting: bool
    """CR8 exiting beside a TPR shadow and paging exiting beside EPT are not in the config."""
    clears_encls_without_sgx: bool
    clears_ept_violation_ve: bool
    clears_perf_global_ctrl: bool
    filters_for_hyperv: bool


PROMISES = {
    "5.18": Promise(_REQUIRED_5_18, False, False, True, False, False, True, True),
    "6.1": Promise(_REQUIRED_6_1, True, True, False, True, False, False, False),
    "6.12": Promise(_REQUIRED_6_1, True, True, False, True, True, True, True),
}
"""By `Kernel.version`."""


@dataclass(frozen=True, slots=True)
class Word:
    """The allowed settings of one control word."""

    must_be_1: int
    may_be_1: int

    @property
    def usable(self) -> int:
        """Return the controls that software finds set if it asks for all of them."""
        return self.must_be_1 | self.may_be_1


def read(host: HostCpu, index: int) -> int:
    """Return an MSR; an absent one counts as zero, which offers nothing."""
    return host.msrs.get(index, 0)


def read_word(host: HostCpu, name: str) -> Word:
    """Return the allowed settings of the word `name` of a config."""
    value = read(host, WORD_MSRS[name])
    return Word(value & LOW, value >> 32)


def secondary_word(host: HostCpu) -> Word:
    """Return the secondary controls on offer: none where they cannot be activated."""
    if read_word(host, "cpu_based_exec_ctrl").usable & Primary.ACTIVATE_SECONDARY_CONTROLS:
        return read_word(host, "cpu_based_2nd_exec_ctrl")
    return Word(0, 0)


def unpaired(host: HostCpu) -> list[tuple[str, int, int]]:
    """Return (MSR, usable entry half, usable exit half) for each pair of which one half is 0."""
    entry = read_word(host, "vmentry_ctrl").usable
    exit_ = read_word(host, "vmexit_ctrl").usable
    halves = ((name, entry & one, exit_ & other) for name, one, other in PAIRS)
    return [pair for pair in halves if (pair[1] == 0) != (pair[2] == 0)]


def capability_without_control(host: HostCpu) -> tuple[str, ...]:
    """Return which of `ept` and `vpid` have a capability, but no control to enable them."""
    capability = read(host, msr.MSR_IA32_VMX_EPT_VPID_CAP)
    usable = secondary_word(host).usable
    found = []
    if capability & LOW and not usable & Secondary.ENABLE_EPT:
        found.append("ept")
    if capability >> 32 and not usable & Secondary.ENABLE_VPID:
        found.append("vpid")
    return tuple(found)


def is_inconsistent(host: HostCpu, promise: Promise) -> bool:
    """Whether the table is one that the kernel calls inconsistent."""
    pairs = promise.sanitizes_pairs and unpaired(host)
    return bool(pairs or capability_without_control(host))


def lacks_something_required(host: HostCpu, promise: Promise) -> bool:
    """Whether the table must be refused whatever the parameter says."""
    for name, required in promise.required.items():
        if required & ~read_word(host, name).usable:
            return True
    return not basic_is_usable(read(host, msr.MSR_IA32_VMX_BASIC))


def basic_is_usable(basic: int) -> bool:
    """Whether a VMCS fits a page, lies anywhere in memory, and is accessed as write-back."""
    return (
        (basic & VmxBasic.REGION_SIZE) >> VmxBasic.REGION_SIZE.position <= 4096
        and not basic & VmxBasic.PHYSICAL_ADDRESSES_32_BIT
        and (basic & VmxBasic.MEMORY_TYPE) >> VmxBasic.MEMORY_TYPE.position == 6
    )


def has_perf_global_ctrl_erratum(host: HostCpu) -> bool:
    """Whether the specification updates of Nehalem and Westmere list the erratum for this model.

    KVM knows 8 bits of the family, and takes family 0x106 for 6.
    """
    return host.family & 0xFF == 6 and host.model in (26, 30, 37, 44, 46)


def has_broken_preemption_timer(host: HostCpu) -> bool:
    """Whether the specification updates list the VMX-preemption timer as unusable."""
    signature = (host.model >> 4) << 16 | host.family << 8 | (host.model & 0xF) << 4 | host.stepping
    return signature in _BROKEN_PREEMPTION_TIMERS
