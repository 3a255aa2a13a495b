# SPDX-License-Identifier: GPL-2.0-only
"""setup_vmcs_config() of each kernel version, on tables whose outcome was worked out by hand."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, Tertiary, VmEntry, VmExit
from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.hardware_setup import hardware_setup
from nvmxfuzz.kvm.host import HostCpu, ModuleParams, parse_params
from nvmxfuzz.kvm.source import KERNELS, find_kernel
from nvmxfuzz.kvm.vmcs_config import (
    ConfigOutcome,
    KernelWarning,
    VmcsConfig,
    adjust_vmx_controls,
    adjust_vmx_controls64,
    setup_vmcs_config,
)

EIO = -5
SEES_INCONSISTENCY = ("6.1", "6.12")
TOLERANT = ModuleParams(error_on_inconsistent_vmcs_config=False)

# A Coffee Lake of 2018, as logged by VirtualBox.
COFFEE_LAKE: Mapping[int, int] = {
    0x480: 0x00DA_0400_0000_0004,
    0x481: 0x0000_007F_0000_0016,
    0x482: 0xFFF9_FFFE_0401_E172,
    0x483: 0x01FF_FFFF_0003_6DFF,
    0x484: 0x0003_FFFF_0000_11FF,
    0x485: 0x7004_C1E7,
    0x48B: 0x005F_BCFF_0000_0000,
    0x48C: 0x0000_0F01_0673_4141,
}
# Every control may be 1 and none must be.
EVERYTHING: Mapping[int, int] = {
    **COFFEE_LAKE,
    **dict.fromkeys((0x481, 0x482, 0x483, 0x484, 0x48B), 0xFFFF_FFFF << 32),
    0x492: (1 << 64) - 1,
}


def table(changes: Mapping[int, int | None], base: Mapping[int, int] = COFFEE_LAKE) -> HostCpu:
    """Return a host with some MSRs changed; None takes one away."""
    msrs = {**base, **changes}
    return HostCpu({index: value for index, value in msrs.items() if value is not None})


def without(index: int, control: int, base: Mapping[int, int] = COFFEE_LAKE) -> int:
    """Return the capability MSR `index` without the allowed-1 bits of `control`."""
    return base[index] & ~(control << 32)


def load(host: HostCpu, version: str, params: ModuleParams = TOLERANT) -> ConfigOutcome:
    return setup_vmcs_config(host, find_kernel(version), params)


def config(host: HostCpu, version: str, params: ModuleParams = TOLERANT) -> VmcsConfig:
    outcome = load(host, version, params)
    assert outcome.config is not None, outcome
    return outcome.config


def sites(outcome: ConfigOutcome) -> list[str]:
    return [warning.site for warning in outcome.warnings]


def test_a_missing_required_control_is_no_result() -> None:
    assert adjust_vmx_controls(0b0011, 0b1100, 0b0111 << 32 | 0b10000) == 0b10111
    assert adjust_vmx_controls(0b0011, 0b1100, 0b0101 << 32) is None
    assert adjust_vmx_controls(0b0001, 0, 0b0001) == 0b0001
    assert adjust_vmx_controls64(0b0110, 0b1011) == 0b0010


@pytest.mark.parametrize("version", KERNELS)
def test_a_real_processor_is_accepted_in_silence(version: str) -> None:
    outcome = load(HostCpu(COFFEE_LAKE), version, ModuleParams())
    assert (outcome.errno, outcome.site, outcome.warnings) == (0, "", ())


def test_the_words_of_a_real_processor() -> None:
    old = config(HostCpu(COFFEE_LAKE), "5.18")
    assert old.cpu_based_exec_ctrl == 0xB5A0_6DFA
    assert old.vmexit_ctrl == 0x01AB_FFFF
    assert old.vmentry_ctrl == 0x0003_F1FF
    assert old.misc is None
    for version in SEES_INCONSISTENCY:
        new = config(HostCpu(COFFEE_LAKE), version)
        assert new.pin_based_exec_ctrl == 0x7F
        assert new.cpu_based_exec_ctrl == 0xFFF9_FFFE
        assert new.cpu_based_2nd_exec_ctrl == 0x001B_3CFF
        assert new.cpu_based_3rd_exec_ctrl == 0
        assert new.vmexit_ctrl == 0x01FF_FFFF
        assert new.vmentry_ctrl == 0x0003_F3FF
        assert (new.ept, new.vpid) == (0x0673_4141, 0xF01)
        assert (new.basic, new.misc) == (COFFEE_LAKE[0x480], COFFEE_LAKE[0x485])
        assert (new.size, new.basic_cap, new.revision_id) == (0x400, 0x00DA_0000, 4)


@pytest.mark.parametrize(
    ("index", "control", "word"),
    [
        (0x481, Pin.NMI_EXITING, "pin_based_exec_ctrl"),
        (0x482, Primary.HLT_EXITING, "cpu_based_exec_ctrl"),
        (0x482, Primary.CR3_LOAD_EXITING, "cpu_based_exec_ctrl"),
        (0x483, VmExit.HOST_ADDRESS_SPACE_SIZE, "vmexit_ctrl"),
        (0x484, VmEntry.LOAD_DEBUG_CONTROLS, "vmentry_ctrl"),
    ],
)
@pytest.mark.parametrize("version", KERNELS)
def test_a_required_control_must_be_there(
    version: str, index: int, control: int, word: str
) -> None:
    host = table({index: without(index, control, EVERYTHING)}, EVERYTHING)
    outcome = load(host, version)
    assert (outcome.config, outcome.errno, outcome.site) == (None, EIO, f"required.{word}")


def test_6_1_began_to_require_two_controls() -> None:
    for index, control in (
        (0x482, Primary.INTERRUPT_WINDOW_EXITING),
        (0x484, VmEntry.IA_32E_MODE_GUEST),
    ):
        host = table({index: without(index, control)})
        assert [load(host, version).errno for version in KERNELS] == [0, EIO, EIO]


PAIRS = [
    (VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL, VmExit.LOAD_IA32_PERF_GLOBAL_CTRL),
    (VmEntry.LOAD_IA32_PAT, VmExit.LOAD_IA32_PAT),
    (VmEntry.LOAD_IA32_EFER, VmExit.LOAD_IA32_EFER),
    (VmEntry.LOAD_IA32_BNDCFGS, VmExit.CLEAR_IA32_BNDCFGS),
    (VmEntry.LOAD_IA32_RTIT_CTL, VmExit.CLEAR_IA32_RTIT_CTL),
]


@pytest.mark.parametrize(("entry", "exit_"), PAIRS)
@pytest.mark.parametrize("version", SEES_INCONSISTENCY)
def test_half_a_pair_is_cleared_or_refused(version: str, entry: int, exit_: int) -> None:
    no_entry = table({0x484: without(0x484, entry, EVERYTHING)}, EVERYTHING)
    no_exit = table({0x483: without(0x483, exit_, EVERYTHING)}, EVERYTHING)
    for host, arguments in ((no_entry, (0, int(exit_))), (no_exit, (int(entry), 0))):
        tolerated = load(host, version)
        assert tolerated.config is not None
        assert not tolerated.config.vmentry_ctrl & entry
        assert not tolerated.config.vmexit_ctrl & exit_
        assert tolerated.warnings == (KernelWarning("entry_exit_pair", arguments),)
        refused = load(host, version, ModuleParams())
        assert refused == ConfigOutcome(None, EIO, "entry_exit_pair", tolerated.warnings)


def test_5_18_keeps_half_a_pair() -> None:
    host = table({0x484: without(0x484, VmEntry.LOAD_IA32_PAT)})
    outcome = load(host, "5.18", ModuleParams())
    assert outcome.config is not None
    assert outcome.config.vmexit_ctrl & VmExit.LOAD_IA32_PAT
    assert outcome.warnings == ()


@pytest.mark.parametrize("version", SEES_INCONSISTENCY)
def test_only_the_first_of_several_half_pairs_is_printed(version: str) -> None:
    lost = VmEntry.LOAD_IA32_PAT | VmEntry.LOAD_IA32_EFER
    outcome = load(table({0x484: without(0x484, lost)}), version)
    assert outcome.config is not None
    assert not outcome.config.vmexit_ctrl & (VmExit.LOAD_IA32_PAT | VmExit.LOAD_IA32_EFER)
    assert outcome.warnings == (KernelWarning("entry_exit_pair", (0, VmExit.LOAD_IA32_PAT)),)


@pytest.mark.parametrize("version", KERNELS)
def test_a_capability_without_its_control(version: str) -> None:
    lost = Secondary.ENABLE_EPT | Secondary.ENABLE_VPID
    host = table({0x48B: without(0x48B, lost)})
    outcome = load(host, version)
    assert outcome.config is not None
    assert (outcome.config.ept, outcome.config.vpid) == (0, 0)
    assert sites(outcome) == ["ept_cap_without_control", "vpid_cap_without_control"]
    strict = load(host, version, ModuleParams())
    if version == "5.18":
        assert strict == outcome
    else:
        assert (strict.errno, strict.site) == (EIO, "ept_cap_without_control")
        assert sites(strict) == ["ept_cap_without_control"]


@pytest.mark.parametrize("version", KERNELS)
def test_without_secondary_controls_there_is_no_word_and_no_capability(version: str) -> None:
    host = table({0x482: without(0x482, Primary.ACTIVATE_SECONDARY_CONTROLS), 0x48C: None})
    outcome = load(host, version, ModuleParams())
    assert outcome.config is not None
    assert outcome.config.cpu_based_2nd_exec_ctrl == 0
    assert outcome.config.ept == outcome.config.vpid == 0
    assert outcome.warnings == ()


def test_only_5_18_leaves_needless_exiting_out_of_the_config() -> None:
    exiting = Primary.CR3_LOAD_EXITING | Primary.CR3_STORE_EXITING | Primary.INVLPG_EXITING
    cr8 = Primary.CR8_LOAD_EXITING | Primary.CR8_STORE_EXITING
    for version in KERNELS:
        kept = 0 if version == "5.18" else exiting | cr8
        assert config(HostCpu(COFFEE_LAKE), version).cpu_based_exec_ctrl & (exiting | cr8) == kept
    no_ept = table({0x48B: without(0x48B, Secondary.ENABLE_EPT), 0x48C: 0xF01 << 32})
    assert config(no_ept, "5.18").cpu_based_exec_ctrl & exiting == exiting
    no_shadow = table({0x482: without(0x482, Primary.USE_TPR_SHADOW)})
    assert config(no_shadow, "5.18").cpu_based_exec_ctrl & cr8 == cr8


@pytest.mark.parametrize("version", KERNELS)
def test_virtual_apic_controls_need_the_tpr_shadow(version: str) -> None:
    virtual_apic = (
        Secondary.VIRTUALIZE_X2APIC_MODE
        | Secondary.APIC_REGISTER_VIRTUALIZATION
        | Secondary.VIRTUAL_INTERRUPT_DELIVERY
    )
    whole = config(HostCpu(EVERYTHING), version)
    assert whole.cpu_based_2nd_exec_ctrl & virtual_apic == virtual_apic
    assert whole.pin_based_exec_ctrl & Pin.PROCESS_POSTED_INTERRUPTS
    host = table({0x482: without(0x482, Primary.USE_TPR_SHADOW, EVERYTHING)}, EVERYTHING)
    reduced = config(host, version)
    assert not reduced.cpu_based_2nd_exec_ctrl & virtual_apic
    assert not reduced.pin_based_exec_ctrl & Pin.PROCESS_POSTED_INTERRUPTS


def test_tertiary_controls_came_with_6_1() -> None:
    words = [config(HostCpu(EVERYTHING), version) for version in KERNELS]
    assert [word.cpu_based_3rd_exec_ctrl for word in words] == [
        0,
        Tertiary.IPI_VIRTUALIZATION,
        Tertiary.IPI_VIRTUALIZATION,
    ]
    inactive = table({0x482: without(0x482, Primary.ACTIVATE_TERTIARY_CONTROLS, EVERYTHING)})
    assert all(config(inactive, version).cpu_based_3rd_exec_ctrl == 0 for version in KERNELS)


def test_encls_exiting_needs_sgx_even_where_it_must_be_1() -> None:
    encls = int(Secondary.ENABLE_ENCLS_EXITING)
    forced = HostCpu({**EVERYTHING, 0x48B: EVERYTHING[0x48B] | encls})
    for version in KERNELS:
        for host, expected in (
            (HostCpu(EVERYTHING), 0),
            (HostCpu(EVERYTHING, has_sgx=True), encls),
            # 5.18 does not ask for it; later kernels clear it whatever the hardware says.
            (forced, encls if version == "5.18" else 0),
        ):
            assert config(host, version).cpu_based_2nd_exec_ctrl & encls == expected


def test_ept_violation_ve_is_for_a_kernel_that_proves_it() -> None:
    ve = int(Secondary.EPT_VIOLATION_VE)
    for version in KERNELS:
        assert not config(HostCpu(EVERYTHING), version).cpu_based_2nd_exec_ctrl & ve
    proving = replace(find_kernel("6.12"), prove_ve=True)
    proved = setup_vmcs_config(HostCpu(EVERYTHING), proving).config
    assert proved is not None
    assert proved.cpu_based_2nd_exec_ctrl & ve
    no_ept = table({0x48B: without(0x48B, Secondary.ENABLE_EPT, EVERYTHING)}, EVERYTHING)
    unproved = setup_vmcs_config(no_ept, proving, TOLERANT).config
    assert unproved is not None
    assert not unproved.cpu_based_2nd_exec_ctrl & ve


@pytest.mark.parametrize(
    ("family", "model", "has_erratum"),
    [
        (6, 0x1A, True),
        (6, 0x2C, True),
        (6, 0x2D, False),
        (5, 0x1A, False),
        # Eight bits of the family are known to the kernel.
        (0x106, 0x1A, True),
        (0x107, 0x1A, False),
    ],
)
@pytest.mark.parametrize("version", KERNELS)
def test_perf_global_ctrl_erratum(version: str, family: int, model: int, has_erratum: bool) -> None:
    host = HostCpu(COFFEE_LAKE, family, model)
    outcome = load(host, version, ModuleParams())
    assert outcome.config is not None
    in_config = has_erratum and version != "6.1"
    kept = VmExit.LOAD_IA32_PERF_GLOBAL_CTRL & outcome.config.vmexit_ctrl
    assert bool(kept) != in_config
    kept = VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL & outcome.config.vmentry_ctrl
    assert bool(kept) != in_config
    assert sites(outcome) == ["perf_global_ctrl_erratum"] * in_config
    loaded = hardware_setup(host, find_kernel(version))
    assert sites(loaded) == ["perf_global_ctrl_erratum"] * has_erratum


@pytest.mark.parametrize("version", KERNELS)
def test_broken_preemption_timer(version: str) -> None:
    for stepping, broken in ((8, True), (9, False)):
        host = HostCpu(COFFEE_LAKE, model=0x3A, stepping=stepping)
        timer = config(host, version).pin_based_exec_ctrl & Pin.ACTIVATE_VMX_PREEMPTION_TIMER
        assert bool(timer) != broken


@pytest.mark.parametrize(
    ("basic", "site"),
    [
        (0x00DA_1000_0000_0004, ""),
        (0x00DA_0000_0000_0004, ""),
        (0x00DA_1001_0000_0004, "basic.size"),
        (0x00DB_0400_0000_0004, "basic.address_width"),
        (0x00C2_0400_0000_0004, "basic.memory_type"),
        (0x00DE_0400_0000_0004, "basic.memory_type"),
    ],
)
@pytest.mark.parametrize("version", KERNELS)
def test_vmx_basic(version: str, basic: int, site: str) -> None:
    outcome = load(table({0x480: basic}), version)
    assert (outcome.site, outcome.errno) == (site, EIO if site else 0)


@pytest.mark.parametrize("version", KERNELS)
def test_an_absent_msr_reads_as_zero_and_is_named_once(version: str) -> None:
    gone = load(table({0x48B: None, 0x48C: None, 0x485: None}), version)
    assert gone.config is not None
    assert gone.config.cpu_based_2nd_exec_ctrl == 0
    assert gone.config.misc == (None if version == "5.18" else 0)
    assert gone.warnings == (KernelWarning("unchecked_rdmsr", (0x48B,)),)
    safe = load(table({0x48C: None}), version, ModuleParams())
    assert safe.config is not None
    assert (safe.config.ept, safe.warnings) == (0, ())
    nothing = load(HostCpu({}), version)
    assert nothing.site == "required.cpu_based_exec_ctrl"
    assert nothing.warnings == (KernelWarning("unchecked_rdmsr", (0x482,)),)


def test_enlightened_vmcs() -> None:
    host = HostCpu(EVERYTHING, on_hyperv_evmcs=True)
    for version in KERNELS:
        bare = load(HostCpu(EVERYTHING), version)
        assert load(host, version, ModuleParams(False, enlightened_vmcs=False)) == bare
    assert load(host, "6.1") == load(HostCpu(EVERYTHING), "6.1")
    old = load(host, "5.18")
    assert old.config is not None
    assert old.warnings == ()
    assert not old.config.vmexit_ctrl & VmExit.LOAD_IA32_PERF_GLOBAL_CTRL
    assert not old.config.cpu_based_2nd_exec_ctrl & Secondary.USE_TSC_SCALING
    new = load(host, "6.12")
    assert new.config is not None
    assert new.config.vmexit_ctrl & VmExit.LOAD_IA32_PERF_GLOBAL_CTRL
    assert new.config.cpu_based_2nd_exec_ctrl & Secondary.USE_TSC_SCALING
    assert new.warnings == (
        KernelWarning(
            "evmcs_unsupported.cpu_based_exec_ctrl", (Primary.ACTIVATE_TERTIARY_CONTROLS,)
        ),
        KernelWarning("evmcs_unsupported.pin_based_exec_ctrl", (0xC0,)),
        KernelWarning("evmcs_unsupported.cpu_based_2nd_exec_ctrl", (0x0002_6701,)),
        KernelWarning("evmcs_unsupported.cpu_based_3rd_exec_ctrl", (1 << 4,)),
        KernelWarning("evmcs_unsupported.vmexit_ctrl", (1 << 22,)),
    )


@pytest.mark.parametrize("version", KERNELS)
def test_any_64_bit_values_are_legal(version: str) -> None:
    source = random.Random(version)
    for _ in range(2000):
        msrs = {index: source.getrandbits(64) for index in range(0x480, 0x494)}
        outcome = load(HostCpu(msrs, on_hyperv_evmcs=True), version)
        assert (outcome.config is None) == (outcome.errno == EIO) == bool(outcome.site)
        assert outcome == load(HostCpu(msrs, on_hyperv_evmcs=True), version)


def test_an_unknown_kernel_is_told_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'6\.2': choose one of 5\.18, 6\.1, 6\.12"):
        find_kernel("6.2")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("Y", True), ("1", True), ("on", True), ("n", False), ("0", False), ("OFF", False)],
)
def test_parameters(value: str, expected: bool) -> None:
    kernel = find_kernel("6.1")
    params = parse_params(kernel, [f"error_on_inconsistent_vmcs_config={value}"])
    assert params == ModuleParams(error_on_inconsistent_vmcs_config=expected)
    assert parse_params(kernel, ["enlightened_vmcs"]) == ModuleParams()


@pytest.mark.parametrize(
    ("version", "setting", "message"),
    [
        ("6.1", "error_on_inconsistent_vmcs_config=maybe", "=Y or"),
        ("6.1", "ept=1", "no parameter 'ept'"),
        ("5.18", "error_on_inconsistent_vmcs_config=1", "choose among enlightened_vmcs"),
    ],
)
def test_a_bad_parameter_is_one_sentence(version: str, setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_params(find_kernel(version), [setting])
