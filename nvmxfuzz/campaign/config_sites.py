# SPDX-License-Identifier: GPL-2.0-only
"""The points of the harness for capability configs: what a kernel may say of a table of MSRs."""

from __future__ import annotations

from dataclasses import dataclass

from nvmxfuzz.inputs.case import ConfigCase
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.source import KERNELS, Kernel
from nvmxfuzz.kvm.vmcs_config import ConfigOutcome
from nvmxfuzz.oracles.capability_config import loading_of

_WORDS = (
    "pin_based_exec_ctrl",
    "cpu_based_exec_ctrl",
    "cpu_based_2nd_exec_ctrl",
    "cpu_based_3rd_exec_ctrl",
    "vmexit_ctrl",
    "vmentry_ctrl",
)
_INCONSISTENT = ("ept_cap_without_control", "vpid_cap_without_control", "entry_exit_pair")
_SITES = (
    "accepted",
    *(f"refused {site}" for site in _INCONSISTENT),
    *(f"refused required.{word}" for word in _WORDS),
    *(f"refused basic.{part}" for part in ("size", "address_width", "memory_type")),
    *(f"warned {site}" for site in _INCONSISTENT),
    *(f"warned {site}" for site in ("perf_global_ctrl_erratum", "unchecked_rdmsr")),
    *(f"warned evmcs_unsupported.{word}" for word in _WORDS),
)

SITES = tuple(f"{kernel} {site}" for kernel in KERNELS for site in _SITES)
"""One for each outcome, refusal and warning of each kernel."""

_INDEX = {site: number for number, site in enumerate(SITES)}
_OF_KERNEL = {
    kernel: ((1 << len(_SITES)) - 1) << number * len(_SITES)
    for number, kernel in enumerate(KERNELS)
}


@dataclass(frozen=True, slots=True)
class SiteVerdicts:
    """The sites of one kernel were asked; those that fired count as broken."""

    asked: int
    broken: tuple[int, ...]
    unknown: tuple[int, ...] = ()


def setup_arguments(case: ConfigCase) -> tuple[HostCpu, Kernel, ModuleParams]:
    """Return what hardware_setup() takes for a case."""
    loading = loading_of(case)
    return loading.host, loading.kernel, loading.params


def site_verdicts(case: ConfigCase, outcome: ConfigOutcome) -> SiteVerdicts:
    """Return which sites an outcome shows."""
    ending = "accepted" if outcome.config is not None else f"refused {outcome.site}"
    fired = dict.fromkeys([ending, *(f"warned {warning.site}" for warning in outcome.warnings)])
    return SiteVerdicts(
        _OF_KERNEL[case.kernel], tuple(_INDEX[f"{case.kernel} {site}"] for site in fired)
    )
