# SPDX-License-Identifier: GPL-2.0-only
"""Each oracle is silent on the model over many tables, and fires on a planted fault."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.inputs.case import ConfigCase
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.source import KERNELS, Kernel, find_kernel
from nvmxfuzz.kvm.vmcs_config import ConfigOutcome, KernelWarning, VmcsConfig, setup_vmcs_config
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.oracles.config.capability_config import ORACLES, Run
from nvmxfuzz.oracles.finding import Finding

ORACLE = {oracle.name: oracle for oracle in ORACLES}
READ = (0x480, 0x481, 0x482, 0x483, 0x484, 0x485, 0x48B, 0x48C, 0x492)

CORE_DUO = {
    0x480: 0x001B_0400_0000_0005,
    0x481: 0x0000_001F_0000_0016,
    0x482: 0x7781_FFFE_0401_E172,
    0x483: 0x0003_EDFF_0003_6DFF,
    0x484: 0x0000_1DFF_0000_11FF,
    0x485: 0x403C0,
}
COFFEE_LAKE = {
    0x480: 0x00DA_0400_0000_0004,
    0x481: 0x0000_007F_0000_0016,
    0x482: 0xFFF9_FFFE_0401_E172,
    0x483: 0x01FF_FFFF_0003_6DFF,
    0x484: 0x0003_FFFF_0000_11FF,
    0x485: 0x7004_C1E7,
    0x48B: 0x005F_BCFF_0000_0000,
    0x48C: 0x0000_0F01_0673_4141,
}
EVERYTHING = {
    **COFFEE_LAKE,
    **dict.fromkeys((0x481, 0x482, 0x483, 0x484, 0x48B), 0xFFFF_FFFF << 32),
    0x492: (1 << 64) - 1,
}
# What must be 1 where there are no TRUE MSRs, and everything else may be.
RIGID = {**EVERYTHING, **{i: EVERYTHING[i] | COFFEE_LAKE[i] for i in (0x481, 0x482, 0x483, 0x484)}}
BASES = (CORE_DUO, COFFEE_LAKE, EVERYTHING, RIGID)
MODELS = (0, 0x1A, 0x1E, 0x25, 0x2C, 0x2E, 0x3A)


def case(
    msrs: Mapping[int, int],
    kernel: str = "6.12",
    strict: bool = False,
    *,
    has_sgx: bool = False,
    evmcs: bool = False,
) -> ConfigCase:
    profile = Profile("test", "", 6, 0, 0, 40, 48, msrs, frozenset())
    return ConfigCase(
        profile, kernel=kernel, error_on_inconsistent=strict, has_sgx=has_sgx, evmcs=evmcs
    )


def without(index: int, control: int, base: Mapping[int, int] = EVERYTHING) -> dict[int, int]:
    return {**base, index: base[index] & ~(control << 32)}


def findings(the_case: ConfigCase, run: Run = setup_vmcs_config) -> list[Finding]:
    found = (oracle.check(the_case, run) for oracle in ORACLES)
    return [finding for finding in found if finding is not None]


# Silent where there is no fault.


@st.composite
def cases(draw: st.DrawFn) -> ConfigCase:
    """Tables near real ones, and wild ones."""
    msrs = dict(draw(st.sampled_from(BASES)))
    bits = st.tuples(st.sampled_from(READ), st.integers(0, 63))
    for index, bit in draw(st.lists(bits, max_size=6)):
        msrs[index] = msrs.get(index, 0) ^ 1 << bit
    msrs |= draw(st.dictionaries(st.sampled_from(READ), st.integers(0, (1 << 64) - 1), max_size=2))
    for index in draw(st.sets(st.sampled_from(READ), max_size=2)):
        msrs.pop(index, None)
    model, stepping = draw(st.sampled_from(MODELS)), draw(st.integers(0, 9))
    return ConfigCase(
        Profile("drawn", "", 6, model, stepping, 40, 48, msrs, frozenset()),
        kernel=draw(st.sampled_from(KERNELS)),
        error_on_inconsistent=draw(st.booleans()),
        has_sgx=draw(st.booleans()),
        evmcs=draw(st.booleans()),
    )


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(cases())
def test_hypothesis_finds_nothing_in_the_model(drawn: ConfigCase) -> None:
    assert findings(drawn) == []


def drawn_case(source: random.Random, kernel: str) -> ConfigCase:
    """Return a base with a few bits flipped, seldom with whole MSRs replaced or taken away."""
    msrs = dict(source.choice(BASES))
    for _ in range(source.randrange(6)):
        index = source.choice(READ)
        msrs[index] = msrs.get(index, 0) ^ 1 << source.randrange(64)
    if source.random() < 0.1:
        msrs[source.choice(READ)] = source.getrandbits(64)
    if source.random() < 0.1:
        msrs.pop(source.choice(READ), None)
    return ConfigCase(
        Profile(
            "drawn",
            "",
            6,
            source.choice(MODELS),
            source.randrange(10),
            40,
            48,
            msrs,
            frozenset(),
        ),
        kernel=kernel,
        error_on_inconsistent=source.random() < 0.5,
        has_sgx=source.random() < 0.5,
        evmcs=source.random() < 0.3,
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_thousands_of_tables_near_real_ones_are_silent(kernel: str) -> None:
    source = random.Random(f"config {kernel}")
    accepted = 0
    for _ in range(4000):
        drawn = drawn_case(source, kernel)
        assert findings(drawn) == []
        host = HostCpu.of(drawn.profile, drawn.has_sgx, drawn.evmcs)
        accepted += not setup_vmcs_config(host, find_kernel(kernel)).errno
    assert accepted > 1000


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_single_bit_of_every_msr_is_silent(kernel: str) -> None:
    for base in (COFFEE_LAKE, EVERYTHING, RIGID):
        for index in READ:
            for bit in range(64):
                msrs = {**base, index: base.get(index, 0) ^ 1 << bit}
                assert findings(case(msrs, kernel, strict=bool(bit & 1))) == []


# Loud where there is one.

Fault = Callable[[HostCpu, Kernel, ModuleParams], ConfigOutcome]


def in_kernel(**changes: object) -> Fault:
    """Run a kernel with one of its behaviours replaced."""
    return lambda host, kernel, params: setup_vmcs_config(
        host,
        replace(kernel, **changes),  # type: ignore[arg-type]
        params,
    )


def in_config(change: Callable[[VmcsConfig], VmcsConfig]) -> Fault:
    """Spoil every accepted config."""

    def run(host: HostCpu, kernel: Kernel, params: ModuleParams) -> ConfigOutcome:
        outcome = setup_vmcs_config(host, kernel, params)
        if outcome.config is None:
            return outcome
        return replace(outcome, config=change(outcome.config))

    return run


def in_warnings(change: Callable[[tuple[KernelWarning, ...]], tuple[KernelWarning, ...]]) -> Fault:
    """Spoil what is printed."""

    def run(host: HostCpu, kernel: Kernel, params: ModuleParams) -> ConfigOutcome:
        outcome = setup_vmcs_config(host, kernel, params)
        return replace(outcome, warnings=change(outcome.warnings))

    return run


def always_tolerant(host: HostCpu, kernel: Kernel, params: ModuleParams) -> ConfigOutcome:
    return setup_vmcs_config(host, kernel, replace(params, error_on_inconsistent_vmcs_config=False))


def always_strict(host: HostCpu, kernel: Kernel, params: ModuleParams) -> ConfigOutcome:
    return setup_vmcs_config(host, kernel, replace(params, error_on_inconsistent_vmcs_config=True))


def refuses_all(_host: HostCpu, _kernel: Kernel, _params: ModuleParams) -> ConfigOutcome:
    return ConfigOutcome(None, -5, "mood", ())


def wrong_errno(host: HostCpu, kernel: Kernel, params: ModuleParams) -> ConfigOutcome:
    outcome = setup_vmcs_config(host, kernel, params)
    return replace(outcome, errno=outcome.errno and -22)


HALF_PAT = without(0x484, VmEntry.LOAD_IA32_PAT)
NO_EPT = without(0x48B, Secondary.ENABLE_EPT)
NO_VPID = without(0x48B, Secondary.ENABLE_VPID)
NO_SHADOW = without(0x482, Primary.USE_TPR_SHADOW)
NO_SECONDARY = {**without(0x482, Primary.ACTIVATE_SECONDARY_CONTROLS), 0x48C: 0}
MUST_SAVE_PAT = {**EVERYTHING, 0x483: EVERYTHING[0x483] | VmExit.SAVE_IA32_PAT}

INCONSISTENT_REFUSED = [
    ("refused", case(HALF_PAT, strict=True), in_kernel(entry_exit_pairs=())),
    ("refused", case(NO_EPT, strict=True), always_tolerant),
    ("refused", case(NO_VPID, "6.1", strict=True), always_tolerant),
    ("refused", case(HALF_PAT, strict=True), wrong_errno),
    ("accepted", case(HALF_PAT), always_strict),
    ("accepted", case(NO_EPT, "5.18", strict=True), refuses_all),
    ("both-halves", case(HALF_PAT, "6.1"), in_kernel(entry_exit_pairs=())),
    (
        "both-halves",
        case(HALF_PAT),
        in_config(lambda c: replace(c, vmexit_ctrl=c.vmexit_ctrl | VmExit.LOAD_IA32_PAT)),
    ),
    ("zeroed", case(NO_EPT, "5.18"), in_config(lambda c: replace(c, ept=1))),
    ("zeroed", case(NO_VPID), in_config(lambda c: replace(c, vpid=1))),
    ("zeroed", case(EVERYTHING), in_config(lambda c: replace(c, ept=0))),
    ("warned", case(NO_EPT, "5.18"), in_warnings(lambda _: ())),
    ("warned", case(NO_VPID), in_warnings(lambda w: w + w)),
    ("warned", case(HALF_PAT), in_warnings(lambda _: ())),
    (
        "warned",
        case(EVERYTHING),
        in_warnings(lambda _: (KernelWarning("entry_exit_pair", (0, 0)),)),
    ),
    (
        "warned",
        case(HALF_PAT),
        in_warnings(lambda _: (KernelWarning("entry_exit_pair", (1, 0)),)),
    ),
]
WELL_FORMED = [
    (
        "required",
        case(EVERYTHING),
        in_config(lambda c: replace(c, pin_based_exec_ctrl=c.pin_based_exec_ctrl & ~1)),
    ),
    (
        "required",
        case({**NO_EPT, 0x48C: 0}, "5.18"),
        in_config(
            lambda c: replace(
                c, cpu_based_exec_ctrl=c.cpu_based_exec_ctrl & ~Primary.CR3_LOAD_EXITING
            )
        ),
    ),
    (
        "allowed",
        case(HALF_PAT),
        in_config(lambda c: replace(c, vmentry_ctrl=c.vmentry_ctrl | VmEntry.LOAD_IA32_PAT)),
    ),
    ("allowed", case(NO_SECONDARY), in_config(lambda c: replace(c, cpu_based_2nd_exec_ctrl=8))),
    ("allowed", case(COFFEE_LAKE), in_config(lambda c: replace(c, cpu_based_3rd_exec_ctrl=1))),
    (
        "must-be-1",
        case(MUST_SAVE_PAT),
        in_config(lambda c: replace(c, vmexit_ctrl=c.vmexit_ctrl & ~VmExit.SAVE_IA32_PAT)),
    ),
    (
        "must-be-1",
        case({**EVERYTHING, 0x48B: EVERYTHING[0x48B] | Secondary.ENABLE_ENCLS_EXITING}, "5.18"),
        in_kernel(filters_encls_after=True),
    ),
    (
        "dependent",
        case(NO_SHADOW),
        in_config(lambda c: replace(c, cpu_based_2nd_exec_ctrl=c.cpu_based_2nd_exec_ctrl | 1 << 4)),
    ),
    (
        "dependent",
        case(NO_SHADOW),
        in_config(lambda c: replace(c, pin_based_exec_ctrl=c.pin_based_exec_ctrl | 1 << 7)),
    ),
    (
        "dependent",
        case(without(0x482, Primary.ACTIVATE_TERTIARY_CONTROLS)),
        in_config(lambda c: replace(c, cpu_based_3rd_exec_ctrl=1 << 4)),
    ),
    ("dependent", case(NO_EPT), in_config(lambda c: replace(c, ept=1))),
    ("dependent", case(NO_VPID), in_config(lambda c: replace(c, vpid=1))),
    (
        "dependent",
        case(EVERYTHING, "6.1"),
        in_config(lambda c: replace(c, vmexit_ctrl=c.vmexit_ctrl & ~VmExit.LOAD_IA32_EFER)),
    ),
    ("basic", case(EVERYTHING), in_config(lambda c: replace(c, basic=0))),
]


def sheds_a_control(config: VmcsConfig) -> VmcsConfig:
    """Clear the lowest secondary control, so that no config is the last one."""
    word = config.cpu_based_2nd_exec_ctrl
    return replace(config, cpu_based_2nd_exec_ctrl=word & (word - 1))


FIXPOINT = [
    ("unchanged", case(COFFEE_LAKE), in_config(sheds_a_control)),
    (
        "accepted",
        case(COFFEE_LAKE),
        in_config(lambda c: replace(c, vmexit_ctrl=c.vmexit_ctrl & ~VmExit.SAVE_DEBUG_CONTROLS)),
    ),
    (
        "accepted",
        case(COFFEE_LAKE, strict=True),
        in_config(lambda c: replace(c, vmentry_ctrl=c.vmentry_ctrl & ~VmEntry.LOAD_IA32_PAT)),
    ),
    (
        "silent",
        case(COFFEE_LAKE),
        in_warnings(lambda _: (KernelWarning("entry_exit_pair", (0, 0)),)),
    ),
]


def strict_about_vpid(host: HostCpu, kernel: Kernel, params: ModuleParams) -> ConfigOutcome:
    """Refuse, with the parameter, what is consistent."""
    if params.error_on_inconsistent_vmcs_config:
        return ConfigOutcome(None, -5, "entry_exit_pair", ())
    return setup_vmcs_config(host, kernel, params)


def notices_the_parameter(host: HostCpu, kernel: Kernel, params: ModuleParams) -> ConfigOutcome:
    outcome = setup_vmcs_config(host, kernel, params)
    if params.error_on_inconsistent_vmcs_config and outcome.config is not None:
        return replace(outcome, config=replace(outcome.config, misc=0))
    return outcome


PARAMETER_NEUTRAL = [
    ("same", case(COFFEE_LAKE), strict_about_vpid),
    ("same", case(COFFEE_LAKE, "6.1"), notices_the_parameter),
    (
        "same",
        case(NO_EPT, "5.18"),
        in_kernel(has_error_on_inconsistent_vmcs_config=True),
    ),
]

FAULTS = [
    (oracle, rule, the_case, fault)
    for oracle, faults in (
        ("config.inconsistent-refused", INCONSISTENT_REFUSED),
        ("config.well-formed", WELL_FORMED),
        ("config.fixpoint", FIXPOINT),
        ("config.parameter-neutral", PARAMETER_NEUTRAL),
    )
    for rule, the_case, fault in faults
]


@pytest.mark.parametrize(("oracle", "rule", "the_case", "fault"), FAULTS)
def test_a_planted_fault_is_found(
    oracle: str, rule: str, the_case: ConfigCase, fault: Fault
) -> None:
    assert ORACLE[oracle].check(the_case, setup_vmcs_config) is None
    finding = ORACLE[oracle].check(the_case, fault)
    assert finding is not None
    assert (finding.oracle, finding.rules) == (oracle, (rule,))
    assert finding.message


def test_5_18_is_not_asked_about_pairs() -> None:
    assert findings(case(HALF_PAT, "5.18", strict=True)) == []


def test_every_oracle_says_what_must_hold_and_why() -> None:
    assert len(ORACLE) == 4
    for oracle in ORACLES:
        assert oracle.sentence.endswith(".")
        assert oracle.source


def test_posted_interrupts_that_must_be_1_go_with_interrupt_delivery() -> None:
    rigid = {**NO_SHADOW, 0x481: NO_SHADOW[0x481] | Pin.PROCESS_POSTED_INTERRUPTS}
    assert findings(case(rigid, strict=True)) == []
    # Where delivery is there, nothing excuses it.
    whole = {**EVERYTHING, 0x481: EVERYTHING[0x481] | Pin.PROCESS_POSTED_INTERRUPTS}
    drop = in_config(lambda c: replace(c, pin_based_exec_ctrl=c.pin_based_exec_ctrl & ~(1 << 7)))
    finding = ORACLE["config.well-formed"].check(case(whole), drop)
    assert finding is not None
    assert finding.rules == ("must-be-1",)


# The finding.


def test_an_identity_is_exact_and_stable() -> None:
    finding = Finding("config.fixpoint", ("b", "a"), ("promise", "kvm 6.1"), "ept", "some words")
    assert finding.identity == "config.fixpoint-f94ce5b3b6da"
    assert replace(finding, rules=("a", "b", "a"), message="others").identity == finding.identity
    for other in (
        replace(finding, oracle="config.fix"),
        replace(finding, rules=("a",)),
        replace(finding, targets=("kvm 6.1", "promise")),
        replace(finding, site="vpid"),
    ):
        assert other.identity != finding.identity
