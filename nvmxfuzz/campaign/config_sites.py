# SPDX-License-Identifier: GPL-2.0-only
"""The points of the harness for capability configs: what a kernel may say of a table of MSRs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nvmxfuzz.inputs.case import ConfigCase
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.source import KERNELS, Kernel, find_kernel
from nvmxfuzz.kvm.vmcs_config import ConfigOutcome
from nvmxfuzz.oracles.config.capability_config import loading_of

_REQUIRING = ("pin_based_exec_ctrl", "cpu_based_exec_ctrl", "vmexit_ctrl", "vmentry_ctrl")
"""The words in which KVM requires controls; in the others all are optional."""

_ALL_WORDS = (*_REQUIRING, "cpu_based_2nd_exec_ctrl", "cpu_based_3rd_exec_ctrl")
_BASIC = ("size", "address_width", "memory_type")
_CAPABILITIES = ("ept_cap_without_control", "vpid_cap_without_control")


def _sites_of(kernel: Kernel) -> Iterator[str]:
    """Yield what `kernel` can say, and nothing that it cannot."""
    inconsistent = (*_CAPABILITIES, *(["entry_exit_pair"] if kernel.entry_exit_pairs else []))
    yield "accepted"
    if kernel.has_error_on_inconsistent_vmcs_config:
        yield from (f"refused {site}" for site in inconsistent)
    yield from (f"refused required.{word}" for word in _REQUIRING)
    yield from (f"refused basic.{part}" for part in _BASIC)
    yield from (f"warned {site}" for site in inconsistent)
    yield from ("warned perf_global_ctrl_erratum", "warned unchecked_rdmsr")
    if kernel.evmcs is not None and kernel.evmcs.warns:
        yield from (f"warned evmcs_unsupported.{word}" for word in _ALL_WORDS)


SITES = tuple(f"{name} {site}" for name in KERNELS for site in _sites_of(find_kernel(name)))
"""One for each outcome, refusal and warning of each kernel."""

_INDEX = {site: number for number, site in enumerate(SITES)}
_OF_KERNEL = {
    name: sum(1 << number for site, number in _INDEX.items() if site.startswith(f"{name} "))
    for name in KERNELS
}


@dataclass(frozen=True, slots=True)
class SiteVerdicts:
    """The sites that could fire were asked; those that fired count as broken."""

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
