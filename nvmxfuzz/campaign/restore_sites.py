# SPDX-License-Identifier: GPL-2.0-only
"""The points of the harness for restores: which check a value met, and what came of each step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nvmxfuzz.campaign.config_sites import SiteVerdicts
from nvmxfuzz.inputs.case import RestoreCase
from nvmxfuzz.kvm import msr_vcpu as vcpus
from nvmxfuzz.kvm.msr_behaviour import MSR_KERNELS
from nvmxfuzz.kvm.msr_restore import SetResult, vmx_set_vmx_msr
from nvmxfuzz.oracles.restore.case import Lived, prepared
from nvmxfuzz.oracles.restore.witness import WATCHED, ModelMsrs, SetCpuid, SetMsrs, Step, msr_name

CHECKS: Final = (
    "set-msr.index.unknown",
    "set-msr.vmx.has-run",
    "set-msr.vmx.read-only",
    "set-msr.vmx.no-cpuid",
    "set-msr.feature-control.bits",
    "set-msr.feature-control.locked",
    "restore.vmx-operation",
    "restore.basic.features",
    "restore.basic.address-width",
    "restore.basic.revision-id",
    "restore.basic.region-size",
    "restore.controls.must-be-1",
    "restore.controls.may-be-1",
    "restore.misc.features",
    "restore.misc.preemption-timer-rate",
    "restore.misc.cr3-targets",
    "restore.misc.max-msr-list",
    "restore.misc.mseg-revision-id",
    "restore.ept-vpid.features",
    "restore.fixed0.must-be-1",
    "restore.vmfunc.functions",
    "restore.default-controls.generated",
    "restore.fixed1.generated",
    "restore.index.unknown",
)
"""What refuses a value, by the names of `kvm.msr_vcpu` and `kvm.msr_restore`."""

_ONLY: Final = {"set-msr.vmx.has-run": ("6.12",)}
"""Checks that some kernels alone have."""

_STEPS: Final = (
    *("SetCpuid done", "SetCpuid refused", "Nested done", "Nested refused", "EnableEvmcs done"),
    *("Rdmsr done", "Rdmsr refused", "Wrmsr done", "Wrmsr refused", "Smi done", "Rsm done"),
)
_LOADING: Final = ("loaded", "loaded without nested", "not loaded")
_WRITTEN: Final = tuple(
    msr_name(index)
    for index in WATCHED
    if "FIXED1" not in msr_name(index)
    and msr_name(index)
    not in {f"IA32_VMX_{word}_CTLS" for word in ("PINBASED", "PROCBASED", "EXIT", "ENTRY")}
)
"""MSRs that userspace can give a value; the others follow from these."""
_BY_CPUID: Final = ("CR0_FIXED1", "CR4_FIXED1", "PROCBASED_CTLS2")


def _sites_of(kernel: str) -> Iterator[str]:
    yield from _LOADING
    yield from (check for check in CHECKS if kernel in _ONLY.get(check, MSR_KERNELS))
    yield from (f"taken {name}" for name in _WRITTEN)
    yield from (f"SetCpuid changes IA32_VMX_{name}" for name in _BY_CPUID)
    yield from _STEPS


RESTORE_SITES: Final = tuple(f"{name} {site}" for name in MSR_KERNELS for site in _sites_of(name))
"""One for each check, each MSR that takes a value and each ending of a step, of each kernel."""

_INDEX: Final = {site: number for number, site in enumerate(RESTORE_SITES)}
_OF_KERNEL: Final = {
    name: sum(1 << number for site, number in _INDEX.items() if site.startswith(f"{name} "))
    for name in MSR_KERNELS
}


class CheckedModel(ModelMsrs):
    """The model, which notes the check that each value met."""

    def __init__(self, kernel: str) -> None:
        """Take a version."""
        super().__init__(kernel)
        self.met: set[str] = set()

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """KVM_SET_MSRS."""
        for done, (index, value) in enumerate(values):
            if not self._note(index, vcpus.do_set_msr(self.vcpu, index, value)):
                return done
        return len(values)

    def restore_msr(self, index: int, value: int) -> int:
        """vmx_set_vmx_msr()."""
        vcpu = self.vcpu
        against_vcpu = vcpu.module.behaviour.restores_against_vcpu
        supported = vcpu.msrs if against_vcpu else vcpu.module.nested
        return self._note(
            index, vmx_set_vmx_msr(vcpu.msrs, supported, vcpu.vmxon, index, value)
        ).errno

    def wrmsr(self, index: int, value: int) -> int:
        """WRMSR by L1."""
        self.vcpu.has_run = True
        result = vcpus.vmx_set_msr(self.vcpu, index, value, host_initiated=False)
        return 0 if self._note(index, result) else 1

    def _note(self, index: int, result: SetResult) -> SetResult:
        self.met.add(result.check or f"taken {msr_name(index)}")
        return result


def lived_case(case: RestoreCase) -> Lived:
    """Return a case ready to be lived through on the model that notes its checks."""
    return prepared(case, CheckedModel)


def restore_verdicts(case: RestoreCase, lived: Lived) -> SiteVerdicts:
    """Live through a case, and return which sites it shows."""
    kernel = case.world.kernel
    fired = dict.fromkeys(f"{kernel} {site}" for site in _fired(lived))
    return SiteVerdicts(_OF_KERNEL[kernel], tuple(_INDEX[site] for site in fired if site in _INDEX))


def _fired(lived: Lived) -> Iterator[str]:
    model = lived.witness
    if model.module is None:
        yield "not loaded"
        return
    yield "loaded" if model.module.params.nested else "loaded without nested"
    met = model.met if isinstance(model, CheckedModel) else set()
    met.clear()
    model.renew()
    for step in lived.steps:
        if isinstance(step, SetCpuid):
            yield from _changed_by(step, model)
        else:
            yield from _ended(step, step.on(model))
    yield from sorted(met)


def _changed_by(step: SetCpuid, model: ModelMsrs) -> Iterator[str]:
    before = dict(zip(WATCHED, model.read(), strict=False))
    yield from _ended(step, step.on(model))
    for index, value in zip(WATCHED, model.read(), strict=False):
        if before.get(index, value) != value:
            yield f"SetCpuid changes {msr_name(index)}"


def _ended(step: Step, result: int | None) -> Iterator[str]:
    if isinstance(step, SetMsrs):
        return
    refused = result is None or (result != 0 and type(step).__name__ != "Rdmsr")
    yield f"{type(step).__name__} {'refused' if refused else 'done'}"
