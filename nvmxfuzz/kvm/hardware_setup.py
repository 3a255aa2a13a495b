# SPDX-License-Identifier: GPL-2.0-only
"""hardware_setup(): what loading kvm_intel does with the config, as far as it shapes or warns.

Called vmx_hardware_setup() in 6.12. What follows the config there (enable_ept and its like) is not
modelled.
"""

from __future__ import annotations

from dataclasses import replace

from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu, ModuleParams
from nvmxfuzz.kvm.source import Kernel
from nvmxfuzz.kvm.vmcs_config import (
    ConfigOutcome,
    KernelWarning,
    cpu_has_perf_global_ctrl_bug,
    setup_vmcs_config,
)


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
