# SPDX-License-Identifier: GPL-2.0-only
"""hardware_setup(): what loading kvm_intel makes of the config, and the MSRs that L1 is offered.

Called vmx_hardware_setup() in 6.12. `hardware_setup` is the config with the warnings of the log,
`load_kvm_intel` all that later decides what L1 sees.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

from nvmxfuzz.kvm.cpu_caps import vmx_set_cpu_caps
from nvmxfuzz.kvm.enable_flags import EnableFlags, decide, refusal
from nvmxfuzz.kvm.guest_cpuid import GuestCpuid
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu, ModuleParams
from nvmxfuzz.kvm.msr_behaviour import MsrBehaviour, msr_behaviour
from nvmxfuzz.kvm.nested_msrs import NestedVmxMsrs, nested_vmx_setup_ctls_msrs
from nvmxfuzz.kvm.source import Kernel
from nvmxfuzz.kvm.vmcs_config import (
    ConfigOutcome,
    KernelWarning,
    VmcsConfig,
    cpu_has_perf_global_ctrl_bug,
    setup_vmcs_config,
)

_NEEDED = frozenset({"VMX", "FXSR"})
"""Without these kvm and kvm_intel do not get as far as the config."""


def hardware_setup(
    host: HostCpu, kernel: Kernel, params: ModuleParams = DEFAULT_PARAMS
) -> ConfigOutcome:
    """Return the outcome of loading the module: the config, and every warning of the log.

    Where the PERF_GLOBAL_CTRL erratum is not dealt with in the config (6.1), it is warned about
    here, once the config was accepted.
    """
    outcome = setup_vmcs_config(host, kernel, params)
    if outcome.errno or kernel.perf_global_ctrl_erratum_in_config:
        return outcome
    if not cpu_has_perf_global_ctrl_bug(host):
        return outcome
    warning = KernelWarning("perf_global_ctrl_erratum")
    return replace(outcome, warnings=(*outcome.warnings, warning))


@dataclass(frozen=True, slots=True)
class LoadedKvm:
    """kvm_intel in memory. `nested` is vmcs_config.nested: nobody may change it."""

    host: HostCpu
    behaviour: MsrBehaviour
    params: ModuleParams
    config: VmcsConfig
    flags: EnableFlags
    nested: NestedVmxMsrs
    supported_cpuid: GuestCpuid
    """KVM_GET_SUPPORTED_CPUID."""


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """What loading came to: the module and errno 0, or None, -errno and where."""

    module: LoadedKvm | None
    errno: int = 0
    site: str = ""


def load_kvm_intel(
    host: HostCpu, kernel: Kernel, params: ModuleParams = DEFAULT_PARAMS
) -> LoadOutcome:
    """Return the module as `kernel` loads it on `host`; without `nested` its MSRs are all 0."""
    behaviour = msr_behaviour(kernel.version)
    if _NEEDED - host.features:
        return LoadOutcome(None, -errno.EOPNOTSUPP, "processor")
    outcome = setup_vmcs_config(host, kernel, params)
    config = outcome.config
    if config is None:
        return LoadOutcome(None, outcome.errno, outcome.site)
    flags = decide(config, host, kernel, params, behaviour)
    error, site = refusal(flags, host)
    if error:
        return LoadOutcome(None, error, site)
    nested = (
        nested_vmx_setup_ctls_msrs(config, flags, host, behaviour)
        if flags.nested
        else NestedVmxMsrs()
    )
    supported = vmx_set_cpu_caps(config, flags, host, behaviour)
    module = LoadedKvm(host, behaviour, params, config, flags, nested, supported)
    return LoadOutcome(module)
