# SPDX-License-Identifier: GPL-2.0-only
"""The model of setup_vmcs_config() against the real function, and against it with faults planted.

A fault is one control that a kernel version is said to require or to take, one pair that it is
said to compare, one behaviour or one processor model: the real function must show each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import islice
from random import Random
from typing import Any

import pytest

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.campaign.plan import corpus_files
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import ConfigCase
from nvmxfuzz.inputs.codec import decode, encode
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.inputs.mutate import mutator
from nvmxfuzz.inputs.parts import is_text
from nvmxfuzz.kvm.hardware_setup import hardware_setup
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.source import Kernel, find_kernel
from nvmxfuzz.machine.profile import load_profile, profile_names
from nvmxfuzz.oracles.config.capability_config import ORACLES, loading_of
from nvmxfuzz.oracles.config.kvm_config import Comparison, agreement, compare
from nvmxfuzz.targets.kvm_native.config import KERNEL_OF, KvmConfig, config_witness

ALL = (1 << 32) - 1
WORDS = {"pin_based": 0x481, "cpu_based": 0x482, "secondary": 0x48B, "vmexit": 0x483}
WORDS["vmentry"] = 0x484
WORDS_OF_EVMCS = (
    "cpu_based_exec_ctrl",
    "pin_based_exec_ctrl",
    "cpu_based_2nd_exec_ctrl",
    "vmentry_ctrl",
    "vmexit_ctrl",
)
EVERYTHING = {
    **load_profile("everything").msrs,
    **dict.fromkeys(WORDS.values(), ALL << 32),
    0x492: (1 << 64) - 1,
}
PARAMS = (ModuleParams(False), ModuleParams(True))
TABLES = 1500


def witness(target: str) -> KvmConfig:
    try:
        return config_witness(target)
    except InputError as error:
        pytest.skip(f"{target}: {error}")


@pytest.fixture(params=KERNEL_OF)
def real(request: pytest.FixtureRequest) -> KvmConfig:
    return witness(request.param)


def comparison(
    real: KvmConfig, host: HostCpu, params: ModuleParams, faulty: Kernel | None = None
) -> Comparison:
    kernel = find_kernel(real.kernel)
    model = hardware_setup(host, faulty or kernel, params)
    return compare(model, real.observe(host, kernel, params), kernel)


def found(real: KvmConfig, hosts: Iterable[HostCpu], faulty: Kernel) -> bool:
    return any(
        comparison(real, host, params, faulty).relation == "different"
        for host in hosts
        for params in PARAMS
    )


def agreed(real: KvmConfig, host: HostCpu) -> None:
    for params in PARAMS:
        comparison_ = comparison(real, host, params)
        assert comparison_.relation in ("agreed", "not-representable"), comparison_.differences


@cache
def hosts() -> tuple[HostCpu, ...]:
    """Return hosts that have all controls, and all but one: what shows any fault in the sets."""
    tables = [EVERYTHING]
    for index in WORDS.values():
        tables += [{**EVERYTHING, index: (ALL ^ 1 << bit) << 32} for bit in range(32)]
        tables += [{**EVERYTHING, index: EVERYTHING[index] | 1 << bit} for bit in range(32)]
    return tuple(HostCpu(table, has_sgx=True) for table in tables)


def inputs(count: int) -> Iterator[bytes]:
    """Yield what the mutator of the campaign makes of its seeds."""
    source = Random(4)
    mutate = mutator("capability_config", lambda data, _: data)
    cases = [load_case(path.read_bytes(), str(path)) for path in corpus_files("capability_config")]
    starts = [encode(case) for case in cases if isinstance(case, ConfigCase)]
    binary = [data for data in starts if not is_text(data)]
    for _ in range(count):
        data = source.choice(binary)
        for _ in range(source.randint(0, 8)):
            data = mutate(data, 512, source.getrandbits(31))
        yield data


def test_every_profile(real: KvmConfig) -> None:
    for name in profile_names():
        agreed(real, HostCpu.of(load_profile(name)))


def test_every_control_alone(real: KvmConfig) -> None:
    for host in hosts():
        agreed(real, host)
        agreed(real, replace(host, has_sgx=False, on_hyperv_evmcs=True))


def test_what_the_campaign_runs(real: KvmConfig) -> None:
    oracle = agreement(real)
    for data in inputs(TABLES):
        case = decode(data, "capability_config")
        assert isinstance(case, ConfigCase)
        given = replace(case, kernel=real.kernel)
        assert oracle.check(given, hardware_setup) is None, data.hex()


def test_every_model_and_stepping(real: KvmConfig) -> None:
    for model in range(256):
        for stepping in range(16):
            agreed(real, HostCpu(EVERYTHING, 6, model, stepping))


@pytest.mark.parametrize("family", [0, 5, 15, 16, 255, 261, 262, 263, 270])
def test_other_families(real: KvmConfig, family: int) -> None:
    for model, stepping in ((0x1A, 5), (0x2E, 6), (0x3A, 8), (0, 0)):
        agreed(real, HostCpu(EVERYTHING, family, model, stepping))


def test_absent_msrs(real: KvmConfig) -> None:
    agreed(real, HostCpu({}))
    for index in EVERYTHING:
        agreed(real, HostCpu({at: EVERYTHING[at] for at in EVERYTHING if at != index}))


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("part", ["required", "optional"])
def test_a_control_too_many_or_too_few_is_found(real: KvmConfig, word: str, part: str) -> None:
    kernel = find_kernel(real.kernel)
    controls = getattr(kernel, word)
    for bit in range(32):
        # KVM asks for it, and then drops it whatever the processor says.
        if word == "secondary" and part == "optional" and 1 << bit == Secondary.EPT_VIOLATION_VE:
            continue
        if part == "optional" and controls.required >> bit & 1:
            continue
        changed = replace(controls, **{part: getattr(controls, part) ^ 1 << bit})
        faulty = replace(kernel, **{word: changed})
        assert found(real, hosts(), faulty), f"bit {bit}"


def test_a_tertiary_control_too_many_or_too_few_is_found(real: KvmConfig) -> None:
    kernel = find_kernel(real.kernel)
    for bit in range(64):
        wrong = kernel.tertiary_optional ^ 1 << bit
        assert found(real, hosts(), replace(kernel, tertiary_optional=wrong))


def test_a_pair_that_is_not_compared_is_found(real: KvmConfig) -> None:
    kernel = find_kernel(real.kernel)
    pairs = kernel.entry_exit_pairs
    for number in range(len(pairs)):
        fewer = pairs[:number] + pairs[number + 1 :]
        assert found(real, hosts(), replace(kernel, entry_exit_pairs=fewer))


@pytest.mark.parametrize(
    "behaviour",
    [
        "has_error_on_inconsistent_vmcs_config",
        "trims_intercepts",
        "perf_global_ctrl_erratum_in_config",
        "caches_misc",
    ],
)
def test_another_behaviour_is_found(real: KvmConfig, behaviour: str) -> None:
    kernel = find_kernel(real.kernel)
    change: dict[str, Any] = {behaviour: not getattr(kernel, behaviour)}
    faulty = replace(kernel, **change)
    assert found(real, [*hosts(), HostCpu(EVERYTHING, 6, 0x1A, 5)], faulty)


def test_encls_exiting_without_sgx_is_found(real: KvmConfig) -> None:
    faulty = replace(find_kernel(real.kernel), filters_encls_after=False)
    must_be_1 = {**EVERYTHING, 0x48B: EVERYTHING[0x48B] | Secondary.ENABLE_ENCLS_EXITING}
    assert found(real, [HostCpu(must_be_1)], faulty)
    assert not found(real, [HostCpu(must_be_1, has_sgx=True)], faulty)


def test_a_control_without_a_field_of_the_enlightened_vmcs_is_found(real: KvmConfig) -> None:
    kernel = find_kernel(real.kernel)
    on_hyperv = HostCpu(EVERYTHING, has_sgx=True, on_hyperv_evmcs=True)
    if comparison(real, on_hyperv, PARAMS[0]).relation == "not-representable":
        pytest.skip(f"kvm-{real.kernel} was built without the enlightened VMCS")
    if kernel.evmcs is None:
        other = find_kernel("6.12").evmcs
        assert found(real, [on_hyperv], replace(kernel, evmcs=other))
        return
    for word in WORDS_OF_EVMCS:
        for bit in range(32):
            if word == "cpu_based_2nd_exec_ctrl" and 1 << bit == Secondary.EPT_VIOLATION_VE:
                continue
            keep = getattr(kernel.evmcs, word) ^ 1 << bit
            faulty = replace(kernel, evmcs=replace(kernel.evmcs, **{word: keep}))
            must_be_1 = [
                replace(on_hyperv, msrs={**EVERYTHING, index: EVERYTHING[index] | 1 << bit})
                for index in WORDS.values()
            ]
            assert found(real, must_be_1, faulty), f"{word} {bit}"


def test_the_answer_depends_on_nothing_but_the_host(real: KvmConfig) -> None:
    cases = [decode(data, "capability_config") for data in islice(inputs(300), 300)]
    subjects = []
    for case in cases:
        assert isinstance(case, ConfigCase)
        loading = loading_of(replace(case, kernel=real.kernel))
        subjects.append((loading.host, loading.kernel, loading.params))
    first = [real.observe(*subject) for subject in subjects]
    assert [real.observe(*subject) for subject in reversed(subjects)][::-1] == first


def test_the_real_function_keeps_what_the_model_promises(real: KvmConfig) -> None:
    for data in inputs(300):
        case = decode(data, "capability_config")
        assert isinstance(case, ConfigCase)
        # Without Hyper-V, so that any object can be asked.
        given = replace(case, kernel=real.kernel, evmcs=False)
        for oracle in ORACLES:
            assert oracle.check(given, real) is None, f"{oracle.name} {data.hex()}"


def test_another_kernel_is_not_asked(real: KvmConfig) -> None:
    with pytest.raises(InputError, match=r"no config: the kernel is"):
        real(HostCpu(EVERYTHING), find_kernel("5.18"), PARAMS[1])
