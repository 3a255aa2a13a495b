# SPDX-License-Identifier: GPL-2.0-only
"""The model of the capability MSRs against the real KVM, and against it with faults planted."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, Final

import pytest

from nvmxfuzz.arch.vmx_msr import VmxMisc
from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm import (
    after_set_cpuid,
    msr_restore,
    msr_vcpu,
    nested_msrs,
    nested_offers,
    vmcs_config,
)
from nvmxfuzz.kvm.guest_cpuid import GuestCpuid
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu
from nvmxfuzz.machine.profile import load_profile, profile_names
from nvmxfuzz.oracles.restore.kvm_msrs import NAME, Comparison, compare, compare_loading, finding
from nvmxfuzz.oracles.restore.sequences import sequence, values_of, world
from nvmxfuzz.oracles.restore.witness import (
    VMX_MSRS,
    EnableEvmcs,
    ModelMsrs,
    MsrWorld,
    Nested,
    Rdmsr,
    RestoreMsr,
    Rsm,
    Sequence,
    SetCpuid,
    SetMsrs,
    Smi,
    WitnessStoppedError,
    Wrmsr,
    spoils_rsm,
)
from nvmxfuzz.targets.kvm_native.msrs import KvmMsrs, msr_witness
from nvmxfuzz.targets.kvm_native.vmcs12 import Vmcs12Layout

KERNELS = ("6.1", "6.12")
SECONDARY = 0x48B
LAX: Final = replace(DEFAULT_PARAMS, error_on_inconsistent_vmcs_config=False)
PLAIN: Final = MsrWorld("skylake-x", HostCpu.of(load_profile("skylake-x")), DEFAULT_PARAMS)


@pytest.fixture(params=KERNELS)
def real(request: pytest.FixtureRequest) -> KvmMsrs:
    kernel: str = request.param
    try:
        return msr_witness(kernel)
    except InputError as error:
        if kernel in os.environ.get("NVMXFUZZ_REQUIRE_KVM", "").split(","):
            pytest.fail(f"required by NVMXFUZZ_REQUIRE_KVM: {error}")
        pytest.skip(f"kvm-{kernel}: {error}")


def worst(real: KvmMsrs, seed: int, worlds: int, sequences: int) -> Comparison:
    """Return the first difference on random worlds, or the last agreement."""
    model = ModelMsrs(real.kernel)
    found = Comparison("agreed", 0)
    for number in range(worlds):
        source = Random(f"{seed}/{number}")
        found = compare_loading(model, real, world(source))
        if found.relation != "agreed":
            return found
        if model.module is None:
            continue
        values = values_of(model.module, source)
        for _ in range(sequences):
            found = compare(model, real, sequence(source, values))
            if found.relation != "agreed":
                return found
    return found


def test_random_sequences_agree(real: KvmMsrs) -> None:
    found = worst(real, 1, 40, 25)
    assert found.relation == "agreed", found


def test_every_profile_agrees(real: KvmMsrs) -> None:
    model = ModelMsrs(real.kernel)
    for name in profile_names():
        profile = load_profile(name)
        given = MsrWorld(name, HostCpu.of(profile), DEFAULT_PARAMS)
        found = compare_loading(model, real, given)
        assert found.relation == "agreed", (name, found)
        if model.module is not None:
            steps: Sequence = (SetCpuid(model.loaded.supported), *map(Rdmsr, VMX_MSRS))
            found = compare(model, real, steps if model.module.flags.enable_ept else steps[:1])
            assert found.relation == "agreed", (name, found)


def test_the_same_seed_makes_the_same(real: KvmMsrs) -> None:
    assert worst(real, 5, 3, 5) == worst(real, 5, 3, 5)
    assert world(Random("a")) == world(Random("a"))
    assert world(Random("a")) != world(Random("b"))


def test_vmcs_enum_tells_of_the_fields_that_vmcs12_has(real: KvmMsrs) -> None:
    loaded = real.load(PLAIN)
    highest = max(field.encoding >> 1 & 0x1FF for field in Vmcs12Layout(real.library).fields)
    assert loaded.system[0x48A - 0x480] == highest << 1


def test_steps_do_what_they_say(real: KvmMsrs) -> None:
    loaded = real.load(PLAIN)
    assert real.read() == (0,)
    assert real.vmxon() == -22  # CPUID has no VMX
    assert real.set_cpuid(loaded.supported) == 0
    secondary = real.read()[1 + SECONDARY - 0x480]
    assert real.rdmsr(SECONDARY) == secondary
    assert real.rdmsr(0x493) is None
    assert real.wrmsr(SECONDARY, secondary) == 1
    real.renew()
    assert real.set_cpuid(loaded.supported) == 0
    assert real.set_msrs(((SECONDARY, secondary & ~(1 << 33)), (0x485, (1 << 64) - 1))) == 1
    assert real.restore_msr(0x485, (1 << 64) - 1) == -22
    assert real.vmxon() == 0
    assert real.restore_msr(SECONDARY, secondary) == -16
    assert real.vmxoff() == 0
    assert real.restore_msr(SECONDARY, secondary) == 0
    assert real.warnings() == 0


def test_smm_sets_vmx_operation_aside_until_rsm(real: KvmMsrs) -> None:
    loaded = real.load(PLAIN)
    real.set_cpuid(loaded.supported)
    secondary = real.rdmsr(SECONDARY)
    assert secondary is not None
    for _ in range(2):
        assert real.vmxon() == 0
        assert real.restore_msr(SECONDARY, secondary) == -16
        assert real.smi() == 0
        assert real.restore_msr(SECONDARY, secondary) == 0
        assert real.rsm() == 0
        assert real.restore_msr(SECONDARY, secondary) == -16
    assert real.vmxoff() == 0
    assert real.rdmsr(SECONDARY) == secondary
    assert real.warnings() == 0


def test_rsm_with_fixed_bits_ends_in_a_shutdown(real: KvmMsrs) -> None:
    loaded = real.load(PLAIN)
    real.set_cpuid(loaded.supported)
    fixing = SetMsrs(((0x486, 0x8000_0021 | 1 << 29),))
    assert real.set_msrs(fixing.values) == 1
    assert real.rdmsr(0x486) == fixing.values[0][1]
    assert real.vmxon() == real.smi() == 0
    with pytest.raises(WitnessStoppedError, match="shutdown"):
        real.rsm()
    assert spoils_rsm(fixing, {0x486: 0x8000_0021})
    assert not spoils_rsm(SetMsrs(((0x486, 0x8000_0021),)), {0x486: 0x8000_0021})


def test_a_world_lives_again_as_it_was_loaded(real: KvmMsrs) -> None:
    def steps() -> tuple[object, ...]:
        real.renew()
        first = real.read()
        real.set_cpuid(loaded.supported)
        return first, real.read(), real.rdmsr(0x480), real.set_msrs(((0x48A, 4),)), real.read()

    loaded = real.load(PLAIN)
    assert steps() == steps() == steps()
    assert real.load(PLAIN) == loaded
    real.enable_evmcs()
    assert steps() == steps()
    assert real.loaded == loaded


def test_worlds_on_hyper_v_agree(real: KvmMsrs) -> None:
    model = ModelMsrs(real.kernel)
    for name in ("skylake-x", "sapphire-rapids"):
        host = HostCpu.of(load_profile(name), on_hyperv_evmcs=True)
        given = MsrWorld(name, host, LAX)
        assert compare_loading(model, real, given).relation == "agreed"
        plain = ModelMsrs(real.kernel)
        plain.load(replace(given, host=replace(host, on_hyperv_evmcs=False)))
        # 6.1 does not take away what its own VMCS on Hyper-V lacks.
        assert (plain.loaded != model.loaded) is (real.kernel != "6.1")


# ---------------------------------------------------------------------- planted faults

Plant = Callable[[pytest.MonkeyPatch], None]


def _without(module: Any, name: str, feature: str) -> Plant:  # noqa: ANN401
    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(
            module, name, tuple(pair for pair in getattr(module, name) if pair[0] != feature)
        )

    return plant


def _set(module: Any, name: str, value: object) -> Plant:  # noqa: ANN401
    return lambda patch: patch.setattr(module, name, value)


FAULTS: Final[dict[str, Plant]] = {
    "the timer's rate is never looked at": _set(VmxMisc, "PREEMPTION_TIMER_RATE", 0),
    "posted interrupts without APICv": _set(
        nested_offers, "PIN_OFFERED", nested_offers.PIN_OFFERED | 0x80
    ),
    "UMIP is not emulated": _set(nested_msrs, "vmx_umip_emulated", lambda *_: False),
    "CR4 may have SMAP without CPUID": _without(after_set_cpuid, "_CR4_BY_FEATURE", "SMAP"),
    "RDSEED exiting ignores CPUID": _without(after_set_cpuid, "_ADJUSTED_BY_FEATURE", "RDSEED"),
    "LMCE is not known": _set(
        msr_vcpu,
        "KVM_SUPPORTED_FEATURE_CONTROL",
        msr_vcpu.KVM_SUPPORTED_FEATURE_CONTROL & ~(1 << 20),
    ),
    "a reserved bit of BASIC": _set(msr_restore, "_BASIC_RESERVED", 0x7 << 45 | 1 << 31),
    "RSM does not bring VMX operation back": _set(msr_vcpu, "vmx_leave_smm", lambda _: None),
    "Hyper-V changes nothing": _set(vmcs_config, "evmcs_sanitize_exec_ctrls", lambda _: None),
    "VMXON changes nothing": _set(msr_vcpu, "enter_vmx_operation", lambda _: None),
    "an SMI does not hide VMX operation": _set(msr_vcpu, "vmx_enter_smm", lambda _: None),
    "L1's reads are not filtered": _set(
        msr_vcpu, "nested_evmcs_filter_control_msr", lambda _e, _h, _i, data: data
    ),
}
NOT_IN: Final = {
    ("6.1", "LMCE is not known"),
    ("6.12", "an SMI does not hide VMX operation"),
    ("6.1", "Hyper-V changes nothing"),
}
"""What a kernel does not show: 6.1 uses neither constant nor filter; 6.12 refuses after a run."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(
    real: KvmMsrs, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (real.kernel, fault) in NOT_IN:
        pytest.skip("the kernel does not show it")
    FAULTS[fault](monkeypatch)
    found = worst(real, 2, 400, 40)
    assert found.relation == "different"
    told = finding(real.kernel, found)
    assert told is not None
    assert told.oracle == NAME


def test_a_stop_and_a_warning_are_findings() -> None:
    class Stops(ModelMsrs):
        """KVM that does not come back from an SMI."""

        def smi(self) -> int:
            """Stop."""
            raise WitnessStoppedError("BUG")

    class Warns(ModelMsrs):
        """KVM that warns."""

        def warnings(self) -> int:
            """Return one."""
            return 1

    model = ModelMsrs("6.1")
    model.load(PLAIN)
    steps = SetCpuid(GuestCpuid()), Nested(False), Smi()
    for kind, relation, calls in ((Stops, "stopped", 3), (Warns, "different", 1)):
        other = kind("6.1")
        other.load(PLAIN)
        found = compare(model, other, steps)
        assert (found.relation, found.calls) == (relation, calls)
        assert finding("6.1", found) is not None


def test_agreement_is_no_finding() -> None:
    model, other = ModelMsrs("6.12"), ModelMsrs("6.12")
    assert compare_loading(model, other, PLAIN) == Comparison("agreed", 1)
    cpuid = SetCpuid(model.loaded.supported)
    found = compare(model, other, (cpuid, SetMsrs(((0x48A, 0),)), Wrmsr(0x480, 0)))
    assert found == Comparison("agreed", 3)
    assert finding("6.12", found) is None


def test_a_step_is_told_in_the_terms_of_the_kernel_and_the_sdm() -> None:
    cpuid = GuestCpuid(frozenset({"VMX", "NX"}), 2, hyperv=True, evmcs_perf_global_ctrl=True)
    told = {
        SetMsrs(((0x48B, 1 << 33), (0x3A, 5))): (
            "KVM_SET_MSRS(IA32_VMX_PROCBASED_CTLS2=0x200000000, IA32_FEATURE_CONTROL=0x5)"
        ),
        RestoreMsr(0x485, 9): "vmx_set_vmx_msr(IA32_VMX_MISC=0x9)",
        SetCpuid(cpuid): "KVM_SET_CPUID2(NX, VMX, PMU 2, Hyper-V, its PERF_GLOBAL_CTRL)",
        Nested(True): "VMXON",
        Nested(False): "VMXOFF",
        EnableEvmcs(): "KVM_ENABLE_CAP(enlightened VMCS)",
        Rdmsr(0x480): "RDMSR(IA32_VMX_BASIC)",
        Wrmsr(0x499, 1): "WRMSR(0x499=0x1)",
        Smi(): "SMI",
        Rsm(): "RSM",
    }
    assert {step: str(step) for step in told} == told
