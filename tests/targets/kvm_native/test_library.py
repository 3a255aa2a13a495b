# SPDX-License-Identifier: GPL-2.0-only
"""Instances of KVM: what ends a call, snapshots, parameters, and that nothing leaks out of them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import resources

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.ioctl_numbers import KVM_RUN
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.native import Entry
from nvmxfuzz.targets.kvm_native.results import CallResult, CallStatus, Stopped
from nvmxfuzz.targets.kvm_native.vm import fresh

HARDWARE = hardware_of(load_profile("skylake-x"))


EXIT_REASON = 0x4402
HLT = 12


@pytest.fixture(autouse=True)
def settings(library: Library) -> Iterator[None]:
    limits = library.step_limit, library.seconds
    library.set_port(None)
    yield
    library.step_limit, library.seconds = limits
    library.set_port(None)


def header_plants() -> dict[str, int]:
    header = (resources.files("nvmxfuzz.targets.kvm_native") / "shim/nvmx.h").read_text()
    names = re.findall(r"\tNVMX_PLANT_(\w+)", header)
    return {name: number for number, name in enumerate(names, 1)}


PLANTS = header_plants()


def stop(library: Library, name: str, *arguments: int) -> CallResult:
    with pytest.raises(Stopped) as caught:
        library.call(name, *arguments)
    return caught.value.result


def test_the_version_is_one_of_those_that_are_built(library: Library) -> None:
    assert library.kernel_version[:2] in ((6, 1), (6, 12))


@pytest.mark.parametrize(
    ("plant", "status", "said"),
    [
        ("BUG", "bug", r"BUG at .*kernel_files\.c:\d+"),
        ("UNRESOLVED", "unresolved", "nvmx_selftest is called, which nothing defines"),
        ("WILD", "signal", r"SIGSEGV in nvmx_selftest\S*\+0x\w+, .*, for address "),
        ("DIVIDE", "signal", r"SIGFPE in nvmx_selftest_kernel\S*\+0x"),
        ("PAGE_OVERRUN", "signal", r"SIGSEGV in nvmx_selftest\S*\+0x"),
        ("RECURSION", "signal", r"SIGSEGV in recurse\S*\+0x"),
        ("TIME", "time", "no end within the time limit"),
        ("STEPS", "steps", "no end after "),
        ("OVERRUN", "heap", "heap damage: .*100"),
        ("USE_AFTER_FREE", "heap", "heap damage: "),
        ("DOUBLE_FREE", "heap", "heap damage: "),
    ],
)
def test_what_ends_a_call_is_a_result(
    library: Library, plant: str, status: CallStatus, said: str
) -> None:
    library.seconds = 1
    result = stop(library, "nvmx_selftest", PLANTS[plant])
    assert result.status == status
    assert re.match(said, result.sentence())
    library.restore()
    HARDWARE.install(library)
    assert library.call("nvmx_insmod") == 0


def test_a_warning_is_no_stop(library: Library) -> None:
    assert library.call("nvmx_selftest", PLANTS["WARN"]) == 0
    result = library.result()
    assert result.status == "returned"
    assert result.warning_count == len(result.warnings) == 1
    assert library.reader.words[library.reader.WARNINGS] == 1
    assert result.warnings[0].file.endswith("kernel_files.c")
    library.call("nvmx_open_kvm")
    assert library.result().warnings == ()


def test_what_warns_once_can_be_asked_to_do_so_again(library: Library) -> None:
    warned = []
    for step in range(3):
        library.call("nvmx_selftest", PLANTS["WARN_ONCE"])
        warned.append(library.result().warning_count)
        if step:
            library.forget_once()
    assert warned == [1, 0, 1]


def test_the_log_has_no_addresses(library: Library) -> None:
    library.call("nvmx_selftest", PLANTS["PRINTK"])
    (line,) = library.result().log
    assert line.endswith("planted 00ab text 7  |5 (pointer)")


def test_a_copy_from_nowhere_is_an_error_of_the_kernel(library: Library) -> None:
    assert library.call("nvmx_selftest", PLANTS["USER_FAULT"]) == 0


def test_after_a_stop_only_restoring_helps(library: Library) -> None:
    stop(library, "nvmx_selftest", PLANTS["BUG"])
    assert library.stopped
    with pytest.raises(RuntimeError, match="restore a snapshot before the next one"):
        library.call("nvmx_insmod")
    with pytest.raises(RuntimeError, match="restore a snapshot before the next one"):
        library.snapshot()
    library.restore()
    assert not library.stopped
    HARDWARE.install(library)
    assert library.call("nvmx_insmod") == 0


def test_a_null_pointer_is_told_with_its_place(library: Library) -> None:
    HARDWARE.install(library)
    assert library.call("nvmx_insmod") == 0
    result = stop(library, "nvmx_set_vmx_msr", 0, 0x480, 0)
    assert result.status == "signal"
    assert result.place != "?"
    assert result.fault_address is not None


def test_too_few_steps_stop_a_load(library: Library) -> None:
    HARDWARE.install(library)
    library.step_limit = 3
    assert stop(library, "nvmx_insmod").status == "steps"
    library.restore()
    assert library.step_limit == 3


def test_a_snapshot_brings_everything_back(library: Library) -> None:
    HARDWARE.install(library)
    name = next(name for name, one in library.parameters.items() if one.is_bool)
    value = library.parameters[name].value
    before = library.snapshot()
    used = library.heap_used()
    assert library.call("nvmx_insmod") == 0
    memory = library.call("nvmx_guest_ram", 1 << 20)
    library.parameters[name] = 1 - value
    library.set_msr(0x480, 7)
    after = library.snapshot()
    assert library.heap_used() > used
    library.restore(before)
    assert (library.heap_used(), library.parameters[name].value) == (used, value)
    assert library.get_msr(0x480) == dict(HARDWARE.msrs)[0x480]
    assert library.call("nvmx_insmod") == 0
    assert library.call("nvmx_guest_ram", 1 << 20) == memory
    library.restore(after)
    assert (library.parameters[name].value, library.get_msr(0x480)) == (1 - value, 7)
    library.discard(after)
    library.discard(before)
    for number in (after, 9999, -1):
        with pytest.raises(ValueError, match=f"there is no snapshot {number}"):
            library.restore(number)


def test_snapshots_can_be_made_and_discarded_without_end(library: Library) -> None:
    numbers = set()
    for _ in range(200):
        numbers.add(library.snapshot())
        library.discard(max(numbers))
    assert len(numbers) <= 200


def test_parameters_have_the_names_of_the_modules(library: Library) -> None:
    assert {"ept", "unrestricted_guest", "nested", "enable_shadow_vmcs"} <= set(library.parameters)
    with pytest.raises(InputError, match="has no parameter 'epp'"):
        library.parameters["epp"] = 1


def test_parameters_are_read_at_insmod(library: Library) -> None:
    HARDWARE.install(library)
    library.parameters["ept"] = 0
    assert library.call("nvmx_insmod") == 0
    assert library.parameters["unrestricted_guest"].value == 0


def test_a_second_library_is_a_second_instance(library: Library, built: BuiltObject) -> None:
    other = Library(built.path, built.symbols)
    other.parameters["ept"] = 1 - library.parameters["ept"].value
    assert other.parameters["ept"].value != library.parameters["ept"].value
    # What one does to the handlers of signals does not harm the other.
    for one in (library, other, library):
        assert stop(one, "nvmx_selftest", PLANTS["WILD"]).status == "signal"
        one.restore()


@pytest.mark.parametrize("plant", ["BUG", "WILD", "RECURSION", "OVERRUN", "WARN", "PRINTK"])
def test_two_instances_say_the_same(library: Library, built: BuiltObject, plant: str) -> None:
    results = []
    for one in (library, Library(built.path, built.symbols)):
        with suppress(Stopped):
            one.call("nvmx_selftest", PLANTS[plant])
        results.append(one.result())
    assert results[0] == results[1]
    assert pickle.loads(pickle.dumps(results[0])) == results[0]


def test_a_plain_object_has_no_counters(library: Library) -> None:
    assert library.counters()[2] == 0


def test_msrs_of_the_hardware(library: Library) -> None:
    library.set_msrs([(0x480, 1 << 63), (0x10A, 5)])
    assert [library.get_msr(index) for index in (0x480, 0x10A, 0x481)] == [1 << 63, 5, None]
    library.set_msr(0x481, 7)
    assert library.get_msr(0x481) == 7
    library.set_msrs([])
    assert library.get_msr(0x480) is None


@pytest.fixture
def enter(library: Library) -> Callable[[], int]:
    """Return a function that lets KVM enter a guest once."""
    vcpu = fresh(library, HARDWARE).vcpu
    return lambda: library.call("nvmx_ioctl", vcpu.file, KVM_RUN, 0)


def test_without_a_port_there_is_no_processor(library: Library, enter: Callable[[], int]) -> None:
    with pytest.raises(Stopped, match="hardware port: no port at entry 0") as caught:
        enter()
    assert caught.value.__cause__ is None
    assert library.result().status == "port"


def test_what_the_port_raises_is_the_cause(library: Library, enter: Callable[[], int]) -> None:
    def port(_entry: Entry) -> int:
        raise KeyError("no such processor")

    library.set_port(port)
    with pytest.raises(Stopped) as caught:
        enter()
    assert caught.value.result.status == "port"
    assert isinstance(caught.value.__cause__, KeyError)
    library.restore()
    # Nothing is left of it for later calls.
    assert isinstance(stop(library, "nvmx_selftest", PLANTS["BUG"]), CallResult)


def test_the_port_cannot_make_guarded_calls(library: Library, enter: Callable[[], int]) -> None:
    said = []

    def port(entry: Entry) -> int:
        for action in (lambda: library.call("nvmx_insmod"), library.snapshot, library.restore):
            with pytest.raises(RuntimeError) as caught:
                action()
            said.append(str(caught.value))
        library.functions.nvmx_vmcs_write(entry.vmcs, EXIT_REASON, HLT)
        return 0

    library.set_port(port)
    assert enter() == 0
    sentence = "the hardware port cannot call what is guarded: KVM is in the middle of a call"
    assert said == [sentence] * 3
    assert library.call("nvmx_open_kvm") >= 0


def test_an_interrupt_gets_through_the_port(library: Library, enter: Callable[[], int]) -> None:
    def port(_entry: Entry) -> int:
        raise KeyboardInterrupt

    library.set_port(port)
    with pytest.raises(KeyboardInterrupt):
        enter()
    assert library.stopped


def test_what_cannot_be_loaded_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("broken") / "libkvm.so"
    path.write_bytes(b"\x7fELF and no more")
    with pytest.raises(InputError, match=r"the built object libkvm\.so cannot be loaded"):
        Library(path)


def test_debug_registers_and_the_interrupt_flag_of_the_host(library: Library) -> None:
    functions = library.functions
    assert (functions.nvmx_get_dr(7), functions.nvmx_get_rflags_if()) == (0x400, 0x200)
    for number in (0, 6, 7):
        functions.nvmx_set_dr(number, 0x202)
        # Bit 10 of DR7 reads as 1.
        assert functions.nvmx_get_dr(number) == (0x602 if number == 7 else 0x202)
    for number in (-1, 8):
        functions.nvmx_set_dr(number, 0x202)
        assert functions.nvmx_get_dr(number) == 0
    for on in (0, 1):
        functions.nvmx_set_rflags_if(on)
        assert functions.nvmx_get_rflags_if() == (0x200 if on else 0)
    library.restore()
    assert (functions.nvmx_get_dr(0), functions.nvmx_get_dr(7)) == (0, 0x400)
