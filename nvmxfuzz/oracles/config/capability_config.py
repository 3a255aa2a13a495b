# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of the config that KVM makes of a table of capability MSRs.

Each oracle gets the function that makes the config passed in: the model, the real kernel, or one
with a planted fault. It reports the first promise that is broken, in a fixed order.

Two things that a reader may expect are not promised, because KVM does not keep them:

* *A must-be-1 control is never cleared.* KVM clears controls on purpose (see
  `_cleared_on_purpose`) without a look at the must-be-1 half. Only these are excepted, and only
  while their reason applies.
* *A control set that VM entry would accept as a whole.* From 6.1 on the config lists what is
  available; unrestricted guest or PML without EPT and the like are dealt with by module flags in
  hardware_setup() and a vCPU at a time.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.inputs.case import ConfigCase
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.source import Kernel, find_kernel
from nvmxfuzz.kvm.vmcs_config import ConfigOutcome, VmcsConfig
from nvmxfuzz.oracles.config import promises
from nvmxfuzz.oracles.config.promises import Promise, Word
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle

Run = Callable[[HostCpu, Kernel, ModuleParams], ConfigOutcome]
Broken = tuple[str, str, str]
"""(promise, site, message)."""


@dataclass(frozen=True, slots=True)
class Loading:
    """One loading of the module: what a case is to KVM."""

    host: HostCpu
    kernel: Kernel
    params: ModuleParams

    @property
    def promise(self) -> Promise:
        """Return what this kernel promises."""
        return promises.PROMISES[self.kernel.version]

    @property
    def refuses_inconsistent(self) -> bool:
        """Whether error_on_inconsistent_vmcs_config exists and is set."""
        return self.promise.has_parameter and self.params.error_on_inconsistent_vmcs_config

    @property
    def uses_evmcs(self) -> bool:
        """Whether the config is cut down to what the enlightened VMCS has fields for."""
        return (
            self.promise.filters_for_hyperv
            and self.host.on_hyperv_evmcs
            and self.params.enlightened_vmcs
        )


def loading_of(case: ConfigCase) -> Loading:
    """Return what KVM sees of a case; a kernel that is not known is an InputError."""
    return Loading(
        HostCpu.of(case.profile, case.has_sgx, case.evmcs),
        find_kernel(case.kernel),
        ModuleParams(case.error_on_inconsistent, case.enlightened_vmcs),
    )


def _first(
    oracle: str,
    case: ConfigCase,
    run: Run,
    broken_promises: Callable[[Loading, Run], Iterator[Broken]],
) -> Finding | None:
    """Return the finding for the first promise that is broken, or None."""
    for rule, site, message in broken_promises(loading_of(case), run):
        targets = ("promise", f"kvm {case.kernel}")
        return Finding(oracle, (rule,), targets, site, message)
    return None


def inconsistent_refused(case: ConfigCase, run: Run) -> Finding | None:
    """An inconsistent table is refused with the parameter, else cleared, warned about once."""
    return _first("config.inconsistent-refused", case, run, _inconsistent_refused)


def well_formed(case: ConfigCase, run: Run) -> Finding | None:
    """An accepted config lacks no required or must-be-1 control, and has none it may not have."""
    return _first("config.well-formed", case, run, _well_formed)


def fixpoint(case: ConfigCase, run: Run) -> Finding | None:
    """An accepted config, fed back as hardware, is accepted unchanged and without a warning."""
    return _first("config.fixpoint", case, run, _fixpoint)


def parameter_neutral(case: ConfigCase, run: Run) -> Finding | None:
    """A consistent table comes to the same result with the parameter on and off."""
    return _first("config.parameter-neutral", case, run, _parameter_neutral)


def _inconsistent_refused(loading: Loading, run: Run) -> Iterator[Broken]:
    outcome = run(loading.host, loading.kernel, loading.params)
    inconsistent = promises.is_inconsistent(loading.host, loading.promise)
    if inconsistent and loading.refuses_inconsistent:
        if outcome.errno != -errno.EIO or outcome.config is not None:
            yield "refused", "", "an inconsistent table was accepted"
        return
    if outcome.config is None:
        if not promises.lacks_something_required(loading.host, loading.promise):
            yield "accepted", outcome.site, f"refused at {outcome.site} without a reason for it"
        return
    if outcome.errno:
        yield "accepted", outcome.site, f"a config was made, but the error is {outcome.errno}"
    yield from _degraded_capabilities(loading.host, outcome, outcome.config)
    if loading.promise.sanitizes_pairs:
        yield from _degraded_pairs(loading.host, outcome, outcome.config)


def _degraded_capabilities(
    host: HostCpu, outcome: ConfigOutcome, config: VmcsConfig
) -> Iterator[Broken]:
    lost = promises.capability_without_control(host)
    capability = promises.read(host, msr.MSR_IA32_VMX_EPT_VPID_CAP)
    offered = {"ept": capability & promises.LOW, "vpid": capability >> 32}
    for name, value in offered.items():
        expected = 0 if name in lost else value
        found = getattr(config, name)
        if found != expected:
            yield "zeroed", name, f"capability {name} is {found:#x}, not {expected:#x}"
        yield from _warned(outcome, f"{name}_cap_without_control", name in lost)


def _degraded_pairs(host: HostCpu, outcome: ConfigOutcome, config: VmcsConfig) -> Iterator[Broken]:
    lost = promises.unpaired(host)
    for name, entry_half, exit_half in lost:
        if config.vmentry_ctrl & entry_half or config.vmexit_ctrl & exit_half:
            yield "both-halves", name, f"one half of the pair for {name} is still set"
    # One place warns for all pairs, and it prints once: the first pair is the one that is named.
    yield from _warned(outcome, "entry_exit_pair", bool(lost))
    for warning in outcome.warnings:
        if warning.site == "entry_exit_pair" and lost and warning.arguments != lost[0][1:]:
            yield "warned", warning.site, f"warned about {warning.arguments}, not {lost[0][1:]}"


def _warned(outcome: ConfigOutcome, site: str, expected: bool) -> Iterator[Broken]:
    count = sum(warning.site == site for warning in outcome.warnings)
    if count != int(expected):
        yield "warned", site, f"{count} warnings, where {int(expected)} is right"


def _well_formed(loading: Loading, run: Run) -> Iterator[Broken]:
    config = run(loading.host, loading.kernel, loading.params).config
    if config is None:
        return
    for name, required in loading.promise.required.items():
        offered = _offered(loading.host, name)
        value = getattr(config, name)
        missing = required & ~value & ~_needless_exiting(loading, config, name)
        if missing:
            yield "required", name, f"required {missing:#x} is missing"
        if value & ~offered.usable:
            yield "allowed", name, f"{value & ~offered.usable:#x} is set, but not allowed"
        lost = offered.must_be_1 & offered.may_be_1 & ~value
        if not loading.uses_evmcs and lost & ~_cleared_on_purpose(loading, config, name):
            yield "must-be-1", name, f"must-be-1 {lost:#x} is clear"
    tertiary = config.cpu_based_3rd_exec_ctrl
    if tertiary & ~promises.read(loading.host, msr.MSR_IA32_VMX_PROCBASED_CTLS3):
        yield "allowed", "cpu_based_3rd_exec_ctrl", f"{tertiary:#x} is set, but not allowed"
    if not promises.basic_is_usable(config.basic):
        yield "basic", "basic", f"IA32_VMX_BASIC {config.basic:#x} was accepted"
    yield from _dependent(loading, config)


def _offered(host: HostCpu, name: str) -> Word:
    if name == "cpu_based_2nd_exec_ctrl":
        return promises.secondary_word(host)
    return promises.read_word(host, name)


def _needless_exiting(loading: Loading, config: VmcsConfig, name: str) -> int:
    """Return the exiting controls that 5.18 requires, and leaves out where they are needless."""
    if name != "cpu_based_exec_ctrl" or not loading.promise.clears_needless_exiting:
        return 0
    needless = 0
    if config.cpu_based_exec_ctrl & Primary.USE_TPR_SHADOW:
        needless |= promises.CR8_EXITING
    if config.cpu_based_2nd_exec_ctrl & Secondary.ENABLE_EPT:
        needless |= promises.PAGING_EXITING
    return needless


def _cleared_on_purpose(loading: Loading, config: VmcsConfig, name: str) -> int:
    """Return the controls of a word that the kernel clears even where they must be 1."""
    match name:
        case "cpu_based_exec_ctrl":
            return _needless_exiting(loading, config, name)
        case "cpu_based_2nd_exec_ctrl":
            return _secondary_cleared(loading, config)
        case "pin_based_exec_ctrl":
            return _pin_based_cleared(loading, config)
        case "vmentry_ctrl":
            return _paired_cleared(loading)[0]
        case _:
            return _paired_cleared(loading)[1]


def _pin_based_cleared(loading: Loading, config: VmcsConfig) -> int:
    cleared = 0
    if promises.has_broken_preemption_timer(loading.host):
        cleared |= Pin.ACTIVATE_VMX_PREEMPTION_TIMER
    if not config.cpu_based_2nd_exec_ctrl & Secondary.VIRTUAL_INTERRUPT_DELIVERY:
        cleared |= Pin.PROCESS_POSTED_INTERRUPTS
    return cleared


def _secondary_cleared(loading: Loading, config: VmcsConfig) -> int:
    cleared = 0
    if not config.cpu_based_exec_ctrl & Primary.USE_TPR_SHADOW:
        cleared |= promises.VIRTUAL_APIC
    if loading.promise.clears_encls_without_sgx and not loading.host.has_sgx:
        cleared |= Secondary.ENABLE_ENCLS_EXITING
    if loading.promise.clears_ept_violation_ve:
        cleared |= Secondary.EPT_VIOLATION_VE
    return cleared


def _paired_cleared(loading: Loading) -> tuple[int, int]:
    """Return the VM-entry and the VM-exit controls that go because of their other half."""
    entry = exit_ = 0
    if loading.promise.sanitizes_pairs:
        for _, entry_half, exit_half in promises.unpaired(loading.host):
            entry |= entry_half
            exit_ |= exit_half
    if loading.promise.clears_perf_global_ctrl and promises.has_perf_global_ctrl_erratum(
        loading.host
    ):
        entry |= VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL
        exit_ |= VmExit.LOAD_IA32_PERF_GLOBAL_CTRL
    return entry, exit_


def _dependent(loading: Loading, config: VmcsConfig) -> Iterator[Broken]:
    primary, secondary = config.cpu_based_exec_ctrl, config.cpu_based_2nd_exec_ctrl
    tertiary = config.cpu_based_3rd_exec_ctrl
    posted = config.pin_based_exec_ctrl & Pin.PROCESS_POSTED_INTERRUPTS
    # (dependent, what it depends on, site)
    dependencies = [
        (secondary, primary & Primary.ACTIVATE_SECONDARY_CONTROLS, "secondary controls"),
        (tertiary, primary & Primary.ACTIVATE_TERTIARY_CONTROLS, "tertiary controls"),
        (secondary & promises.VIRTUAL_APIC, primary & Primary.USE_TPR_SHADOW, "virtual APIC"),
        (posted, secondary & Secondary.VIRTUAL_INTERRUPT_DELIVERY, "posted interrupts"),
        (config.ept, secondary & Secondary.ENABLE_EPT, "EPT capability"),
        (config.vpid, secondary & Secondary.ENABLE_VPID, "VPID capability"),
    ]
    if loading.promise.sanitizes_pairs:
        for name, entry, exit_ in promises.PAIRS:
            in_entry, in_exit = config.vmentry_ctrl & entry, config.vmexit_ctrl & exit_
            dependencies += [(in_entry, in_exit, name), (in_exit, in_entry, name)]
    for dependent, needed, site in dependencies:
        if dependent and not needed:
            yield "dependent", site, f"{site}: {dependent:#x} without what it depends on"


def _fixpoint(loading: Loading, run: Run) -> Iterator[Broken]:
    config = run(loading.host, loading.kernel, loading.params).config
    if config is None:
        return
    again = run(_as_hardware(loading, config), loading.kernel, loading.params)
    if again.config is None:
        yield "accepted", again.site, f"its own config was refused at {again.site}"
        return
    for field in VmcsConfig.__dataclass_fields__:
        before, after = getattr(config, field), getattr(again.config, field)
        if before != after:
            yield "unchanged", field, f"{field} went from {before} to {after}"
    for warning in again.warnings:
        # The erratum is one of the processor model, not of the table.
        if warning.site != "perf_global_ctrl_erratum":
            yield "silent", warning.site, f"its own config was warned about at {warning.site}"


def _as_hardware(loading: Loading, config: VmcsConfig) -> HostCpu:
    """Return the host whose MSRs offer exactly the config.

    Must-be-1 bits stay as far as they are in the config. The exiting controls that 5.18 requires
    and then leaves out are on offer: no config could be made without them.
    """
    msrs = dict(loading.host.msrs)
    for name, index in promises.WORD_MSRS.items():
        value = getattr(config, name)
        offered = value | _needless_exiting(loading, config, name)
        must_be_1 = _offered(loading.host, name).must_be_1 & value
        msrs[index] = offered << 32 | must_be_1
    msrs[msr.MSR_IA32_VMX_PROCBASED_CTLS3] = config.cpu_based_3rd_exec_ctrl
    msrs[msr.MSR_IA32_VMX_EPT_VPID_CAP] = config.vpid << 32 | config.ept
    msrs[msr.MSR_IA32_VMX_BASIC] = config.basic
    if config.misc is not None:
        msrs[msr.MSR_IA32_VMX_MISC] = config.misc
    return replace(loading.host, msrs=msrs)


def _parameter_neutral(loading: Loading, run: Run) -> Iterator[Broken]:
    if loading.promise.has_parameter and promises.is_inconsistent(loading.host, loading.promise):
        return
    results = [
        run(
            loading.host,
            loading.kernel,
            replace(loading.params, error_on_inconsistent_vmcs_config=value),
        )
        for value in (False, True)
    ]
    if results[0] != results[1]:
        yield "same", results[1].site, "the parameter changed what came of a consistent table"


ORACLES: tuple[Oracle[ConfigCase, Run], ...] = (
    Oracle(
        "config.inconsistent-refused",
        "KVM commits f5a81d0eb01e and 3dbec44d9c94; in 5.18, before them, only the half about EPT "
        "and VPID capabilities applies, and nothing is refused for it",
        inconsistent_refused,
    ),
    Oracle(
        "config.well-formed",
        "SDM: VMX Capability Reporting Facility, VM-Execution Control Fields",
        well_formed,
    ),
    Oracle(
        "config.fixpoint",
        "a processor that offers just what KVM uses is one that KVM can use",
        fixpoint,
    ),
    Oracle("config.parameter-neutral", "KVM commit 3dbec44d9c94", parameter_neutral),
)
"""In the order in which they are asked."""
