# SPDX-License-Identifier: GPL-2.0-only
"""The kernel versions that can be asked for: one value each, a sum of small named behaviours.

A difference between versions is a field here, never a second copy of a function.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm import control_sets as sets
from nvmxfuzz.kvm.control_sets import ControlSet
from nvmxfuzz.kvm.evmcs import EVMCS_5_18, EVMCS_6_12, EvmcsFilter


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel version, x86_64, with CONFIG_HYPERV and CONFIG_KVM_INTEL."""

    version: str
    source: str
    """The tree that was read."""

    pin_based: ControlSet
    cpu_based: ControlSet
    secondary: ControlSet
    tertiary_optional: int
    """0 where KVM does not know tertiary controls: it then never reads their MSR."""
    vmexit: ControlSet
    vmentry: ControlSet
    entry_exit_pairs: tuple[tuple[int, int], ...]
    """Empty where KVM does not compare VM-entry with VM-exit controls."""

    has_error_on_inconsistent_vmcs_config: bool
    trims_intercepts: bool
    """CR8 exiting goes with the TPR shadow, CR3 and INVLPG exiting with EPT, already in the config;
    later kernels do that a vCPU at a time in vmx_exec_control()."""
    filters_encls_after: bool
    """ENCLS exiting is cleared after the MSR was read; before, KVM did not ask for it."""
    knows_ept_violation_ve: bool
    prove_ve: bool
    """CONFIG_KVM_INTEL_PROVE_VE, off in every distribution kernel."""
    perf_global_ctrl_erratum_in_config: bool
    """The erratum clears the controls in the config; 6.1 clears them a vCPU at a time."""
    caches_misc: bool
    evmcs: EvmcsFilter | None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Return the names of the module parameters that shape the config."""
        always = ("enlightened_vmcs",)
        if self.has_error_on_inconsistent_vmcs_config:
            return (*always, "error_on_inconsistent_vmcs_config")
        return always


_V5_18 = Kernel(
    version="5.18",
    source="mainline v5.18",
    pin_based=sets.PIN_BASED,
    cpu_based=sets.CPU_BASED_5_18,
    secondary=sets.SECONDARY_5_18,
    tertiary_optional=0,
    vmexit=sets.VMEXIT_5_18,
    vmentry=sets.VMENTRY_5_18,
    entry_exit_pairs=(),
    has_error_on_inconsistent_vmcs_config=False,
    trims_intercepts=True,
    filters_encls_after=False,
    knows_ept_violation_ve=False,
    prove_ve=False,
    perf_global_ctrl_erratum_in_config=True,
    caches_misc=False,
    evmcs=EVMCS_5_18,
)

_V6_1 = Kernel(
    version="6.1",
    source="Debian linux-source-6.1, 6.1.192",
    pin_based=sets.PIN_BASED,
    cpu_based=sets.CPU_BASED_6_1,
    secondary=sets.SECONDARY_6_1,
    tertiary_optional=sets.TERTIARY_6_1,
    vmexit=sets.VMEXIT_6_1,
    vmentry=sets.VMENTRY_6_1,
    entry_exit_pairs=sets.VMCS_ENTRY_EXIT_PAIRS,
    has_error_on_inconsistent_vmcs_config=True,
    trims_intercepts=False,
    filters_encls_after=True,
    knows_ept_violation_ve=False,
    prove_ve=False,
    perf_global_ctrl_erratum_in_config=False,
    caches_misc=True,
    evmcs=None,
)

_V6_12 = Kernel(
    version="6.12",
    source="Debian linux-source-6.12, 6.12.117",
    pin_based=sets.PIN_BASED,
    cpu_based=sets.CPU_BASED_6_1,
    secondary=sets.SECONDARY_6_12,
    tertiary_optional=sets.TERTIARY_6_1,
    vmexit=sets.VMEXIT_6_1,
    vmentry=sets.VMENTRY_6_1,
    entry_exit_pairs=sets.VMCS_ENTRY_EXIT_PAIRS,
    has_error_on_inconsistent_vmcs_config=True,
    trims_intercepts=False,
    filters_encls_after=True,
    knows_ept_violation_ve=True,
    prove_ve=False,
    perf_global_ctrl_erratum_in_config=True,
    caches_misc=True,
    evmcs=EVMCS_6_12,
)

_KERNELS = (_V5_18, _V6_1, _V6_12)

KERNELS = tuple(kernel.version for kernel in _KERNELS)
"""The versions that `find_kernel` knows, oldest first."""


def find_kernel(version: str) -> Kernel:
    """Return the kernel of that version; an unknown one is an InputError that lists them all."""
    for kernel in _KERNELS:
        if kernel.version == version:
            return kernel
    raise InputError(f"unknown kernel {version[:40]!r}: choose one of {', '.join(KERNELS)}")
