# SPDX-License-Identifier: GPL-2.0-only
"""KVM with one vCPU, made of a processor, a kernel version and module parameters.

`nested_kvm` joins what loading the module gives with what nested entry needs; `entry_request` makes
an attempt that was meant for a processor one that L1 makes on KVM.
"""

from __future__ import annotations

from types import MappingProxyType

from nvmxfuzz.arch.controls import VmEntry, VmExit
from nvmxfuzz.kvm.entry_behaviour import EntryBehaviour, entry_behaviour
from nvmxfuzz.kvm.hardware_setup import LoadedKvm, load_kvm_intel
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu, ModuleParams
from nvmxfuzz.kvm.source import find_kernel
from nvmxfuzz.kvm.vcpu import EntryParams, EntryRequest, HostState, Kvm, L1State, NestedState
from nvmxfuzz.kvm.virtual_cpu import VirtualCpu
from nvmxfuzz.kvm.virtual_processor import virtual_profile
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile

AUTO = -1
"""Dry runs on bare metal alone."""

_CONFIG_OF = MappingProxyType({"4.20": "5.18", "6.19": "6.12"})
"""Versions whose loading is not modelled -> the nearest one whose is."""


def nested_kvm(
    profile: Profile,
    version: str,
    params: ModuleParams = DEFAULT_PARAMS,
    early_consistency_checks: int = 0,
    *,
    bare_metal: bool = True,
    given: Profile | None = None,
) -> tuple[Kvm, Profile]:
    """Return KVM of that version on `profile`, and the processor that L1 of a default VM has.

    `given` is that processor where KVM itself has said what it is: the model of loading supports
    features that a real KVM does not, as it knows of no XCR0 and no host that lacks them.

    `early_consistency_checks` is 1 for dry runs, 0 for none, and -1, as the parameter was first
    proposed, for dry runs where KVM is on bare metal and not in a guest itself: in one, a dry run
    shows what the KVM below thinks. An unknown version, or a processor on which KVM does not load,
    is an InputError.
    """
    behaviour = entry_behaviour(version)
    kernel = find_kernel(_CONFIG_OF.get(version, version))
    virtual = given or virtual_profile(profile, kernel, params)
    module = load_kvm_intel(HostCpu.of(profile), kernel, params).module
    assert module is not None
    auto = early_consistency_checks == AUTO
    early = bare_metal if auto else early_consistency_checks != 0
    return kvm_of(module, behaviour, profile, virtual, early), virtual


def kvm_of(
    module: LoadedKvm,
    behaviour: EntryBehaviour,
    hardware: Profile,
    virtual: Profile,
    early_consistency_checks: bool = False,
) -> Kvm:
    """Return a loaded KVM on `hardware` with a vCPU whose CPUID and MSRs are those of `virtual`."""
    flags = module.flags
    mpx = module.config.vmentry_ctrl & VmEntry.LOAD_IA32_BNDCFGS and (
        module.config.vmexit_ctrl & VmExit.CLEAR_IA32_BNDCFGS
    )
    return Kvm(
        behaviour=behaviour,
        config=module.config,
        virtual=VirtualCpu.of(virtual, behaviour, hardware),
        hardware=hardware,
        params=EntryParams(
            ept=flags.enable_ept,
            ept_ad_bits=flags.enable_ept_ad_bits,
            unrestricted_guest=flags.enable_unrestricted_guest,
            vpid=flags.enable_vpid,
            pml=flags.enable_pml,
            flexpriority=flags.flexpriority_enabled,
            apicv=flags.enable_apicv,
            early_consistency_checks=early_consistency_checks,
        ),
        host=HostState(),
        vpid01=1 if flags.enable_vpid else 0,
        vpid02=2 if flags.enable_vpid else 0,
        host_umip="UMIP" in module.host.features,
        mpx_supported=bool(mpx) and "mpx" in virtual.features,
    )


def entry_request(attempt: Attempt, nested: NestedState | None = None) -> EntryRequest:
    """Return the attempt as L1's; of its profile nothing is used, for KVM has its own idea."""
    return EntryRequest(
        vmcs12=attempt.vmcs,
        l1=L1State(processor=attempt.processor),
        memory=attempt.memory,
        launch=attempt.instruction == "vmlaunch",
        launched=attempt.launch_state == "launched",
        nested=NestedState() if nested is None else nested,
    )
