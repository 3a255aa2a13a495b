# SPDX-License-Identifier: GPL-2.0-only
"""The processor that KVM makes of a processor: what L1 sees in a default VM.

A default VM is one whose userspace gave it the CPUID that KVM supports, and left the MSRs alone.
"""

from __future__ import annotations

from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.after_set_cpuid import kvm_set_cpuid
from nvmxfuzz.kvm.guest_cpuid import GuestCpuid
from nvmxfuzz.kvm.hardware_setup import LoadedKvm, load_kvm_intel
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu, ModuleParams
from nvmxfuzz.kvm.msr_vcpu import MsrVcpu, create_vcpu, virtual_msrs
from nvmxfuzz.kvm.source import Kernel
from nvmxfuzz.machine.profile import Profile

_WORDS = (
    ("pcid", "PCID"),
    ("sgx", "SGX"),
    ("mpx", "MPX"),
    ("la57", "LA57"),
    ("lam", "LAM"),
    ("nx", "NX"),
)
"""Features that KVM hands on, in the words of `arch.features` and of `guest_cpuid`."""

_HANDED_ON = frozenset({"long-mode", "rtm", "spec-ctrl", "bus-lock-detect"})


def default_vcpu(module: LoadedKvm, cpuid: GuestCpuid | None = None) -> MsrVcpu:
    """Return a vCPU of a default VM, or of one with another CPUID."""
    vcpu = create_vcpu(module)
    kvm_set_cpuid(vcpu, module.supported_cpuid if cpuid is None else cpuid)
    return vcpu


def default_msrs(
    host: HostCpu, kernel: Kernel, params: ModuleParams = DEFAULT_PARAMS
) -> dict[int, int]:
    """Return the VMX capability MSRs, index -> value, that L1 reads in a default VM on `host`.

    Empty without `nested`. A host on which KVM does not load is an InputError.
    """
    return virtual_msrs(default_vcpu(_load(host, kernel, params)))


def virtual_profile(
    profile: Profile, kernel: Kernel, params: ModuleParams = DEFAULT_PARAMS
) -> Profile:
    """Return the processor that L1 of a default VM has on a processor that is `profile`.

    The masks of MSRs that no capability MSR tells of are left unknown, but for
    IA32_PERF_GLOBAL_CTRL, of which KVM hands on what it finds.
    """
    return profile_of(default_vcpu(_load(HostCpu.of(profile), kernel, params)), profile)


def profile_of(vcpu: MsrVcpu, profile: Profile) -> Profile:
    """Return the processor that `vcpu` is to L1, on a processor that is `profile`."""
    module = vcpu.module
    version = module.behaviour.version
    features = {word for word, name in _WORDS if name in vcpu.cpuid.features} | {"x2apic"}
    features |= profile.features & _HANDED_ON
    if (vcpu.cpuid.pmu_version or 0) > 1:
        features.add("perf-global-ctrl")
    return Profile(
        name=f"{profile.name}-kvm-{version}",
        note=f"What KVM of {version} makes of {profile.name} for L1 of a default VM.",
        family=profile.family,
        model=profile.model,
        stepping=profile.stepping,
        maxphyaddr=profile.maxphyaddr,
        linear_address_bits=profile.linear_address_bits,
        msrs=virtual_msrs(vcpu),
        features=frozenset(features),
        perf_global_ctrl_mask=profile.perf_global_ctrl_mask if module.flags.enable_pmu else 0,
    )


def _load(host: HostCpu, kernel: Kernel, params: ModuleParams) -> LoadedKvm:
    outcome = load_kvm_intel(host, kernel, params)
    if outcome.module is None:
        raise InputError(
            f"KVM of {kernel.version} does not load on this processor ({outcome.site}, errno "
            f"{-outcome.errno}): take another processor, or other parameters"
        )
    return outcome.module
