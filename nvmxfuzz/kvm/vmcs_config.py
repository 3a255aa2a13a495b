# SPDX-License-Identifier: GPL-2.0-only
"""setup_vmcs_config(): the VMX capability MSRs of the host, made into the controls KVM may use.

vmx/vmx.c, with the kernel's function names and its order. Where versions differ, a field of
`Kernel` says so. An MSR that is absent reads as zero: RDMSR faults, the kernel's exception fixup
carries on with zero, and the first such read that was not a _safe one is warned about, once.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.kvm.control_sets import ControlSet
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu, ModuleParams
from nvmxfuzz.kvm.source import Kernel

WORD = (1 << 32) - 1
PAGE_SIZE = 4096
X86_MEMTYPE_WB = 6

PERF_GLOBAL_CTRL_BUG_MODELS = frozenset({0x1A, 0x1E, 0x25, 0x2C, 0x2E})
"""Models of family 6 (Nehalem, Westmere) whose VM exits may clear IA32_PERF_GLOBAL_CTRL[34:32]."""

BROKEN_PREEMPTION_TIMERS = frozenset(
    {
        (0x1A, 0),
        (0x1A, 1),
        (0x1A, 4),
        (0x1A, 5),
        (0x1E, 5),
        (0x25, 2),
        (0x25, 5),
        (0x2E, 6),
        (0x3A, 8),
    }
)
"""(model, stepping) of family 6, from vmx_preemption_cpu_tfms[]."""

_CR8_EXITING = Primary.CR8_LOAD_EXITING | Primary.CR8_STORE_EXITING
_PAGING_EXITING = Primary.CR3_LOAD_EXITING | Primary.CR3_STORE_EXITING | Primary.INVLPG_EXITING
_NEEDS_TPR_SHADOW = (
    Secondary.APIC_REGISTER_VIRTUALIZATION
    | Secondary.VIRTUALIZE_X2APIC_MODE
    | Secondary.VIRTUAL_INTERRUPT_DELIVERY
)
_TERTIARY = int(Primary.ACTIVATE_TERTIARY_CONTROLS)
_SECONDARY = int(Primary.ACTIVATE_SECONDARY_CONTROLS)


@dataclass(frozen=True, slots=True)
class KernelWarning:
    """A line of the kernel log: where it comes from, and the numbers that it prints."""

    site: str
    arguments: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class VmcsConfig:
    """struct vmcs_config and struct vmx_capability, under the kernel's names.

    Control words are 32 bits wide, `cpu_based_3rd_exec_ctrl`, `basic` and `misc` 64, `ept` and
    `vpid` 32. `misc` is None where the kernel does not keep it.
    """

    pin_based_exec_ctrl: int
    cpu_based_exec_ctrl: int
    cpu_based_2nd_exec_ctrl: int
    cpu_based_3rd_exec_ctrl: int
    vmexit_ctrl: int
    vmentry_ctrl: int
    ept: int
    vpid: int
    basic: int
    misc: int | None

    @property
    def size(self) -> int:
        """Return the size of a VMCS region in bytes, a field of its own up to 6.1."""
        return self.basic >> 32 & 0x1FFF

    @property
    def basic_cap(self) -> int:
        """Return the high half of IA32_VMX_BASIC without the size, a field up to 6.1."""
        return self.basic >> 32 & ~0x1FFF

    @property
    def revision_id(self) -> int:
        """Return the low half of IA32_VMX_BASIC, a field of its own up to 6.1."""
        return self.basic & WORD


@dataclass(frozen=True, slots=True)
class ConfigOutcome:
    """What setup_vmcs_config() came to: a config and errno 0, or None, -EIO and where."""

    config: VmcsConfig | None
    errno: int
    site: str
    warnings: tuple[KernelWarning, ...]


class _RefusedError(Exception):
    """setup_vmcs_config() returns -EIO; the argument names the place."""


class _Setup:
    """One call: the local variables of the kernel's function, and what was printed so far."""

    __slots__ = (
        "cpu_based",
        "ept",
        "host",
        "kernel",
        "msrs",
        "pin_based",
        "rejects",
        "secondary",
        "tertiary",
        "vmentry",
        "vmexit",
        "vpid",
        "warned",
        "warnings",
    )

    def __init__(self, host: HostCpu, kernel: Kernel, params: ModuleParams) -> None:
        self.host = host
        self.msrs = host.msrs
        self.kernel = kernel
        self.rejects = (
            kernel.has_error_on_inconsistent_vmcs_config
            and params.error_on_inconsistent_vmcs_config
        )
        self.warned: set[str] = set()
        self.warnings: list[KernelWarning] = []
        self.cpu_based = self.secondary = self.tertiary = 0
        self.pin_based = self.vmexit = self.vmentry = 0
        self.ept = self.vpid = 0

    def pr_warn_once(self, site: str, *arguments: int) -> None:
        """Note a line of the log, unless this place has printed one."""
        if site not in self.warned:
            self.warned.add(site)
            self.warnings.append(KernelWarning(site, arguments))

    def rdmsr(self, index: int) -> int:
        """Return the value of an MSR, zero where it is absent; the fault leaves one warning."""
        value = self.msrs.get(index)
        if value is None:
            self.pr_warn_once("unchecked_rdmsr", index)
            return 0
        return value

    def rdmsr_safe(self, index: int) -> int:
        """Return the value of an MSR, zero where it is absent."""
        return self.msrs.get(index, 0)

    def inconsistent(self, site: str, *arguments: int) -> None:
        """Warn about what fits nowhere, and refuse it with error_on_inconsistent_vmcs_config."""
        self.pr_warn_once(site, *arguments)
        if self.rejects:
            raise _RefusedError(site)


def adjust_vmx_controls(ctl_min: int, ctl_opt: int, value: int) -> int | None:
    """Return the controls to use of the wanted ones, or None (-EIO) if a required one is missing.

    `value` is the capability MSR: bits 31:0 must be 1 where set, bits 63:32 may be 1 where set.
    """
    ctl = ((ctl_min | ctl_opt) & (value >> 32)) | (value & WORD)
    return None if ctl_min & ~ctl else ctl


def adjust_vmx_controls64(ctl_opt: int, value: int) -> int:
    """Return the wanted 64-bit controls that the MSR `value` allows."""
    return ctl_opt & value


def cpu_has_perf_global_ctrl_bug(host: HostCpu) -> bool:
    """Whether VM exit may clear IA32_PERF_GLOBAL_CTRL[34:32] on this processor.

    The kernel keeps the family in 8 bits. (That of CPUID can be greater.)
    """
    return host.family & 0xFF == 6 and host.model in PERF_GLOBAL_CTRL_BUG_MODELS


def cpu_has_broken_vmx_preemption_timer(host: HostCpu) -> bool:
    """Whether the VMX-preemption timer of this processor is known to be unusable."""
    return host.family == 6 and (host.model, host.stepping) in BROKEN_PREEMPTION_TIMERS


def setup_vmcs_config(
    host: HostCpu, kernel: Kernel, params: ModuleParams = DEFAULT_PARAMS
) -> ConfigOutcome:
    """Return the config that `kernel` makes of `host`, or -EIO; any 64-bit MSR value is legal."""
    setup = _Setup(host, kernel, params)
    try:
        _execution_controls(setup)
        _ept_and_vpid_capability(setup)
        _sgx_and_tertiary_controls(setup)
        _exit_pin_and_entry_controls(setup)
        _entry_exit_pairs(setup)
        _perf_global_ctrl_erratum(setup)
        basic = _vmx_basic(setup)
    except _RefusedError as refused:
        return ConfigOutcome(None, -errno.EIO, str(refused), tuple(setup.warnings))
    misc = setup.rdmsr(msr.MSR_IA32_VMX_MISC) if kernel.caches_misc else None
    if kernel.evmcs is not None and host.on_hyperv_evmcs and params.enlightened_vmcs:
        evmcs_sanitize_exec_ctrls(setup)
    config = VmcsConfig(
        setup.pin_based,
        setup.cpu_based,
        setup.secondary,
        setup.tertiary,
        setup.vmexit,
        setup.vmentry,
        setup.ept,
        setup.vpid,
        basic,
        misc,
    )
    return ConfigOutcome(config, 0, "", tuple(setup.warnings))


def _adjust(setup: _Setup, controls: ControlSet, index: int, word: str) -> int:
    adjusted = adjust_vmx_controls(controls.required, controls.optional, setup.rdmsr(index))
    if adjusted is None:
        raise _RefusedError(f"required.{word}")
    return adjusted


def _execution_controls(setup: _Setup) -> None:
    kernel = setup.kernel
    cpu_based = _adjust(
        setup, kernel.cpu_based, msr.MSR_IA32_VMX_PROCBASED_CTLS, "cpu_based_exec_ctrl"
    )
    if kernel.trims_intercepts and cpu_based & Primary.USE_TPR_SHADOW:
        cpu_based &= ~_CR8_EXITING
    secondary = 0
    if cpu_based & _SECONDARY:
        secondary = _adjust(
            setup,
            _wanted_secondary_controls(setup),
            msr.MSR_IA32_VMX_PROCBASED_CTLS2,
            "cpu_based_2nd_exec_ctrl",
        )
    if kernel.knows_ept_violation_ve and not kernel.prove_ve:
        secondary &= ~Secondary.EPT_VIOLATION_VE
    if not cpu_based & Primary.USE_TPR_SHADOW:
        secondary &= ~_NEEDS_TPR_SHADOW
    setup.cpu_based = cpu_based
    setup.secondary = secondary


def _wanted_secondary_controls(setup: _Setup) -> ControlSet:
    wanted = setup.kernel.secondary
    if setup.kernel.filters_encls_after or setup.host.has_sgx:
        return wanted
    return ControlSet(wanted.required, wanted.optional & ~Secondary.ENABLE_ENCLS_EXITING)


def _ept_and_vpid_capability(setup: _Setup) -> None:
    capability = setup.rdmsr_safe(msr.MSR_IA32_VMX_EPT_VPID_CAP)
    setup.ept = capability & WORD
    setup.vpid = capability >> 32
    if setup.secondary & Secondary.ENABLE_EPT:
        if setup.kernel.trims_intercepts:
            setup.cpu_based &= ~_PAGING_EXITING
    elif setup.ept:
        setup.inconsistent("ept_cap_without_control")
        setup.ept = 0
        if setup.kernel.knows_ept_violation_ve:
            setup.secondary &= ~Secondary.EPT_VIOLATION_VE
    if setup.vpid and not setup.secondary & Secondary.ENABLE_VPID:
        setup.inconsistent("vpid_cap_without_control")
        setup.vpid = 0


def _sgx_and_tertiary_controls(setup: _Setup) -> None:
    kernel = setup.kernel
    if kernel.filters_encls_after and not setup.host.has_sgx:
        setup.secondary &= ~Secondary.ENABLE_ENCLS_EXITING
    if kernel.tertiary_optional and setup.cpu_based & _TERTIARY:
        allowed = setup.rdmsr(msr.MSR_IA32_VMX_PROCBASED_CTLS3)
        setup.tertiary = adjust_vmx_controls64(kernel.tertiary_optional, allowed)


def _exit_pin_and_entry_controls(setup: _Setup) -> None:
    kernel = setup.kernel
    setup.vmexit = _adjust(setup, kernel.vmexit, msr.MSR_IA32_VMX_EXIT_CTLS, "vmexit_ctrl")
    pin_based = _adjust(
        setup, kernel.pin_based, msr.MSR_IA32_VMX_PINBASED_CTLS, "pin_based_exec_ctrl"
    )
    if cpu_has_broken_vmx_preemption_timer(setup.host):
        pin_based &= ~Pin.ACTIVATE_VMX_PREEMPTION_TIMER
    if not setup.secondary & Secondary.VIRTUAL_INTERRUPT_DELIVERY:
        pin_based &= ~Pin.PROCESS_POSTED_INTERRUPTS
    setup.pin_based = pin_based
    setup.vmentry = _adjust(setup, kernel.vmentry, msr.MSR_IA32_VMX_ENTRY_CTLS, "vmentry_ctrl")


def _entry_exit_pairs(setup: _Setup) -> None:
    for entry_control, exit_control in setup.kernel.entry_exit_pairs:
        entry_half = setup.vmentry & entry_control
        exit_half = setup.vmexit & exit_control
        if (entry_half == 0) != (exit_half == 0):
            setup.inconsistent("entry_exit_pair", entry_half, exit_half)
            setup.vmentry &= ~entry_control
            setup.vmexit &= ~exit_control


def _perf_global_ctrl_erratum(setup: _Setup) -> None:
    if setup.kernel.perf_global_ctrl_erratum_in_config and cpu_has_perf_global_ctrl_bug(setup.host):
        setup.vmentry &= ~VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL
        setup.vmexit &= ~VmExit.LOAD_IA32_PERF_GLOBAL_CTRL
        setup.pr_warn_once("perf_global_ctrl_erratum")


def _vmx_basic(setup: _Setup) -> int:
    basic = setup.rdmsr(msr.MSR_IA32_VMX_BASIC)
    if basic >> 32 & 0x1FFF > PAGE_SIZE:
        raise _RefusedError("basic.size")
    if basic >> 48 & 1:
        raise _RefusedError("basic.address_width")
    if basic >> 50 & 0xF != X86_MEMTYPE_WB:
        raise _RefusedError("basic.memory_type")
    return basic


def evmcs_sanitize_exec_ctrls(setup: _Setup) -> None:
    """Drop what the enlightened VMCS has no field for."""
    keep = setup.kernel.evmcs
    assert keep is not None
    words = (
        ("cpu_based", "cpu_based_exec_ctrl", keep.cpu_based_exec_ctrl),
        ("pin_based", "pin_based_exec_ctrl", keep.pin_based_exec_ctrl),
        ("secondary", "cpu_based_2nd_exec_ctrl", keep.cpu_based_2nd_exec_ctrl),
        ("tertiary", "cpu_based_3rd_exec_ctrl", keep.cpu_based_3rd_exec_ctrl),
        ("vmentry", "vmentry_ctrl", keep.vmentry_ctrl),
        ("vmexit", "vmexit_ctrl", keep.vmexit_ctrl),
    )
    for variable, word, supported in words:
        unsupported = getattr(setup, variable) & ~supported
        if unsupported and keep.warns:
            setup.pr_warn_once(f"evmcs_unsupported.{word}", unsupported)
        setattr(setup, variable, getattr(setup, variable) & supported)
