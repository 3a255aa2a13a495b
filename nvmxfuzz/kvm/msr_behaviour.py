# SPDX-License-Identifier: GPL-2.0-only
"""How kernels differ in the VMX capability MSRs that L1 sees: one value a version.

A difference is a field here, never a second copy of a function.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvmxfuzz.arch import msr
from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.nested_evmcs import EVMCS_L1_5_18, EVMCS_L1_6_1, EVMCS_L1_6_12, NestedEvmcs

KVM_FIRST_EMULATED_VMX_MSR = msr.MSR_IA32_VMX_BASIC
KVM_LAST_EMULATED_VMX_MSR = msr.MSR_IA32_VMX_VMFUNC

FEATURE_MSRS_5_18 = (
    msr.MSR_IA32_VMX_BASIC,
    msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS,
    msr.MSR_IA32_VMX_PINBASED_CTLS,
    msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
    msr.MSR_IA32_VMX_PROCBASED_CTLS,
    msr.MSR_IA32_VMX_TRUE_EXIT_CTLS,
    msr.MSR_IA32_VMX_EXIT_CTLS,
    msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS,
    msr.MSR_IA32_VMX_ENTRY_CTLS,
    msr.MSR_IA32_VMX_MISC,
    msr.MSR_IA32_VMX_CR0_FIXED0,
    msr.MSR_IA32_VMX_CR0_FIXED1,
    msr.MSR_IA32_VMX_CR4_FIXED0,
    msr.MSR_IA32_VMX_CR4_FIXED1,
    msr.MSR_IA32_VMX_VMCS_ENUM,
    msr.MSR_IA32_VMX_PROCBASED_CTLS2,
    msr.MSR_IA32_VMX_EPT_VPID_CAP,
    msr.MSR_IA32_VMX_VMFUNC,
)
"""msr_based_features_all, as far as VMX goes, in its order."""

FEATURE_MSRS_6_12 = tuple(range(KVM_FIRST_EMULATED_VMX_MSR, KVM_LAST_EMULATED_VMX_MSR + 1))

EMULATED_VMX_MSRS = (
    msr.MSR_IA32_VMX_BASIC,
    msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS,
    msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
    msr.MSR_IA32_VMX_TRUE_EXIT_CTLS,
    msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS,
    msr.MSR_IA32_VMX_MISC,
    msr.MSR_IA32_VMX_CR0_FIXED0,
    msr.MSR_IA32_VMX_CR4_FIXED0,
    msr.MSR_IA32_VMX_VMCS_ENUM,
    msr.MSR_IA32_VMX_PROCBASED_CTLS2,
    msr.MSR_IA32_VMX_EPT_VPID_CAP,
    msr.MSR_IA32_VMX_VMFUNC,
)
"""The VMX MSRs of emulated_msrs_all: what KVM_GET_MSR_INDEX_LIST tells userspace to migrate."""


@dataclass(frozen=True, slots=True)
class MsrBehaviour:
    """One kernel version's way with the MSRs, x86_64, with CONFIG_KVM_HYPERV and SGX for KVM."""

    version: str
    source: str
    """What was read."""

    nested_from_config: bool
    """The MSRs are made from the config; before, from the processor's MSRs, read once more: a
    control that an erratum or the enlightened VMCS took out of the config was still offered."""
    perf_global_ctrl_always: bool
    """`load IA32_PERF_GLOBAL_CTRL` is offered whatever the processor has: MSR lists emulate it."""
    offers_user_wait: bool
    """`enable user wait and pause` is in what KVM starts from, not only added by CPUID."""
    sets_umip: bool
    """CR4_FIXED1 that the system reports has UMIP where KVM emulates it."""
    umip_emulated_beside_hardware: bool
    """UMIP counts as emulated wherever descriptor-table exiting exists, UMIP in hardware or not."""
    sgx_needs_encls_exiting: bool
    """Without ENCLS exiting there is no SGX for guests; before, L1 was offered ENCLS exiting on
    every processor."""
    restores_against_vcpu: bool
    """A value is compared with what the vCPU has now; later, with what KVM supports."""
    entry_exit_ctls_follow_cpuid: bool
    """KVM_SET_CPUID2 sets and clears the controls for BNDCFGS and PERF_GLOBAL_CTRL."""
    governed_features: bool
    """VMX and XSAVES for L1 ask for KVM's own capability as well as for L1's CPUID."""
    stuffing_is_a_quirk: bool
    """KVM_X86_QUIRK_STUFF_FEATURE_MSRS can be turned off: MSRs then start at 0, and CPUID leaves
    the secondary controls alone."""
    immutable_after_run: bool
    """Once the vCPU has run, KVM_SET_MSRS takes no value but the one that is there."""
    feature_control_valid_for_host: bool
    """Userspace may set every bit of IA32_FEATURE_CONTROL that KVM knows, whatever CPUID says."""
    knows_lam: bool
    evmcs: NestedEvmcs
    feature_msrs: tuple[int, ...]
    """KVM_GET_MSR_FEATURE_INDEX_LIST, as far as VMX goes."""


_V5_18 = MsrBehaviour(
    version="5.18",
    source=(
        "mainline between v5.18 and v6.0, before commits f8ae08f9789a, 8805875aa473, 9389d5774aca, "
        "a910b5ab6b25 and those after them"
    ),
    nested_from_config=False,
    perf_global_ctrl_always=False,
    offers_user_wait=False,
    sets_umip=False,
    umip_emulated_beside_hardware=True,
    sgx_needs_encls_exiting=False,
    restores_against_vcpu=True,
    entry_exit_ctls_follow_cpuid=True,
    governed_features=False,
    stuffing_is_a_quirk=False,
    immutable_after_run=False,
    feature_control_valid_for_host=False,
    knows_lam=False,
    evmcs=EVMCS_L1_5_18,
    feature_msrs=FEATURE_MSRS_5_18,
)

_V6_1 = MsrBehaviour(
    version="6.1",
    source="Debian linux-source-6.1, 6.1.192",
    nested_from_config=True,
    perf_global_ctrl_always=True,
    offers_user_wait=True,
    sets_umip=True,
    umip_emulated_beside_hardware=True,
    sgx_needs_encls_exiting=True,
    restores_against_vcpu=False,
    entry_exit_ctls_follow_cpuid=False,
    governed_features=False,
    stuffing_is_a_quirk=False,
    immutable_after_run=False,
    feature_control_valid_for_host=False,
    knows_lam=False,
    evmcs=EVMCS_L1_6_1,
    feature_msrs=FEATURE_MSRS_5_18,
)

_V6_12 = MsrBehaviour(
    version="6.12",
    source="Debian linux-source-6.12, 6.12.117",
    nested_from_config=True,
    perf_global_ctrl_always=True,
    offers_user_wait=True,
    sets_umip=True,
    umip_emulated_beside_hardware=False,
    sgx_needs_encls_exiting=True,
    restores_against_vcpu=False,
    entry_exit_ctls_follow_cpuid=False,
    governed_features=True,
    stuffing_is_a_quirk=True,
    immutable_after_run=True,
    feature_control_valid_for_host=True,
    knows_lam=True,
    evmcs=EVMCS_L1_6_12,
    feature_msrs=FEATURE_MSRS_6_12,
)

_BEHAVIOURS = (_V5_18, _V6_1, _V6_12)

MSR_KERNELS = tuple(behaviour.version for behaviour in _BEHAVIOURS)
"""The versions that `msr_behaviour` knows, oldest first."""


def msr_behaviour(version: str) -> MsrBehaviour:
    """Return the behaviour of that version; an unknown one is an InputError that lists them all."""
    for behaviour in _BEHAVIOURS:
        if behaviour.version == version:
            return behaviour
    raise InputError(
        f"the model of the capability MSRs does not know kernel {version[:40]!r}: "
        f"choose one of {', '.join(MSR_KERNELS)}"
    )
