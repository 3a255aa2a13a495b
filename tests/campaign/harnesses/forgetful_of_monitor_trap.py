# SPDX-License-Identifier: GPL-2.0-only
"""The harness for configs with one bit changed in the model: KVM takes no monitor trap flag.

No promise is broken by that: only the kernel itself knows.
"""

from dataclasses import replace
from pathlib import Path

from nvmxfuzz.arch.controls import Primary
from nvmxfuzz.campaign.plan import load_harness
from nvmxfuzz.campaign.worker import main
from nvmxfuzz.kvm.hardware_setup import hardware_setup
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.source import Kernel
from nvmxfuzz.kvm.vmcs_config import ConfigOutcome


def forgetful(host: HostCpu, kernel: Kernel, params: ModuleParams) -> ConfigOutcome:
    """Return what KVM would make of a host if it did not ask for the monitor trap flag."""
    known = kernel.cpu_based
    fewer = replace(known, optional=known.optional & ~Primary.MONITOR_TRAP_FLAG)
    return hardware_setup(host, replace(kernel, cpu_based=fewer), params)


HARNESS = replace(
    load_harness(Path(__file__).parents[3] / "fuzz" / "capability_config.py"),
    name="forgetful",
    run=forgetful,
)

if __name__ == "__main__":
    main(HARNESS)
