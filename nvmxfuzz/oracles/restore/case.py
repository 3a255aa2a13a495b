# SPDX-License-Identifier: GPL-2.0-only
"""A restore case on a witness: its world loaded, its steps in the witness' terms, lived through.

What a step cannot do there is left out: the vCPU runs only with CPUID, with EPT and out of VMX
operation, and it enters SMM as an unrestricted guest that has run. It leaves SMM unless
bits of CR0 or CR4 have been fixed that may shut it down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Final, TypeAlias

from nvmxfuzz.inputs import steps as told
from nvmxfuzz.inputs.case import RestoreCase
from nvmxfuzz.inputs.steps import OWN, Offer
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.kvm.guest_cpuid import GuestCpuid
from nvmxfuzz.kvm.hardware_setup import LoadedKvm
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.restore.capability_restore import BREACHES, ORACLES
from nvmxfuzz.oracles.restore.witness import (
    VMX_MSRS,
    EnableEvmcs,
    ModelMsrs,
    MsrWitness,
    Nested,
    Rdmsr,
    RestoreMsr,
    Rsm,
    Sequence,
    SetCpuid,
    SetMsrs,
    Smi,
    Step,
    Wrmsr,
    spoils_rsm,
)
from nvmxfuzz.oracles.restore.worlds import msr_world

_OSPKE: Final = frozenset({"OSPKE"})
"""Of a vCPU's CPUID, KVM makes it of CR4, whatever userspace says."""
_LAX: Final = (("error_on_inconsistent_vmcs_config", 0),)

Make: TypeAlias = Callable[[str], ModelMsrs]


@dataclass(frozen=True, slots=True)
class Lived:
    """A model that is loaded on the world of a case, and the steps in its terms.

    Whoever asks the witness renews the vCPU first.
    """

    witness: ModelMsrs
    steps: Sequence


Run: TypeAlias = Callable[[RestoreCase], Lived]


def prepared(case: RestoreCase, make: Make = ModelMsrs) -> Lived:
    """Return a case ready to be lived through, on a model that `make` makes of a version."""
    model = _loaded(make, case.world)
    module = model.module
    return Lived(model, () if module is None else tuple(_livable(case, module)))


@lru_cache(maxsize=128)
def _loaded(make: Make, world: World) -> ModelMsrs:
    model = make(world.kernel)
    model.load(msr_world(world))
    return model


@lru_cache(maxsize=256)
def _offered(world: World) -> Mapping[int, int]:
    """Return what the feature MSRs of the system say, nothing where KVM is not loaded."""
    system = _loaded(ModelMsrs, world).loaded.system
    return dict(zip(VMX_MSRS, system, strict=False))


@cache
def _elsewhere(kernel: str, profile: str) -> World:
    return replace(world_on(profile, kernel), parameters=_LAX)


def offered(world: World, offer: Offer) -> Mapping[int, int]:
    """Return the MSRs that an offer means in a world: index -> value.

    On the plain processor of a profile KVM is loaded whatever is inconsistent there.
    """
    if offer.profile:
        return _offered(_elsewhere(offer.kernel or world.kernel, offer.profile))
    return _offered(replace(world, kernel=offer.kernel) if offer.kernel else world)


def breaches(case: RestoreCase) -> tuple[str, ...]:
    """Return the breaches of a case on the model, known or not, each once: "ORACLE: SITE"."""
    lived = prepared(case)
    if lived.witness.module is None:
        return ()
    found = (
        f"{name}: {site}"
        for name, each in BREACHES.items()
        for site, _ in each(lived.steps, lived.witness)
    )
    return tuple(dict.fromkeys(found))


def _livable(case: RestoreCase, module: LoadedKvm) -> Iterator[Step]:
    flags, own = module.flags, offered(case.world, OWN)
    has_cpuid = vmxon = has_run = in_smm = spoilt = False
    for step in case.steps:
        runs = flags.enable_ept and has_cpuid and not vmxon and not in_smm
        match step:
            case told.Rdmsr() | told.Wrmsr() if not runs:
                continue
            case told.Smi() if in_smm or not (has_run and flags.enable_unrestricted_guest):
                continue
            case told.Rsm() if spoilt or not in_smm:
                continue
            case told.Rdmsr() | told.Wrmsr():
                has_run = True
            case told.Smi() | told.Rsm():
                in_smm = isinstance(step, told.Smi)
            case told.SetCpuid():
                has_cpuid = True
            case told.Vmxon() | told.Vmxoff():
                vmxon = isinstance(step, told.Vmxon)
            case _:
                pass
        translated = _translated(step, case.world, module)
        spoilt = spoilt or spoils_rsm(translated, own)
        yield translated


def _translated(step: told.Step, world: World, module: LoadedKvm) -> Step:
    match step:
        case told.SetMsrs(writes):
            return SetMsrs(tuple(_write(write, world) for write in writes))
        case told.RestoreMsr(write):
            return RestoreMsr(*_write(write, world))
        case told.Wrmsr(write):
            return Wrmsr(*_write(write, world))
        case told.Rdmsr(index):
            return Rdmsr(index)
        case told.SetCpuid():
            return SetCpuid(_cpuid(step, module.supported_cpuid))
        case told.EnableEvmcs():
            return EnableEvmcs()
        case told.Smi():
            return Smi()
        case told.Rsm():
            return Rsm()
        case _:
            return Nested(isinstance(step, told.Vmxon))


def _write(write: told.Write, world: World) -> tuple[int, int]:
    value = write.value
    if value.offer is None:
        return write.index, value.of(0)
    return write.index, value.of(offered(world, value.offer).get(write.index, 0))


def _cpuid(step: told.SetCpuid, supported: GuestCpuid) -> GuestCpuid:
    version: int | None = supported.pmu_version
    if step.pmu_version != "supported":
        version = None if step.pmu_version == "absent" else step.pmu_version
    features = supported.features ^ (step.toggled - _OSPKE)
    # The feature is in a leaf of Hyper-V's.
    perf_global_ctrl = step.hyperv and step.evmcs_perf_global_ctrl
    return GuestCpuid(features, version, step.hyperv, perf_global_ctrl)


# ---------------------------------------------------------------------- oracles


def _over_cases(oracle: Oracle[Sequence, MsrWitness]) -> Oracle[RestoreCase, Run]:
    def check(case: RestoreCase, run: Run) -> Finding | None:
        lived = run(case)
        if lived.witness.module is None:
            return None
        return oracle.check(lived.steps, lived.witness)

    check.__doc__ = oracle.check.__doc__
    return Oracle(oracle.name, oracle.source, check)


CASE_ORACLES: Final = tuple(map(_over_cases, ORACLES))
"""The oracles of restores, over cases and the model."""
