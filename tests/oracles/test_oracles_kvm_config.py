# SPDX-License-Identifier: GPL-2.0-only
"""The oracle fires on every difference between the model and what stands for the real function."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest

from nvmxfuzz.inputs.case import ConfigCase
from nvmxfuzz.kvm.hardware_setup import hardware_setup
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.source import Kernel, find_kernel
from nvmxfuzz.kvm.vmcs_config import ConfigOutcome, KernelWarning, VmcsConfig, setup_vmcs_config
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.oracles.config.kvm_config import NAME, NoConfig, agreement, compare
from nvmxfuzz.oracles.finding import Finding

Observe = Callable[[HostCpu, Kernel, ModuleParams], ConfigOutcome | NoConfig]
Change = Callable[[ConfigOutcome], ConfigOutcome]

PLAIN = load_profile("skylake-x")
KERNELS = ("6.1", "6.12")
WORDS = tuple(VmcsConfig.__dataclass_fields__)
NEHALEM = 0x1A
PAIR = KernelWarning("entry_exit_pair", (0x8000, 0))
ABSENT = KernelWarning("unchecked_rdmsr", (0x485,))


class Standing:
    """Something in place of the real function."""

    def __init__(self, kernel: str, observe: Observe) -> None:
        self.kernel = kernel
        self.observe = observe


def case(kernel: str, profile: Profile = PLAIN, rejects: bool = True) -> ConfigCase:
    return ConfigCase(profile, kernel=kernel, error_on_inconsistent=rejects)


def unpaired(kernel: str, rejects: bool) -> ConfigCase:
    """Return a case whose IA32_EFER can be loaded on VM entry, but not on VM exit."""
    msrs = {**PLAIN.msrs, 0x483: PLAIN.msrs[0x483] & ~(1 << (32 + 21))}
    return case(kernel, replace(PLAIN, msrs=msrs), rejects)


def check(given: ConfigCase, observe: Observe, run: Observe = hardware_setup) -> Finding | None:
    finding = agreement(Standing(given.kernel, observe)).check(given, run)  # type: ignore[arg-type]
    assert finding is None or finding.oracle == NAME
    return finding


def changed(change: Change) -> Observe:
    def observe(host: HostCpu, kernel: Kernel, params: ModuleParams) -> ConfigOutcome:
        return change(setup_vmcs_config(host, kernel, params))

    return observe


def with_warnings(*warnings: KernelWarning) -> Observe:
    return changed(lambda outcome: replace(outcome, warnings=warnings))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rejects", [False, True])
def test_silent_where_both_are_the_same(kernel: str, rejects: bool) -> None:
    for given in (case(kernel, rejects=rejects), unpaired(kernel, rejects)):
        assert check(given, setup_vmcs_config) is None


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("word", WORDS)
def test_one_bit_of_a_word_is_found(kernel: str, word: str) -> None:
    def flip(bit: int) -> Change:
        def change(outcome: ConfigOutcome) -> ConfigOutcome:
            assert outcome.config is not None
            value = getattr(outcome.config, word) ^ 1 << bit
            return replace(outcome, config=replace(outcome.config, **{word: value}))

        return change

    for bit in (0, 5, 31):
        finding = check(case(kernel), changed(flip(bit)))
        assert finding is not None
        assert (finding.rules, finding.site) == (("word",), word)
        assert finding.targets == (f"kvm {kernel}", f"kvm-{kernel}")


@pytest.mark.parametrize("kernel", KERNELS)
def test_another_result_is_found(kernel: str) -> None:
    refused = ConfigOutcome(None, -errno.EIO, "", ())
    finding = check(case(kernel), lambda *_: refused)
    assert finding is not None
    assert (finding.rules, finding.site) == (("result",), "accepted")
    finding = check(
        unpaired(kernel, True), lambda *_: setup_vmcs_config(HostCpu(PLAIN.msrs), *_[1:])
    )
    assert finding is not None
    assert (finding.rules, finding.site) == (("result",), "entry_exit_pair")
    finding = check(
        unpaired(kernel, True), changed(lambda outcome: replace(outcome, errno=-errno.EINVAL))
    )
    assert finding is not None
    assert finding.rules == ("result",)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rejects", [False, True])
@pytest.mark.parametrize(
    ("warnings", "site"),
    [
        ((), "entry_exit_pair"),
        ((PAIR, PAIR), "how often, or in which order"),
        ((KernelWarning("entry_exit_pair", (0, 0x8000)),), "entry_exit_pair"),
        ((PAIR, KernelWarning("unrecognised.hello")), "unrecognised.hello"),
        ((PAIR, ABSENT), "unchecked_rdmsr"),
    ],
)
def test_another_log_is_found(
    kernel: str, rejects: bool, warnings: tuple[KernelWarning, ...], site: str
) -> None:
    given = unpaired(kernel, rejects)
    assert check(given, with_warnings(PAIR)) is None
    finding = check(given, with_warnings(*warnings))
    assert finding is not None
    assert (finding.rules, finding.site) == (("warnings",), site)


def test_the_order_of_the_lines_counts_and_the_place_of_a_fault_does_not() -> None:
    kernel = find_kernel("6.12")
    one, two = KernelWarning("ept_cap_without_control"), KernelWarning("vpid_cap_without_control")
    model = ConfigOutcome(None, -errno.EIO, "required.vmexit_ctrl", (one, two, ABSENT))
    for warnings, relation in (
        ((ABSENT, one, two), "agreed"),
        ((ABSENT, two, one), "different"),
        ((one, two), "different"),
        ((KernelWarning("unchecked_rdmsr", (0x480,)), one, two), "different"),
    ):
        real = ConfigOutcome(None, -errno.EIO, "", warnings)
        assert compare(model, real, kernel).relation == relation


def test_the_erratum_is_no_line_of_the_function_in_6_1() -> None:
    nehalem = replace(PLAIN, model=NEHALEM)
    silent = changed(lambda outcome: replace(outcome, warnings=()))
    assert check(case("6.1", nehalem), silent) is None
    finding = check(case("6.12", nehalem), silent)
    assert finding is not None
    assert finding.site == "perf_global_ctrl_erratum"


def test_what_cannot_be_asked_is_no_finding_and_what_does_not_return_is_one() -> None:
    given = case("6.12")
    assert check(given, lambda *_: NoConfig("not-representable", "why")) is None
    finding = check(given, lambda *_: NoConfig("stopped", "BUG at vmx.c:1"))
    assert finding is not None
    assert (finding.rules, finding.site) == (("returned",), "BUG at vmx.c:1")
    relation = compare(
        hardware_setup(HostCpu(PLAIN.msrs), find_kernel("6.12")),
        NoConfig("not-representable", "why"),
        find_kernel("6.12"),
    ).relation
    assert relation == "not-representable"
