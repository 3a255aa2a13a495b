# SPDX-License-Identifier: GPL-2.0-only
"""The witness of configs: how a host is put to the object, and how its answer is read."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.source import find_kernel
from nvmxfuzz.kvm.vmcs_config import ConfigOutcome, KernelWarning, VmcsConfig
from nvmxfuzz.oracles.config.kvm_config import NoConfig
from nvmxfuzz.targets.kvm_native import native
from nvmxfuzz.targets.kvm_native.config import KvmConfig, config_witness
from nvmxfuzz.targets.kvm_native.config_log import warning_of
from nvmxfuzz.targets.kvm_native.results import CallResult, Stopped, Warn

KERNEL = find_kernel("6.12")
STRICT, LAX = ModuleParams(True), ModuleParams(False)
HOST = HostCpu({0x480: 1 << 55, 0x481: 0x16})


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("kvm: EPT CAP though not enabled", KernelWarning("ept_cap_without_control")),
        ("VPID CAP though not enabled", KernelWarning("vpid_cap_without_control")),
        ("a pair: entry = 8000, exit = 0", KernelWarning("entry_exit_pair", (0x8000, 0))),
        ("PERF_GLOBAL_CTRL: use a workaround", KernelWarning("perf_global_ctrl_erratum")),
        (
            "kvm_intel: pin_based_exec_ctrl not with eVMCS: 0xc0",
            KernelWarning("evmcs_unsupported.pin_based_exec_ctrl", (0xC0,)),
        ),
        (
            "cpu_based_3rd_exec_ctrl not with eVMCS: 0x8000000000000010",
            KernelWarning("evmcs_unsupported.cpu_based_3rd_exec_ctrl", (0x8000_0000_0000_0010,)),
        ),
        ("EPT is fine", KernelWarning("unrecognised.EPT is fine")),
        ("", KernelWarning("unrecognised.")),
        ("there is an Enlightened VMCS", None),
    ],
)
def test_a_line_is_told_by_a_few_words(line: str, warning: KernelWarning | None) -> None:
    assert warning_of(line) == warning


@pytest.mark.parametrize(
    ("target", "said"), [("bochs", "harness vm_entry"), ("kvm-5.18", "no target is named")]
)
def test_only_kernels_make_configs(target: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        config_witness(target)


class Cell:
    """A parameter."""

    value = -1


class Scripted:
    """In place of a library: writes down what it is told, and answers as it was told."""

    def __init__(self, error: int = 0, result: CallResult | None = None, hyperv: int = 0) -> None:
        self.error, self.answer, self.hyperv = error, result, hyperv
        self.told: list[tuple[Any, ...]] = []
        self.parameters = {"error_on_inconsistent_vmcs_config": Cell(), "enlightened_vmcs": Cell()}
        self.functions = self.reader = self
        self.words = memoryview(native.Result()).cast("B").cast("I")

    def nvmx_set_hyperv_evmcs(self, on: int) -> int:
        """Take whether there is an enlightened VMCS."""
        self.told.append(("evmcs", bool(on)))
        return self.hyperv

    def nvmx_set_msrs(self, table: bytes, count: int) -> None:
        """Take a table of MSRs."""
        entries = (native.Msr * count).from_buffer_copy(table)
        self.told.append(("msrs", {entry.index: entry.value for entry in entries}))

    def nvmx_forget_once(self) -> None:
        """Take that warnings are wanted again."""
        self.told.append(("forget",))

    def set_cpuid(self, leaves: tuple[tuple[int, ...], ...]) -> None:
        """Take EAX of each leaf."""
        self.told.append(("cpuid", {leaf[0]: leaf[2] for leaf in leaves}))

    def call(self, *arguments: object) -> int:
        """Take a guarded call."""
        self.told.append(arguments)
        return 0

    def restore(self) -> None:
        """Take that the state is restored."""
        self.told.append(("restore",))

    def result(self) -> CallResult | None:
        """Return what a test has put here."""
        return self.answer

    def prepare(self, name: str) -> Callable[[int], int]:
        """Return a function that fills the structure with the numbers of its members."""
        assert name == "nvmx_setup_vmcs_config"

        def setup(address: int) -> int:
            if self.answer is not None and self.answer.status != "returned":
                raise Stopped(self.answer)
            config = native.Config.from_address(address)
            for number, (field, _) in enumerate(native.Config._fields_):
                setattr(config, field, number)
            config.error = self.error
            return self.error

        return setup

    def noisy(self, result: CallResult) -> None:
        """Let there be a result that has something to tell."""
        raw = native.Result.from_buffer(self.words)
        raw.lines, raw.warnings = result.line_count, result.warning_count
        raw.unknown_msrs, raw.unknown_msr = result.unknown_msrs, result.first_unknown_msr or 0
        self.answer = result

    def last(self, kind: str) -> Any:  # noqa: ANN401
        """Return what was told last of a kind."""
        return next(told[1] for told in reversed(self.told) if told[0] == kind)


def witness(library: Scripted) -> KvmConfig:
    return KvmConfig(library, "6.12")  # type: ignore[arg-type]


def test_the_words_are_read_in_their_order() -> None:
    library = Scripted()
    expected = ConfigOutcome(VmcsConfig(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), 0, "", ())
    assert witness(library)(HOST, KERNEL, STRICT) == expected
    assert library.last("msrs") == dict(HOST.msrs)
    assert library.told[-1] == ("forget",)
    assert witness(Scripted(error=-5))(HOST, KERNEL, STRICT) == ConfigOutcome(None, -5, "", ())


@pytest.mark.parametrize(
    ("family", "model", "signature"),
    [(6, 0x55, 0x50657), (6, 0x1A, 0x106A7), (15, 6, 0xF67), (16, 2, 0x100F27), (5, 1, 0x517)],
)
def test_the_signature_of_the_processor(family: int, model: int, signature: int) -> None:
    library = Scripted()
    observe = witness(library).observe
    observe(HostCpu({}, family, model, 7, has_sgx=True), KERNEL, STRICT)
    leaves = library.last("cpuid")
    assert leaves[1] == signature
    assert leaves[0x12] == 1
    assert ("nvmx_init_cpu", family, model, 7) in library.told
    observe(HostCpu({}, family, model, 7), KERNEL, STRICT)
    assert library.last("cpuid")[0x12] == 0


def test_the_processor_is_put_in_place_once() -> None:
    library = Scripted()
    observe = witness(library).observe
    for msrs in ({0x480: 1}, {0x480: 2}):
        observe(HostCpu(msrs), KERNEL, STRICT)
    assert sum(told[0] == "cpuid" for told in library.told) == 1
    assert sum(told[0] == "msrs" for told in library.told) == 2


def test_the_parameters() -> None:
    library = Scripted()
    observe = witness(library).observe
    on_hyperv = HostCpu({}, on_hyperv_evmcs=True)
    cells = library.parameters.values()
    for host, params, evmcs in (
        (on_hyperv, STRICT, True),
        (on_hyperv, ModuleParams(True, enlightened_vmcs=False), True),
        (HOST, LAX, False),
    ):
        observe(host, KERNEL, params)
        expected = [params.error_on_inconsistent_vmcs_config, params.enlightened_vmcs]
        assert [cell.value for cell in cells] == expected
        assert library.last("evmcs") is evmcs


def test_without_hyperv_the_enlightened_vmcs_is_not_representable() -> None:
    observe = witness(Scripted(hyperv=-1)).observe
    on_hyperv = HostCpu({}, on_hyperv_evmcs=True)
    seen = observe(on_hyperv, KERNEL, STRICT)
    assert isinstance(seen, NoConfig)
    assert seen.relation == "not-representable"
    assert isinstance(observe(on_hyperv, KERNEL, ModuleParams(True, False)), ConfigOutcome)
    assert isinstance(observe(HOST, find_kernel("6.1"), STRICT), NoConfig)


def test_the_log_is_read() -> None:
    library = Scripted()
    observe = witness(library).observe
    library.noisy(
        CallResult(
            0,
            "returned",
            log=("EPT CAP", "hello"),
            line_count=3,
            warnings=(Warn("arch/x86/kvm/x86.c", 7),),
            warning_count=1,
            unknown_msrs=2,
            first_unknown_msr=0x481,
        )
    )
    seen = observe(HOST, KERNEL, STRICT)
    assert isinstance(seen, ConfigOutcome)
    assert seen.warnings == (
        KernelWarning("unchecked_rdmsr", (0x481,)),
        KernelWarning("ept_cap_without_control"),
        KernelWarning("unrecognised.hello"),
        KernelWarning("warn.arch/x86/kvm/x86.c:7"),
        KernelWarning("unrecognised.one line of too many"),
    )


def test_what_does_not_return_is_told_and_all_is_put_in_place_again() -> None:
    library = Scripted(result=CallResult(0, "bug", "arch/x86/kvm/vmx/vmx.c:7"))
    observe = witness(library).observe
    assert observe(HOST, KERNEL, STRICT) == NoConfig("stopped", "BUG at arch/x86/kvm/vmx/vmx.c:7")
    assert library.told[-1] == ("restore",)
    library.answer = None
    assert isinstance(observe(HOST, KERNEL, STRICT), ConfigOutcome)
    assert sum(told[0] == "cpuid" for told in library.told) == 2


def test_the_layout_of_the_answer_is_that_of_the_structure() -> None:
    assert ctypes.sizeof(native.Config) == 88
