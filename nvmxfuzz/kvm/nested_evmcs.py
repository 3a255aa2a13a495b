# SPDX-License-Identifier: GPL-2.0-only
"""What L1 may use of the controls when it is offered the enlightened VMCS, version 1.

nested_evmcs_filter_control_msr() of vmx/evmcs.c (5.18, 6.1) and vmx/hyperv.c (6.12). Only what L1
itself reads is filtered: userspace reads and writes the whole value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Pin, Secondary, VmEntry, VmExit
from nvmxfuzz.kvm.evmcs import EVMCS_5_18, EVMCS_6_12

WORD = (1 << 32) - 1
_VMX_VMFUNC_EPTP_SWITCHING = 1
_PERF_GLOBAL_CTRL_EXIT = int(VmExit.LOAD_IA32_PERF_GLOBAL_CTRL)
_PERF_GLOBAL_CTRL_ENTRY = int(VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL)


@dataclass(frozen=True, slots=True)
class NestedEvmcs:
    """The bits of each word that stay allowed, and what KVM asks for before it filters."""

    pin_based: int
    cpu_based: int
    secondary: int
    vmexit: int
    vmentry: int
    vmfunc: int
    needs_hyperv_cpuid: bool
    """L1's CPUID has to call the hypervisor Hyper-V; before, KVM_ENABLE_CAP was enough."""
    perf_global_ctrl_by_cpuid: bool
    """`load IA32_PERF_GLOBAL_CTRL` stays if Hyper-V's nested features in CPUID have it."""


EVMCS_L1_5_18 = NestedEvmcs(
    pin_based=EVMCS_5_18.pin_based_exec_ctrl,
    cpu_based=WORD,
    secondary=EVMCS_5_18.cpu_based_2nd_exec_ctrl,
    vmexit=EVMCS_5_18.vmexit_ctrl,
    vmentry=EVMCS_5_18.vmentry_ctrl,
    vmfunc=WORD & ~_VMX_VMFUNC_EPTP_SWITCHING,
    needs_hyperv_cpuid=False,
    perf_global_ctrl_by_cpuid=False,
)

EVMCS_L1_6_1 = replace(
    EVMCS_L1_5_18,
    pin_based=WORD & ~(Pin.PROCESS_POSTED_INTERRUPTS | Pin.ACTIVATE_VMX_PREEMPTION_TIMER),
    vmexit=WORD & ~VmExit.SAVE_VMX_PREEMPTION_TIMER_VALUE,
    vmentry=WORD,
    needs_hyperv_cpuid=True,
    perf_global_ctrl_by_cpuid=True,
)

EVMCS_L1_6_12 = NestedEvmcs(
    pin_based=EVMCS_6_12.pin_based_exec_ctrl,
    cpu_based=EVMCS_6_12.cpu_based_exec_ctrl,
    secondary=EVMCS_6_12.cpu_based_2nd_exec_ctrl & ~Secondary.USE_TSC_SCALING,
    vmexit=EVMCS_6_12.vmexit_ctrl,
    vmentry=EVMCS_6_12.vmentry_ctrl,
    vmfunc=0,
    needs_hyperv_cpuid=True,
    perf_global_ctrl_by_cpuid=True,
)

_PIN = (msr.MSR_IA32_VMX_PINBASED_CTLS, msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS)
_CPU = (msr.MSR_IA32_VMX_PROCBASED_CTLS, msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS)
_EXIT = (msr.MSR_IA32_VMX_EXIT_CTLS, msr.MSR_IA32_VMX_TRUE_EXIT_CTLS)
_ENTRY = (msr.MSR_IA32_VMX_ENTRY_CTLS, msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS)


def nested_evmcs_filter_control_msr(
    evmcs: NestedEvmcs, has_perf_global_ctrl: bool, index: int, data: int
) -> int:
    """Return what L1 reads in MSR `index`, whose whole value is `data`.

    `has_perf_global_ctrl`: evmcs_has_perf_global_ctrl(), a bit of Hyper-V's CPUID leaves.
    """
    drops_perf = evmcs.perf_global_ctrl_by_cpuid and not has_perf_global_ctrl
    if index in _EXIT:
        allowed = evmcs.vmexit & ~(_PERF_GLOBAL_CTRL_EXIT if drops_perf else 0)
    elif index in _ENTRY:
        allowed = evmcs.vmentry & ~(_PERF_GLOBAL_CTRL_ENTRY if drops_perf else 0)
    elif index in _CPU:
        allowed = evmcs.cpu_based
    elif index == msr.MSR_IA32_VMX_PROCBASED_CTLS2:
        allowed = evmcs.secondary
    elif index in _PIN:
        allowed = evmcs.pin_based
    elif index == msr.MSR_IA32_VMX_VMFUNC:
        return data & (WORD << 32 | evmcs.vmfunc)
    else:
        return data
    return data & (allowed << 32 | WORD)
