# SPDX-License-Identifier: GPL-2.0-only
"""Worlds and sequences for the capability MSRs, made at random: the same ones for the same seed.

Values come from what is offered here, from what another kernel offers on another processor, or
from nowhere, and are then edited near the borders of KVM's checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.registers import FeatureControl
from nvmxfuzz.kvm.feature_msrs import get_feature_msrs
from nvmxfuzz.kvm.guest_cpuid import CPUID_BITS, GuestCpuid
from nvmxfuzz.kvm.hardware_setup import LoadedKvm, load_kvm_intel
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.msr_behaviour import EMULATED_VMX_MSRS, MSR_KERNELS
from nvmxfuzz.kvm.source import find_kernel
from nvmxfuzz.machine.profile import load_profile, profile_names
from nvmxfuzz.oracles.restore.witness import (
    VMX_MSRS,
    EnableEvmcs,
    MsrWorld,
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

_ALL: Final = (1 << 64) - 1
_WORD: Final = (1 << 32) - 1
_FEATURES: Final = tuple(sorted(CPUID_BITS))
_NEEDED: Final = frozenset({"TSC", "PAE", "FXSR", "XMM", "PSE", "VMX", "XSAVE"})
"""What a host keeps: KVM, or its userspace, takes them for granted."""
_TOGGLED: Final = tuple(name for name in _FEATURES if name not in _NEEDED)
_GUEST: Final = tuple(name for name in _FEATURES if name != "OSPKE")
_LOW_BITS: Final = (msr.MSR_IA32_VMX_MISC, msr.MSR_IA32_VMX_EPT_VPID_CAP)
_EDITED: Final = (
    *(msr.MSR_IA32_VMX_BASIC, msr.MSR_IA32_VMX_PINBASED_CTLS, msr.MSR_IA32_VMX_PROCBASED_CTLS),
    *(msr.MSR_IA32_VMX_EXIT_CTLS, msr.MSR_IA32_VMX_ENTRY_CTLS, msr.MSR_IA32_VMX_MISC),
    *(msr.MSR_IA32_VMX_CR0_FIXED1, msr.MSR_IA32_VMX_CR4_FIXED1, msr.MSR_IA32_VMX_PROCBASED_CTLS3),
    *(msr.MSR_IA32_VMX_PROCBASED_CTLS2,) * 3,
    *(msr.MSR_IA32_VMX_EPT_VPID_CAP,) * 3,
)
_UNKNOWN: Final = (msr.MSR_IA32_VMX_PROCBASED_CTLS3, msr.MSR_IA32_VMX_EXIT_CTLS2)
_CONTROLS: Final = frozenset(
    {
        msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS,
        msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
        msr.MSR_IA32_VMX_TRUE_EXIT_CTLS,
        msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS,
        msr.MSR_IA32_VMX_PROCBASED_CTLS2,
    }
)
_FEATURE_CONTROL: Final = (
    *(0, 1, 2, 4, 5, 7, 8, 1 << 63),
    *(int(FeatureControl.SGX_LAUNCH_CONTROL), int(FeatureControl.SGX), int(FeatureControl.LMCE)),
    5 | int(FeatureControl.LMCE),
)
_LONGEST: Final = 12


@dataclass(frozen=True, slots=True)
class Values:
    """What values are built from: tables of `VMX_MSRS`, and the CPUID that KVM supports."""

    tables: tuple[Mapping[int, int], ...]
    supported: GuestCpuid
    runs: bool
    """The vCPU may run: it has memory that it finds."""
    smm: bool


# ---------------------------------------------------------------------- worlds


def world(source: Random) -> MsrWorld:
    """Return a processor, mostly like one of the profiles, and module parameters."""
    name = source.choice(profile_names())
    host = HostCpu.of(load_profile(name))
    msrs = dict(host.msrs)
    for _ in range(source.choice((0, 0, 1, 2, 5, 12))):
        _edit(msrs, source)
    toggled = frozenset(source.sample(_TOGGLED, source.choice((0, 0, 1, 3, 6))))
    features = host.features ^ toggled
    host = replace(
        host,
        msrs=msrs,
        features=features,
        has_sgx=source.random() < 0.5,
        on_hyperv_evmcs=source.random() < 0.15,
        pmu_version=source.choice((0, 1, 2, 3, 5)) if source.random() < 0.3 else host.pmu_version,
    )
    return MsrWorld(name, host, _params(source), source.random() < 0.8)


def _edit(msrs: dict[int, int], source: Random) -> None:
    """Flip a bit of an MSR, mostly where controls may be 1; or let the MSR vanish."""
    index = source.choice(_EDITED)
    if index in msrs and source.random() < 0.03:
        del msrs[index]
        return
    anywhere = source.random() < 0.2
    low = index in _LOW_BITS or index == msr.MSR_IA32_VMX_CR4_FIXED1
    bit = source.randrange(64) if anywhere else source.randrange(32) + (0 if low else 32)
    msrs[index] = msrs.get(index, 0) ^ 1 << bit


def _params(source: Random) -> ModuleParams:
    chosen = {name: source.random() > 0.12 for name in ModuleParams.__dataclass_fields__}
    chosen["nested"] = source.random() > 0.03
    chosen["ignore_msrs"] = source.random() < 0.2
    chosen["error_on_inconsistent_vmcs_config"] = source.random() < 0.3
    return ModuleParams(**chosen)


# ---------------------------------------------------------------------- values


def values_of(module: LoadedKvm, source: Random) -> Values:
    """Return what sequences on a loaded KVM are built from."""
    tables: list[Mapping[int, int]] = [
        dict(zip(VMX_MSRS, get_feature_msrs(module, VMX_MSRS), strict=False))
    ]
    if source.random() < 0.5:
        tables.append(
            _offered_elsewhere(source.choice(MSR_KERNELS), source.choice(profile_names()))
        )
    runs = module.flags.enable_ept
    return Values(
        tuple(tables), module.supported_cpuid, runs, runs and module.flags.enable_unrestricted_guest
    )


@cache
def _offered_elsewhere(kernel: str, profile: str) -> Mapping[int, int]:
    params = ModuleParams(error_on_inconsistent_vmcs_config=False)
    module = load_kvm_intel(HostCpu.of(load_profile(profile)), find_kernel(kernel), params).module
    if module is None:
        return {}
    return dict(zip(VMX_MSRS, get_feature_msrs(module, VMX_MSRS), strict=False))


def value(index: int, source: Random, values: Values) -> int:
    """Return a value for an MSR."""
    start = source.choice(values.tables).get(index, 0)
    chance = source.random()
    if chance < 0.3:
        return start
    if chance < 0.5:
        return start ^ 1 << source.randrange(64)
    if chance < 0.65:
        fewer = source.getrandbits(32) & source.getrandbits(32)
        return start & ~(fewer << 32) if index in _CONTROLS else start & source.getrandbits(64)
    if chance < 0.75:
        return start | source.getrandbits(64) & source.getrandbits(64) & source.getrandbits(64)
    if chance < 0.8:
        return start | source.getrandbits(32)
    if chance < 0.9:
        return _at_a_field(index, start, source)
    if chance < 0.95:
        return source.getrandbits(64)
    return source.choice((0, _ALL, start >> 32, start << 32 & _ALL))


def _at_a_field(index: int, start: int, source: Random) -> int:
    """Change a field that KVM compares as a number."""
    if index == msr.MSR_IA32_VMX_BASIC:
        size = source.choice((0, 0xFFF, 0x1000, 0x1001, 0x1FFF))
        return start & ~(0x1FFF << 32 | 15 << 50) | size << 32 | source.randrange(16) << 50
    if index == msr.MSR_IA32_VMX_MISC:
        kept = start & ~(0x1F | 0x1FF << 16 | 7 << 25)
        targets, lists = source.choice((0, 1, 4, 0x1FF)), source.choice((0, 0, 1, 7))
        return kept | source.choice((0, 5, 9, 31)) | targets << 16 | lists << 25
    return start & ~(1 << source.randrange(64)) & _ALL


# ---------------------------------------------------------------------- sequences


def sequence(source: Random, values: Values) -> Sequence:
    """Return up to `_LONGEST` steps, of which the first mostly gives the vCPU a CPUID."""
    steps: list[Step] = []
    has_cpuid = source.random() < 0.95
    if has_cpuid:
        steps.append(
            SetCpuid(_cpuid(source, values) if source.random() < 0.5 else values.supported)
        )
    steps += [_step(source, values) for _ in range(source.randrange(1, _LONGEST))]
    if has_cpuid and values.runs and source.random() < 0.25:
        steps += _running(source, values)
        own = values.tables[0]
        if Smi() in steps and not any(spoils_rsm(step, own) for step in steps):
            steps += (Rsm(), *(_step(source, values) for _ in range(source.randrange(4))))
    return tuple(steps)


def _step(source: Random, values: Values) -> Step:
    chance = source.random()
    if chance < 0.28:
        return SetMsrs(((index := _index(source), value(index, source, values)),))
    if chance < 0.5:
        return RestoreMsr(index := _index(source), value(index, source, values))
    if chance < 0.64:
        chosen = source.sample(EMULATED_VMX_MSRS, source.randrange(1, len(EMULATED_VMX_MSRS)))
        return SetMsrs(tuple((index, value(index, source, values)) for index in chosen))
    if chance < 0.78:
        return SetCpuid(_cpuid(source, values) if source.random() < 0.6 else values.supported)
    if chance < 0.88:
        return SetMsrs(((msr.MSR_IA32_FEAT_CTL, source.choice(_FEATURE_CONTROL)),))
    if chance < 0.9:
        return EnableEvmcs()
    return Nested(source.random() < 0.6)


def _index(source: Random) -> int:
    if source.random() < 0.9:
        return source.choice(EMULATED_VMX_MSRS)
    return source.choice((*VMX_MSRS, *_UNKNOWN))


def _cpuid(source: Random, values: Values) -> GuestCpuid:
    supported = values.supported
    toggled = frozenset(source.sample(_GUEST, source.choice((0, 1, 2, 5))))
    version = supported.pmu_version
    if source.random() < 0.2:
        version = source.choice((None, 0, 1, 2))
    hyperv = source.random() < 0.3
    perf = hyperv and source.random() < 0.5
    return GuestCpuid(supported.features ^ toggled, version, hyperv, perf)


def _running(source: Random, values: Values) -> Iterator[Step]:
    """Yield steps in which L1 reads and writes, and what userspace still does afterwards."""
    yield Nested(False)
    for _ in range(source.randrange(1, 6)):
        index = source.choice((*VMX_MSRS, msr.MSR_IA32_FEAT_CTL, *_UNKNOWN))
        if source.random() < 0.7:
            yield Rdmsr(index)
        elif index == msr.MSR_IA32_FEAT_CTL:
            yield Wrmsr(index, source.choice(_FEATURE_CONTROL))
        else:
            yield Wrmsr(index, value(index, source, values))
    if values.smm and source.random() < 0.3:
        yield Nested(True)
        yield Smi()
    for _ in range(source.randrange(4)):
        yield _step(source, values)
