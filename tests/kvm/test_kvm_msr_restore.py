# SPDX-License-Identifier: GPL-2.0-only
"""vmx_set_vmx_msr() of each kernel version: each check at its border, and what a refusal leaves."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Pin, Primary, Secondary
from nvmxfuzz.kvm.after_set_cpuid import kvm_set_cpuid
from nvmxfuzz.kvm.hardware_setup import load_kvm_intel
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.msr_behaviour import EMULATED_VMX_MSRS, MSR_KERNELS
from nvmxfuzz.kvm.msr_restore import SetResult
from nvmxfuzz.kvm.msr_vcpu import (
    MsrVcpu,
    create_vcpu,
    do_set_msr,
    enter_vmx_operation,
    kvm_get_msrs,
    kvm_set_msrs,
    vmx_enter_smm,
    vmx_get_msr,
    vmx_leave_nested,
    vmx_leave_smm,
)
from nvmxfuzz.kvm.source import find_kernel

EINVAL = -22
EBUSY = -16
AGAINST_CONFIG = ("6.1", "6.12")
ALL_ONES = (1 << 64) - 1
VMX_MSRS = range(0x480, 0x492)
BASIC = msr.MSR_IA32_VMX_BASIC
MISC = msr.MSR_IA32_VMX_MISC
TRUE_PIN = msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS
SECONDARY = msr.MSR_IA32_VMX_PROCBASED_CTLS2

COFFEE_LAKE: Mapping[int, int] = {
    0x480: 0x00DA_0400_0000_0004,
    0x481: 0x0000_007F_0000_0016,
    0x482: 0xFFF9_FFFE_0401_E172,
    0x483: 0x01FF_FFFF_0003_6DFF,
    0x484: 0x0003_FFFF_0000_11FF,
    0x485: 0x7004_C1E7,
    0x487: 0xFFFF_FFFF,
    0x489: 0x0037_67FF,
    0x48B: 0x005F_BCFF_0000_0000,
    0x48C: 0x0000_0F01_0673_4141,
}


def make(version: str, params: ModuleParams | None = None) -> MsrVcpu:
    """Return a vCPU with the CPUID that KVM supports, on a Coffee Lake with SGX."""
    host = HostCpu(COFFEE_LAKE, has_sgx=True)
    module = load_kvm_intel(host, find_kernel(version), params or ModuleParams()).module
    assert module is not None
    vcpu = create_vcpu(module)
    assert kvm_set_cpuid(vcpu, module.supported_cpuid) == 0
    return vcpu


def read(vcpu: MsrVcpu, index: int) -> int:
    """Return what userspace reads."""
    value = vmx_get_msr(vcpu, index)
    assert value is not None
    return value


@pytest.fixture(params=MSR_KERNELS)
def vcpu(request: pytest.FixtureRequest) -> MsrVcpu:
    """Return a vCPU of each version."""
    return make(request.param)


def test_what_the_index_list_tells_to_migrate_can_be_written_back(vcpu: MsrVcpu) -> None:
    before = kvm_get_msrs(vcpu, VMX_MSRS)
    values = [(index, read(vcpu, index)) for index in EMULATED_VMX_MSRS]
    assert kvm_set_msrs(vcpu, values) == len(EMULATED_VMX_MSRS)
    assert kvm_get_msrs(vcpu, VMX_MSRS) == before


def test_what_kvm_computes_cannot_be_written_back(vcpu: MsrVcpu) -> None:
    refused = [i for i in VMX_MSRS if not do_set_msr(vcpu, i, read(vcpu, i))]
    assert refused == [0x481, 0x482, 0x483, 0x484, 0x487, 0x489]


def flip(*bits: int) -> int:
    """Return a word with those bits."""
    return sum(1 << bit for bit in bits)


@pytest.mark.parametrize(
    ("index", "change", "check"),
    [
        (BASIC, flip(49), "restore.basic.features"),  # dual-monitor treatment
        (BASIC, flip(31), "restore.basic.features"),  # reserved
        (BASIC, flip(56), "restore.basic.features"),  # reserved in KVM's time
        (BASIC, flip(48), "restore.basic.address-width"),
        (BASIC, flip(0), "restore.basic.revision-id"),
        (BASIC, flip(32), ""),  # 4097 bytes
        (BASIC, 0xFFF << 32, ""),  # 8191 bytes, more than the SDM allows
        (BASIC, flip(50), ""),  # memory type 7: nobody looks
        (BASIC, flip(54), ""),  # a feature may go
        (BASIC, flip(55), ""),
        (TRUE_PIN, flip(1), "restore.controls.must-be-1"),
        (TRUE_PIN, flip(0), ""),  # more may have to be 1
        (TRUE_PIN, flip(32 + 7), "restore.controls.may-be-1"),
        (TRUE_PIN, flip(32 + 31), "restore.controls.may-be-1"),
        (TRUE_PIN, flip(32 + 0), ""),
        (TRUE_PIN, flip(32 + 1), ""),  # now it must be 1 and may not
        (SECONDARY, flip(32 + 25), "restore.controls.may-be-1"),
        (SECONDARY, flip(32 + 1), ""),
        (MISC, flip(7), "restore.misc.features"),  # shutdown
        (MISC, flip(31), "restore.misc.features"),  # reserved
        (MISC, flip(0), "restore.misc.preemption-timer-rate"),
        (MISC, flip(16), "restore.misc.cr3-targets"),
        (MISC, flip(25), "restore.misc.max-msr-list"),
        (MISC, flip(32), "restore.misc.mseg-revision-id"),
        (MISC, flip(6), ""),
        (msr.MSR_IA32_VMX_EPT_VPID_CAP, flip(8), "restore.ept-vpid.features"),  # UC
        (msr.MSR_IA32_VMX_EPT_VPID_CAP, flip(63), "restore.ept-vpid.features"),
        (msr.MSR_IA32_VMX_EPT_VPID_CAP, flip(6, 32), ""),
        (msr.MSR_IA32_VMX_CR0_FIXED0, flip(5), "restore.fixed0.must-be-1"),
        (msr.MSR_IA32_VMX_CR0_FIXED0, flip(63), ""),
        (msr.MSR_IA32_VMX_CR4_FIXED0, flip(13), "restore.fixed0.must-be-1"),
        (msr.MSR_IA32_VMX_CR4_FIXED0, flip(0), ""),
        (msr.MSR_IA32_VMX_VMCS_ENUM, ALL_ONES, ""),  # anything
        (msr.MSR_IA32_VMX_VMFUNC, flip(0), ""),
        (msr.MSR_IA32_VMX_VMFUNC, flip(1), "restore.vmfunc.functions"),
        (msr.MSR_IA32_VMX_PINBASED_CTLS, 0, "restore.default-controls.generated"),
        (msr.MSR_IA32_VMX_CR4_FIXED1, 0, "restore.fixed1.generated"),
    ],
)
def test_change_of_an_offered_value(vcpu: MsrVcpu, index: int, change: int, check: str) -> None:
    before = kvm_get_msrs(vcpu, VMX_MSRS)
    value = read(vcpu, index) ^ change
    result = do_set_msr(vcpu, index, value)
    assert result == SetResult(EINVAL if check else 0, check)
    if check:
        assert kvm_get_msrs(vcpu, VMX_MSRS) == before
    else:
        assert read(vcpu, index) == value


def test_a_vmcs_region_may_not_be_smaller_than_kvm_s(vcpu: MsrVcpu) -> None:
    smaller = read(vcpu, BASIC) - (1 << 32)
    assert do_set_msr(vcpu, BASIC, smaller).check == "restore.basic.region-size"


def test_vm_functions_have_32_bits_too_many(vcpu: MsrVcpu) -> None:
    assert do_set_msr(vcpu, msr.MSR_IA32_VMX_VMFUNC, 1 << 63).check == "restore.vmfunc.functions"


@pytest.mark.parametrize("version", AGAINST_CONFIG)
def test_timer_rate_depends_on_the_order_of_writes(version: str) -> None:
    first, second = make(version), make(version)
    pin, misc = read(first, TRUE_PIN), read(first, MISC)
    no_timer = pin & ~(Pin.ACTIVATE_VMX_PREEMPTION_TIMER << 32)
    other_rate = misc & ~0x1F
    assert kvm_set_msrs(first, [(TRUE_PIN, no_timer), (MISC, other_rate), (TRUE_PIN, pin)]) == 3
    assert kvm_set_msrs(second, [(MISC, other_rate)]) == 0
    # L1 now has a timer that it believes to be 32 times as fast as the one that KVM emulates
    assert (read(first, TRUE_PIN), read(first, MISC)) == (pin, other_rate)


def test_5_18_lets_nothing_grow_again() -> None:
    vcpu = make("5.18")
    pin, basic = read(vcpu, TRUE_PIN), read(vcpu, BASIC)
    assert do_set_msr(vcpu, TRUE_PIN, pin & ~(1 << 32))
    assert do_set_msr(vcpu, TRUE_PIN, pin).check == "restore.controls.may-be-1"
    assert do_set_msr(vcpu, BASIC, basic | 0xFFF << 32)
    assert do_set_msr(vcpu, BASIC, basic).check == "restore.basic.region-size"


@pytest.mark.parametrize("version", AGAINST_CONFIG)
def test_later_versions_let_everything_grow_again(version: str) -> None:
    vcpu = make(version)
    pin = read(vcpu, TRUE_PIN)
    assert do_set_msr(vcpu, TRUE_PIN, 0xFFFF_FFFF)
    assert do_set_msr(vcpu, TRUE_PIN, pin)


def test_default_controls_can_be_made_to_contradict_themselves(vcpu: MsrVcpu) -> None:
    true = msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS
    assert do_set_msr(vcpu, true, read(vcpu, true) & ~(Primary.CR3_LOAD_EXITING << 32))
    default = read(vcpu, msr.MSR_IA32_VMX_PROCBASED_CTLS)
    assert default & Primary.CR3_LOAD_EXITING
    assert not default >> 32 & Primary.CR3_LOAD_EXITING


def test_fixed0_can_be_put_beyond_fixed1(vcpu: MsrVcpu) -> None:
    assert do_set_msr(vcpu, msr.MSR_IA32_VMX_CR4_FIXED0, ALL_ONES)
    assert read(vcpu, msr.MSR_IA32_VMX_CR4_FIXED0) & ~read(vcpu, msr.MSR_IA32_VMX_CR4_FIXED1)


def test_nothing_is_written_in_vmx_operation_not_even_what_is_there(vcpu: MsrVcpu) -> None:
    enter_vmx_operation(vcpu)
    for index in VMX_MSRS:
        assert do_set_msr(vcpu, index, read(vcpu, index)).errno == EBUSY
    vmx_leave_nested(vcpu)
    assert do_set_msr(vcpu, BASIC, read(vcpu, BASIC))


def test_smm_opens_what_vmx_operation_had_closed(vcpu: MsrVcpu) -> None:
    narrower = read(vcpu, TRUE_PIN) & ~(1 << 32)
    enter_vmx_operation(vcpu)
    vmx_enter_smm(vcpu)
    assert do_set_msr(vcpu, TRUE_PIN, narrower)
    vmx_leave_smm(vcpu)
    assert vcpu.vmxon
    assert do_set_msr(vcpu, TRUE_PIN, narrower).errno == EBUSY
    assert read(vcpu, TRUE_PIN) == narrower


def test_a_batch_stops_at_the_first_refusal_and_keeps_what_it_did(vcpu: MsrVcpu) -> None:
    narrower = read(vcpu, TRUE_PIN) & ~(1 << 32)
    secondary = read(vcpu, SECONDARY)
    writes = [(TRUE_PIN, narrower), (MISC, ALL_ONES), (SECONDARY, 0)]
    assert kvm_set_msrs(vcpu, writes) == 1
    assert (read(vcpu, TRUE_PIN), read(vcpu, SECONDARY)) == (narrower, secondary)


def test_encls_exiting_as_5_18_offered_it_without_sgx_is_refused_later() -> None:
    encls = Secondary.ENABLE_ENCLS_EXITING << 32
    host = HostCpu(COFFEE_LAKE)
    for version, check in (
        ("5.18", ""),
        ("6.1", "restore.controls.may-be-1"),
        ("6.12", "restore.controls.may-be-1"),
    ):
        module = load_kvm_intel(host, find_kernel(version)).module
        assert module is not None
        vcpu = create_vcpu(module)
        kvm_set_cpuid(vcpu, module.supported_cpuid)
        assert do_set_msr(vcpu, SECONDARY, read(vcpu, SECONDARY) | encls).check == check


def test_ignore_msrs_takes_what_kvm_does_not_know_and_forgets_it() -> None:
    third = msr.MSR_IA32_VMX_PROCBASED_CTLS3
    for version in MSR_KERNELS:
        strict = make(version)
        assert do_set_msr(strict, third, 0x80).check == "set-msr.index.unknown"
        assert vmx_get_msr(strict, third) is None
        lenient = make(version, ModuleParams(ignore_msrs=True))
        assert do_set_msr(lenient, third, 0x80)
        assert vmx_get_msr(lenient, third) == 0


def test_only_6_12_keeps_the_msrs_of_a_vcpu_that_has_run() -> None:
    for version, check in (("5.18", ""), ("6.1", ""), ("6.12", "set-msr.vmx.has-run")):
        vcpu = make(version)
        vcpu.has_run = True
        pin = read(vcpu, TRUE_PIN)
        assert do_set_msr(vcpu, TRUE_PIN, pin)
        assert do_set_msr(vcpu, TRUE_PIN, pin & ~(1 << 32)).check == check
