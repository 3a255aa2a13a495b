# SPDX-License-Identifier: GPL-2.0-only
"""nested_vmx_setup_ctls_msrs() of each kernel version, worked out by hand on a Coffee Lake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.registers import Cr4
from nvmxfuzz.arch.vmx_msr import EptVpidCap
from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.hardware_setup import LoadedKvm, load_kvm_intel
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.msr_behaviour import MSR_KERNELS, msr_behaviour
from nvmxfuzz.kvm.nested_msrs import vmx_get_vmx_msr
from nvmxfuzz.kvm.source import find_kernel
from nvmxfuzz.kvm.virtual_processor import default_msrs, virtual_profile
from nvmxfuzz.machine.profile import load_profile, profile_names

FROM_CONFIG = ("6.1", "6.12")
TOLERANT = ModuleParams(error_on_inconsistent_vmcs_config=False)

# A Coffee Lake of 2018, as logged by VirtualBox, with the CR masks of its kind.
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
SGX = HostCpu(COFFEE_LAKE, has_sgx=True)
NO_SGX = replace(SGX, has_sgx=False)


def load(host: HostCpu, version: str, params: ModuleParams = TOLERANT) -> LoadedKvm:
    """Return KVM as it is loaded; a refusal is a failure of the test."""
    outcome = load_kvm_intel(host, find_kernel(version), params)
    assert outcome.module is not None, outcome.site
    return outcome.module


def offered(host: HostCpu, version: str, index: int, params: ModuleParams = TOLERANT) -> int:
    """Return what KVM offers in MSR `index`."""
    value = vmx_get_vmx_msr(load(host, version, params).nested, index)
    assert value is not None
    return value


def changed(changes: Mapping[int, int]) -> HostCpu:
    """Return the Coffee Lake with other MSRs."""
    return replace(SGX, msrs={**COFFEE_LAKE, **changes})


def without(index: int, control: int) -> int:
    """Return MSR `index` of the Coffee Lake without the allowed-1 bits of `control`."""
    return COFFEE_LAKE[index] & ~(control << 32)


@pytest.mark.parametrize("version", MSR_KERNELS)
def test_whole_table_of_a_coffee_lake(version: str) -> None:
    table = default_msrs(SGX, find_kernel(version))
    # vmcs12: its revision, 4096 bytes, write-back, true controls, INS/OUTS information
    assert table[msr.MSR_IA32_VMX_BASIC] == 0x00D8_1000_11E5_7ED0
    # no posted interrupts (0x48B has no APIC virtualisation), and the timer as ever
    assert table[msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS] == 0x0000_007F_0000_0016
    assert table[msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS] == 0xFFF9_FFFE_0400_6172
    # timer rate 5, HLT and wait-for-SIPI, VMWRITE to any field, EFER.LMA is stored
    assert table[msr.MSR_IA32_VMX_MISC] == 0x2000_0165
    assert table[msr.MSR_IA32_VMX_CR0_FIXED0] == 0x8000_0021
    assert table[msr.MSR_IA32_VMX_CR4_FIXED0] == 0x2000
    # the highest index is that of TSC_MULTIPLIER
    assert table[msr.MSR_IA32_VMX_VMCS_ENUM] == 0x32
    assert table[msr.MSR_IA32_VMX_VMFUNC] == 1
    # UC and advanced exit information are not offered
    assert table[msr.MSR_IA32_VMX_EPT_VPID_CAP] == 0x0000_0F01_0633_4041


@pytest.mark.parametrize("version", MSR_KERNELS)
def test_default_control_msrs_are_the_true_ones_with_the_default1_bits(version: str) -> None:
    table = default_msrs(SGX, find_kernel(version))
    cr3 = Primary.CR3_LOAD_EXITING | Primary.CR3_STORE_EXITING
    pairs = (
        (msr.MSR_IA32_VMX_PINBASED_CTLS, msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS, 0),
        (msr.MSR_IA32_VMX_PROCBASED_CTLS, msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS, cr3),
        (msr.MSR_IA32_VMX_EXIT_CTLS, msr.MSR_IA32_VMX_TRUE_EXIT_CTLS, VmExit.SAVE_DEBUG_CONTROLS),
        (
            msr.MSR_IA32_VMX_ENTRY_CTLS,
            msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS,
            VmEntry.LOAD_DEBUG_CONTROLS,
        ),
    )
    for default, true, free in pairs:
        assert table[default] == table[true] | free
        assert table[true] & free == 0


@pytest.mark.parametrize("version", MSR_KERNELS)
def test_what_is_emulated_is_offered_without_hardware(version: str) -> None:
    host = changed(
        {
            0x481: without(0x481, Pin.ACTIVATE_VMX_PREEMPTION_TIMER),
            0x482: without(0x482, Primary.USE_MSR_BITMAPS),
            0x48B: without(0x48B, Secondary.VMCS_SHADOWING | Secondary.ENABLE_PML),
        }
    )
    nested = load(host, version).nested
    assert nested.pinbased_ctls_high & Pin.ACTIVATE_VMX_PREEMPTION_TIMER
    assert nested.procbased_ctls_high & Primary.USE_MSR_BITMAPS
    assert nested.secondary_ctls_high & Secondary.VMCS_SHADOWING
    assert nested.secondary_ctls_high & Secondary.ENABLE_PML


@pytest.mark.parametrize(
    ("params", "control"),
    [
        (ModuleParams(ept=False), Secondary.ENABLE_EPT),
        (ModuleParams(ept=False), Secondary.UNRESTRICTED_GUEST),
        (ModuleParams(ept=False), Secondary.ENABLE_PML),
        (ModuleParams(eptad=False), Secondary.ENABLE_PML),
        (ModuleParams(unrestricted_guest=False), Secondary.UNRESTRICTED_GUEST),
        (ModuleParams(vpid=False), Secondary.ENABLE_VPID),
        (ModuleParams(flexpriority=False), Secondary.VIRTUALIZE_APIC_ACCESSES),
        (ModuleParams(sgx=False), Secondary.ENABLE_ENCLS_EXITING),
    ],
)
@pytest.mark.parametrize("version", MSR_KERNELS)
def test_parameter_takes_a_control_away(version: str, params: ModuleParams, control: int) -> None:
    assert load(SGX, version, ModuleParams()).nested.secondary_ctls_high & control
    assert not load(SGX, version, params).nested.secondary_ctls_high & control


@pytest.mark.parametrize("version", MSR_KERNELS)
def test_pml_parameter_is_kvm_s_own_affair(version: str) -> None:
    # L1's log is written by software when KVM walks L1's EPT
    assert load(SGX, version, ModuleParams(pml=False)).nested == load(SGX, version).nested


@pytest.mark.parametrize("version", MSR_KERNELS)
def test_without_ept_the_vm_functions_are_offered_but_none_of_them(version: str) -> None:
    nested = load(SGX, version, ModuleParams(ept=False)).nested
    assert nested.secondary_ctls_high & Secondary.ENABLE_VM_FUNCTIONS
    assert (nested.vmfunc_controls, nested.ept_caps) == (0, 0)


@pytest.mark.parametrize("version", MSR_KERNELS)
def test_ept_needs_write_back_and_all_context_invept(version: str) -> None:
    for bit in (
        EptVpidCap.PAGE_WALK_4,
        EptVpidCap.MEMORY_TYPE_WB,
        EptVpidCap.INVEPT_ALL_CONTEXTS,
    ):
        module = load(changed({0x48C: COFFEE_LAKE[0x48C] & ~bit}), version)
        assert not module.flags.enable_ept
        assert not module.flags.enable_unrestricted_guest


@pytest.mark.parametrize("version", MSR_KERNELS)
def test_posted_interrupts_need_the_whole_of_apicv(version: str) -> None:
    apic = Secondary.APIC_REGISTER_VIRTUALIZATION | Secondary.VIRTUAL_INTERRUPT_DELIVERY
    msrs = {
        0x481: COFFEE_LAKE[0x481] | Pin.PROCESS_POSTED_INTERRUPTS << 32,
        0x48B: COFFEE_LAKE[0x48B] | apic << 32,
    }
    whole = load(changed(msrs), version)
    assert whole.flags.enable_apicv
    assert whole.nested.pinbased_ctls_high & Pin.PROCESS_POSTED_INTERRUPTS
    off = load(changed(msrs), version, replace(TOLERANT, enable_apicv=False))
    assert not off.nested.pinbased_ctls_high & Pin.PROCESS_POSTED_INTERRUPTS
    # the secondary half of APICv stays on offer all the same
    assert off.nested.secondary_ctls_high & apic == apic


def test_5_18_offers_encls_exiting_on_every_processor() -> None:
    encls = Secondary.ENABLE_ENCLS_EXITING
    assert load(NO_SGX, "5.18").nested.secondary_ctls_high & encls
    for version in FROM_CONFIG:
        assert load(SGX, version).nested.secondary_ctls_high & encls
        assert not load(NO_SGX, version).nested.secondary_ctls_high & encls


def test_5_18_looks_at_the_processor_again_and_not_at_the_config() -> None:
    # on Hyper-V with the enlightened VMCS, TSC scaling leaves the config
    host = replace(changed({0x48B: COFFEE_LAKE[0x48B] | Secondary.USE_TSC_SCALING << 32}))
    host = replace(host, on_hyperv_evmcs=True)
    module = load(host, "5.18")
    assert not module.config.cpu_based_2nd_exec_ctrl & Secondary.USE_TSC_SCALING
    assert module.nested.secondary_ctls_high & Secondary.USE_TSC_SCALING


def test_5_18_hands_on_pin_based_controls_that_must_be_1() -> None:
    host = changed({0x481: COFFEE_LAKE[0x481] | Pin.NMI_EXITING})
    assert load(host, "5.18").nested.pinbased_ctls_low == 0x16 | Pin.NMI_EXITING
    for version in FROM_CONFIG:
        assert load(host, version).nested.pinbased_ctls_low == 0x16


def test_perf_global_ctrl_is_offered_always_from_6_1_on() -> None:
    # neither half of the pair exists
    host = changed(
        {
            0x483: without(0x483, VmExit.LOAD_IA32_PERF_GLOBAL_CTRL),
            0x484: without(0x484, VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL),
        }
    )
    for version in MSR_KERNELS:
        nested = load(host, version).nested
        expected = version != "5.18"
        assert (nested.exit_ctls_high & VmExit.LOAD_IA32_PERF_GLOBAL_CTRL != 0) == expected
        assert (nested.entry_ctls_high & VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL != 0) == expected


def test_user_wait_is_offered_from_6_1_on() -> None:
    wait = Secondary.ENABLE_USER_WAIT_AND_PAUSE
    host = changed({0x48B: COFFEE_LAKE[0x48B] | wait << 32})
    seen = [load(host, version).nested.secondary_ctls_high & wait != 0 for version in MSR_KERNELS]
    assert seen == [False, True, True]


def test_umip_is_reported_where_it_is_emulated() -> None:
    # the Coffee Lake's CR4 has no UMIP, its CPUID here may
    without_umip = replace(SGX, features=SGX.features - {"UMIP"})
    for version, beside, emulated in (("5.18", 0, 0), ("6.1", 1, 1), ("6.12", 0, 1)):
        assert (offered(SGX, version, 0x489) & Cr4.UMIP != 0) == beside
        assert (offered(without_umip, version, 0x489) & Cr4.UMIP != 0) == emulated


@pytest.mark.parametrize("version", MSR_KERNELS)
def test_without_secondary_controls_some_are_offered_still(version: str) -> None:
    host = changed({0x482: without(0x482, Primary.ACTIVATE_SECONDARY_CONTROLS)})
    nested = load(host, version, replace(TOLERANT, sgx=False)).nested
    assert not nested.procbased_ctls_high & Primary.ACTIVATE_SECONDARY_CONTROLS
    assert nested.secondary_ctls_high == Secondary.VMCS_SHADOWING


@pytest.mark.parametrize("version", MSR_KERNELS)
def test_loading_can_fail_after_the_config(version: str) -> None:
    kernel = find_kernel(version)
    no_nx = replace(SGX, features=SGX.features - {"NX"})
    assert load_kvm_intel(no_nx, kernel).module is not None
    refused = load_kvm_intel(no_nx, kernel, ModuleParams(ept=False))
    assert (refused.errno, refused.site) == (-95, "shadow_paging_without_nx")
    no_vmx = replace(SGX, features=SGX.features - {"VMX"})
    assert load_kvm_intel(no_vmx, kernel).errno == -95


@pytest.mark.parametrize("version", MSR_KERNELS)
def test_preemption_timer_of_kvm_must_not_wrap_too_soon(version: str) -> None:
    # 32 bits of a timer that counts every tick of a 2 GHz TSC last two seconds
    fast = load(changed({0x485: COFFEE_LAKE[0x485] & ~0x1F}), version)
    assert load(SGX, version).flags.enable_preemption_timer
    assert not fast.flags.enable_preemption_timer


@pytest.mark.parametrize("version", MSR_KERNELS)
def test_without_nested_l1_has_no_vmx(version: str) -> None:
    module = load(SGX, version, ModuleParams(nested=False))
    assert "VMX" not in module.supported_cpuid.features
    assert default_msrs(SGX, find_kernel(version), ModuleParams(nested=False)) == {}


def test_index_that_no_kernel_emulates() -> None:
    module = load(SGX, "6.12")
    assert vmx_get_vmx_msr(module.nested, msr.MSR_IA32_VMX_PROCBASED_CTLS3) is None


def test_unknown_version_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"5\.18, 6\.1, 6\.12"):
        msr_behaviour("2.6")


@pytest.mark.parametrize("version", MSR_KERNELS)
def test_every_profile_has_a_virtual_processor_or_a_reason(version: str) -> None:
    kernel = find_kernel(version)
    refused = set()
    for name in profile_names():
        try:
            virtual = virtual_profile(load_profile(name), kernel, TOLERANT)
        except InputError:
            refused.add(name)
            continue
        for true in (0x48D, 0x48E, 0x48F, 0x490, 0x48B):
            must, may = virtual.msrs[true] & 0xFFFF_FFFF, virtual.msrs[true] >> 32
            assert must & ~may == 0
        assert "x2apic" in virtual.features
    # they lack a control that KVM requires
    assert refused == {"core-duo-t2600", "yonah", "kvm-virtual"}
