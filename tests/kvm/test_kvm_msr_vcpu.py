# SPDX-License-Identifier: GPL-2.0-only
"""What else moves the capability MSRs: CPUID, feature control, the enlightened VMCS, /dev/kvm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Pin, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.registers import Cr4, FeatureControl
from nvmxfuzz.kvm.after_set_cpuid import kvm_set_cpuid
from nvmxfuzz.kvm.feature_msrs import (
    feature_index_list,
    get_feature_msr,
    get_feature_msrs,
    index_list,
)
from nvmxfuzz.kvm.guest_cpuid import CPUID_BITS, CpuidEntry, GuestCpuid
from nvmxfuzz.kvm.hardware_setup import LoadedKvm, load_kvm_intel
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.msr_behaviour import MSR_KERNELS
from nvmxfuzz.kvm.msr_vcpu import (
    MsrVcpu,
    create_vcpu,
    do_set_msr,
    enter_vmx_operation,
    kvm_get_msrs,
    virtual_msrs,
    vmx_get_msr,
    vmx_set_msr,
)
from nvmxfuzz.kvm.source import find_kernel

FEATURE_CONTROL = msr.MSR_IA32_FEAT_CTL
SECONDARY = msr.MSR_IA32_VMX_PROCBASED_CTLS2
LOCKED_AND_ON = int(FeatureControl.LOCKED | FeatureControl.VMX_OUTSIDE_SMX)

# An Ice Lake: it has every control that CPUID can give or take.
ICE_LAKE: Mapping[int, int] = {
    0x480: 0x00DA_0400_0000_0004,
    0x481: 0x0000_00FF_0000_0016,
    0x482: 0xFFF9_FFFE_0401_E172,
    0x483: 0x01FF_FFFF_0003_6DFF,
    0x484: 0x0003_FFFF_0000_11FF,
    0x485: 0x7004_C1E7,
    0x487: 0xFFFF_FFFF,
    0x489: 0x0037_6FFF,
    0x48B: 0x067F_FFFF_0000_0000,
    0x48C: 0x0000_0F01_0673_4141,
}
HOST = HostCpu(ICE_LAKE, has_sgx=True)


def load(version: str, host: HostCpu = HOST) -> LoadedKvm:
    """Return KVM as it is loaded on the Ice Lake."""
    module = load_kvm_intel(host, find_kernel(version)).module
    assert module is not None
    return module


def make(version: str, host: HostCpu = HOST) -> MsrVcpu:
    """Return a vCPU with the CPUID that KVM supports."""
    module = load(version, host)
    vcpu = create_vcpu(module)
    assert kvm_set_cpuid(vcpu, module.supported_cpuid) == 0
    return vcpu


@pytest.fixture(params=MSR_KERNELS)
def vcpu(request: pytest.FixtureRequest) -> MsrVcpu:
    """Return a vCPU of each version."""
    return make(request.param)


def lose(vcpu: MsrVcpu, *features: str) -> None:
    """Set a CPUID without some features."""
    cpuid = vcpu.module.supported_cpuid
    kvm_set_cpuid(vcpu, replace(cpuid, features=cpuid.features - set(features)))


def may(vcpu: MsrVcpu, index: int) -> int:
    """Return the allowed-1 half of a control MSR."""
    value = vmx_get_msr(vcpu, index)
    assert value is not None
    return value >> 32


@pytest.mark.parametrize(
    ("features", "control"),
    [
        (("XSAVES",), Secondary.ENABLE_XSAVES_XRSTORS),
        (("XSAVE",), Secondary.ENABLE_XSAVES_XRSTORS),
        (("RDTSCP", "RDPID"), Secondary.ENABLE_RDTSCP),
        (("INVPCID",), Secondary.ENABLE_INVPCID),
        (("RDRAND",), Secondary.RDRAND_EXITING),
        (("RDSEED",), Secondary.RDSEED_EXITING),
        (("WAITPKG",), Secondary.ENABLE_USER_WAIT_AND_PAUSE),
    ],
)
def test_cpuid_gives_and_takes_a_control(
    vcpu: MsrVcpu, features: tuple[str, ...], control: int
) -> None:
    assert may(vcpu, SECONDARY) & control
    lose(vcpu, *features)
    assert not may(vcpu, SECONDARY) & control
    lose(vcpu)
    assert may(vcpu, SECONDARY) & control


def test_rdpid_alone_keeps_rdtscp(vcpu: MsrVcpu) -> None:
    lose(vcpu, "RDTSCP")
    assert may(vcpu, SECONDARY) & Secondary.ENABLE_RDTSCP


def test_a_later_cpuid_undoes_what_userspace_restored(vcpu: MsrVcpu) -> None:
    restored = may(vcpu, SECONDARY) & ~Secondary.ENABLE_RDTSCP
    assert do_set_msr(vcpu, SECONDARY, restored << 32)
    lose(vcpu)
    assert may(vcpu, SECONDARY) == restored | Secondary.ENABLE_RDTSCP


def test_a_later_restore_undoes_what_cpuid_took() -> None:
    for version in ("6.1", "6.12"):
        vcpu = make(version)
        before = may(vcpu, SECONDARY)
        lose(vcpu, "XSAVES")
        assert do_set_msr(vcpu, SECONDARY, before << 32)
        assert may(vcpu, SECONDARY) & Secondary.ENABLE_XSAVES_XRSTORS
    old = make("5.18")
    before = may(old, SECONDARY)
    lose(old, "XSAVES")
    assert do_set_msr(old, SECONDARY, before << 32).check == "restore.controls.may-be-1"


def test_a_control_that_the_config_lacks_is_left_alone(vcpu: MsrVcpu) -> None:
    msrs = {**ICE_LAKE, 0x48B: ICE_LAKE[0x48B] & ~(Secondary.RDSEED_EXITING << 32)}
    other = make(vcpu.module.behaviour.version, replace(HOST, msrs=msrs))
    assert "RDSEED" in other.cpuid.features
    assert not may(other, SECONDARY) & Secondary.RDSEED_EXITING


def test_cr4_fixed1_is_what_cpuid_has(vcpu: MsrVcpu) -> None:
    kvm_set_cpuid(vcpu, GuestCpuid(frozenset({"VMX", "VME", "SMX", "LA57"})))
    expected = Cr4.PCE | Cr4.VMXE | Cr4.VME | Cr4.PVI | Cr4.SMXE | Cr4.LA57
    assert vmx_get_msr(vcpu, msr.MSR_IA32_VMX_CR4_FIXED1) == expected
    assert vmx_get_msr(vcpu, msr.MSR_IA32_VMX_CR0_FIXED1) == 0xFFFF_FFFF


def test_lam_counts_from_6_12_on() -> None:
    for version, known in (("5.18", False), ("6.1", False), ("6.12", True)):
        vcpu = make(version)
        kvm_set_cpuid(vcpu, GuestCpuid(frozenset({"VMX", "LAM"})))
        fixed1 = vmx_get_msr(vcpu, msr.MSR_IA32_VMX_CR4_FIXED1)
        assert fixed1 is not None
        assert (fixed1 & Cr4.LAM_SUP != 0) == known


def test_cpuid_is_not_stopped_by_vmx_operation(vcpu: MsrVcpu) -> None:
    enter_vmx_operation(vcpu)
    lose(vcpu, "INVPCID", "SMEP")
    assert not may(vcpu, SECONDARY) & Secondary.ENABLE_INVPCID


def test_without_vmx_in_cpuid_the_msrs_are_hidden_and_kept(vcpu: MsrVcpu) -> None:
    before = kvm_get_msrs(vcpu, range(0x480, 0x492))
    lose(vcpu, "VMX")
    assert kvm_get_msrs(vcpu, range(0x480, 0x492)) == ()
    assert do_set_msr(vcpu, msr.MSR_IA32_VMX_BASIC, before[0]).check == "set-msr.vmx.no-cpuid"
    lose(vcpu)
    assert kvm_get_msrs(vcpu, range(0x480, 0x492)) == before


def test_msrs_cannot_be_set_before_cpuid(vcpu: MsrVcpu) -> None:
    fresh = create_vcpu(vcpu.module)
    basic = vcpu.module.nested.basic
    assert do_set_msr(fresh, msr.MSR_IA32_VMX_BASIC, basic).check == "set-msr.vmx.no-cpuid"


def test_cpuid_of_a_vcpu_that_has_run_may_be_repeated_but_not_changed(vcpu: MsrVcpu) -> None:
    vcpu.has_run = True
    before = kvm_get_msrs(vcpu, range(0x480, 0x492))
    assert kvm_set_cpuid(vcpu, vcpu.cpuid) == 0
    assert kvm_set_cpuid(vcpu, GuestCpuid()) == -22
    assert kvm_get_msrs(vcpu, range(0x480, 0x492)) == before


@pytest.mark.parametrize(
    ("version", "mpx", "expected"),
    [("5.18", True, True), ("5.18", False, False), ("6.1", False, True), ("6.12", False, True)],
)
def test_bndcfgs_controls_follow_mpx_in_5_18(version: str, mpx: bool, expected: bool) -> None:
    vcpu = make(version)
    lose(vcpu, *(() if mpx else ("MPX",)))
    entry = may(vcpu, msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS) & VmEntry.LOAD_IA32_BNDCFGS
    leave = may(vcpu, msr.MSR_IA32_VMX_TRUE_EXIT_CTLS) & VmExit.CLEAR_IA32_BNDCFGS
    assert (entry != 0, leave != 0) == (expected, expected)


@pytest.mark.parametrize(
    ("version", "pmu_version", "expected"),
    [
        ("5.18", 2, True),
        ("5.18", 1, False),
        ("5.18", 0, True),  # no virtual PMU: nobody touches the controls
        ("5.18", None, True),
        ("6.1", 1, True),
        ("6.12", 0, True),
    ],
)
def test_perf_global_ctrl_follows_the_pmu_in_5_18(
    version: str, pmu_version: int | None, expected: bool
) -> None:
    vcpu = make(version)
    kvm_set_cpuid(vcpu, replace(vcpu.cpuid, pmu_version=pmu_version))
    allowed = may(vcpu, msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS) & VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL
    assert (allowed != 0) == expected


def test_feature_control_before_cpuid_is_refused_up_to_6_1() -> None:
    for version, check in (
        ("5.18", "set-msr.feature-control.bits"),
        ("6.1", "set-msr.feature-control.bits"),
        ("6.12", ""),
    ):
        fresh = create_vcpu(load(version))
        assert do_set_msr(fresh, FEATURE_CONTROL, LOCKED_AND_ON).check == check
        assert do_set_msr(make(version), FEATURE_CONTROL, LOCKED_AND_ON)


def test_l1_cannot_unlock_feature_control(vcpu: MsrVcpu) -> None:
    assert vmx_set_msr(vcpu, FEATURE_CONTROL, LOCKED_AND_ON, host_initiated=False)
    assert vmx_set_msr(vcpu, FEATURE_CONTROL, 0, False).check == "set-msr.feature-control.locked"
    assert vmx_get_msr(vcpu, FEATURE_CONTROL) == LOCKED_AND_ON


def test_feature_control_0_by_userspace_ends_vmx_operation(vcpu: MsrVcpu) -> None:
    enter_vmx_operation(vcpu)
    assert do_set_msr(vcpu, FEATURE_CONTROL, int(FeatureControl.LOCKED))
    assert vcpu.vmxon
    assert do_set_msr(vcpu, FEATURE_CONTROL, 0)
    assert not vcpu.vmxon


def test_l1_cannot_write_its_capabilities(vcpu: MsrVcpu) -> None:
    basic = vcpu.msrs.basic
    result = vmx_set_msr(vcpu, msr.MSR_IA32_VMX_BASIC, basic, host_initiated=False)
    assert result.check == "set-msr.vmx.read-only"


def hyperv(vcpu: MsrVcpu, perf_global_ctrl: bool) -> None:
    """Make the vCPU one of a Hyper-V that is offered the enlightened VMCS."""
    cpuid = replace(vcpu.cpuid, hyperv=True, evmcs_perf_global_ctrl=perf_global_ctrl)
    kvm_set_cpuid(vcpu, cpuid)
    vcpu.enlightened_vmcs_enabled = True


def test_enlightened_vmcs_hides_controls_from_l1_alone(vcpu: MsrVcpu) -> None:
    hyperv(vcpu, perf_global_ctrl=False)
    seen = virtual_msrs(vcpu)
    timer = int(Pin.ACTIVATE_VMX_PREEMPTION_TIMER)
    assert not seen[msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS] >> 32 & timer
    assert may(vcpu, msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS) & timer
    assert seen[msr.MSR_IA32_VMX_VMFUNC] == 0
    secondary = seen[SECONDARY] >> 32
    gone = Secondary.VMCS_SHADOWING | Secondary.USE_TSC_SCALING | Secondary.ENABLE_PML
    assert secondary & gone == 0
    assert secondary & Secondary.ENABLE_EPT
    assert not seen[msr.MSR_IA32_VMX_ENTRY_CTLS] >> 32 & VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL


def test_enlightened_vmcs_has_perf_global_ctrl_if_cpuid_says_so() -> None:
    for version, expected in (("5.18", False), ("6.1", True), ("6.12", True)):
        vcpu = make(version)
        hyperv(vcpu, perf_global_ctrl=True)
        leave = virtual_msrs(vcpu)[msr.MSR_IA32_VMX_TRUE_EXIT_CTLS] >> 32
        assert (leave & VmExit.LOAD_IA32_PERF_GLOBAL_CTRL != 0) == expected


def test_enlightened_vmcs_needs_hyper_v_in_cpuid_from_6_1_on() -> None:
    for version, filtered in (("5.18", True), ("6.1", False), ("6.12", False)):
        vcpu = make(version)
        vcpu.enlightened_vmcs_enabled = True
        assert (virtual_msrs(vcpu)[msr.MSR_IA32_VMX_VMFUNC] == 0) == filtered


def test_the_quirk_of_6_12_leaves_the_msrs_to_userspace() -> None:
    module = load("6.12")
    bare = create_vcpu(module, stuffs_feature_msrs=False)
    kvm_set_cpuid(bare, module.supported_cpuid)
    assert vmx_get_msr(bare, msr.MSR_IA32_VMX_BASIC) == 0
    assert vmx_get_msr(bare, SECONDARY) == 0
    # but for what no userspace can set
    assert vmx_get_msr(bare, msr.MSR_IA32_VMX_CR4_FIXED1) != 0
    assert do_set_msr(bare, SECONDARY, module.nested.secondary_ctls_high << 32)
    older = create_vcpu(load("6.1"), stuffs_feature_msrs=False)
    assert older.msrs == older.module.nested


def test_dev_kvm_lists_and_reads_what_is_offered() -> None:
    for version in MSR_KERNELS:
        module = load(version)
        listed = feature_index_list(module)
        assert sorted(listed) == list(range(0x480, 0x492))
        assert len(get_feature_msrs(module, listed)) == len(listed)
        assert set(index_list(module)) < set(listed)
        # a vCPU's CR4_FIXED1 is that of its CPUID, the system's that of the processor
        fixed1 = get_feature_msr(module, msr.MSR_IA32_VMX_CR4_FIXED1)
        assert fixed1 is not None
        assert fixed1 & ICE_LAKE[0x489] == ICE_LAKE[0x489]
        assert get_feature_msr(module, msr.MSR_IA32_VMX_PROCBASED_CTLS3) is None


def test_dev_kvm_has_no_vmx_msrs_without_nested() -> None:
    for version in MSR_KERNELS:
        kernel = find_kernel(version)
        module = load_kvm_intel(HOST, kernel, ModuleParams(nested=False)).module
        assert module is not None
        assert (feature_index_list(module), index_list(module)) == ((), ())
        assert get_feature_msrs(module, range(0x480, 0x492)) == ()


def entry(function: int, index: int = 0, flags: int = 0, **registers: int) -> CpuidEntry:
    """Return a CPUID entry."""
    values = {"eax": 0, "ebx": 0, "ecx": 0, "edx": 0, **registers}
    return CpuidEntry(function, index, flags, **values)


def test_cpuid_is_read_from_the_entries_of_the_ioctl() -> None:
    cpuid = GuestCpuid.of(
        [
            entry(1, ecx=1 << 5, edx=1 << 13),
            entry(7, 1, 1, eax=1 << 26),
            entry(7, 0, 1, ebx=1 << 10, ecx=1 << 4),
            entry(0xA, eax=0x0830_0402),
            entry(0x4000_0001, eax=0x3123_7648),
            entry(0x4000_000A, ebx=1),
        ]
    )
    # OSPKE is KVM's to compute
    assert cpuid.features == {"VMX", "PGE", "LAM", "INVPCID"}
    assert (cpuid.pmu_version, cpuid.hyperv, cpuid.evmcs_perf_global_ctrl) == (2, True, True)


def test_cpuid_entry_whose_subleaf_does_not_count_answers_for_all() -> None:
    first = entry(7, 5, 0, ebx=1 << 10, eax=1 << 26)
    later = entry(7, 0, 1, ebx=1 << 7)
    assert GuestCpuid.of([first, later]).features == {"INVPCID", "LAM"}


def test_hyper_v_leaves_of_another_hypervisor_do_not_count() -> None:
    cpuid = GuestCpuid.of([entry(0x4000_0001, eax=1), entry(0x4000_000A, ebx=1)])
    assert not cpuid.hyperv
    assert not cpuid.evmcs_perf_global_ctrl


def test_cpuid_bits_are_places_of_their_own() -> None:
    assert len(set(CPUID_BITS.values())) == len(CPUID_BITS)
