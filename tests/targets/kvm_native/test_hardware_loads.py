# SPDX-License-Identifier: GPL-2.0-only
"""KVM loads on what a processor like a profile looks like, and asks for nothing absent."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace

import pytest

from nvmxfuzz.machine.profile import load_profile, profile_names
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.hardware import Hardware, hardware_of
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.results import CallResult
from nvmxfuzz.targets.kvm_native.vm import Machine

# None of these lets VM exits return to a 64-bit kernel.
TOO_OLD = frozenset({"core-duo-t2600", "kvm-virtual", "yonah"})


def lives(library: Library, hardware: Hardware) -> Iterator[CallResult]:
    """Load the modules, make a VM and a vCPU, and yield what came of each step."""
    machine = Machine(library, hardware)
    yield library.result()
    vm = machine.create_vm()
    yield library.result()
    vcpu = vm.create_vcpu()
    yield library.result()
    vcpu.set_cpuid(machine.supported_cpuid())
    yield library.result()


@pytest.mark.parametrize("name", profile_names())
def test_kvm_loads_on_every_64_bit_profile(library: Library, name: str) -> None:
    hardware = hardware_of(load_profile(name))
    if name in TOO_OLD:
        with pytest.raises(IoctlError) as refused:
            Machine(library, hardware)
        assert refused.value.errno == errno.EIO
        assert str(refused.value) == "insmod: EIO"
        return
    assert [result.first_unknown_msr for result in lives(library, hardware)] == [None] * 4


def test_kvm_has_nothing_to_warn_of(library: Library) -> None:
    for name in set(profile_names()) - TOO_OLD:
        library.restore()
        for result in lives(library, hardware_of(load_profile(name))):
            assert result.warnings == (), name


def test_parameters_reach_the_modules(library: Library) -> None:
    hardware = hardware_of(load_profile("skylake-x"))
    machine = Machine(library, hardware, {"nested": 0})
    assert 0x480 not in machine.feature_msr_indices()
    library.restore()
    assert 0x480 in Machine(library, hardware, {"nested": 1}).feature_msr_indices()


def test_loading_and_unloading_again_and_again_needs_no_more_memory(library: Library) -> None:
    hardware = hardware_of(load_profile("skylake-x"))
    used = []
    # Freed memory rests for a while before it is used again: the first rounds take new memory.
    for _ in range(80):
        hardware.install(library)
        assert library.call("nvmx_insmod") == 0
        assert library.call("nvmx_rmmod") == 0
        used.append(library.heap_used())
    assert used[-1] == used[40]


def test_modules_can_be_loaded_again_with_other_parameters(library: Library) -> None:
    hardware = hardware_of(load_profile("skylake-x"))
    Machine(library, hardware, {"nested": 0}).unload()
    assert 0x480 in Machine(library, hardware, {"nested": 1}).feature_msr_indices()


def test_modules_can_be_unloaded_after_the_last_vm(library: Library) -> None:
    machine = Machine(library, hardware_of(load_profile("skylake-x")))
    vm = machine.create_vm()
    vcpu = vm.create_vcpu()
    # The vCPU keeps its VM alive.
    for file in (vm.file, vcpu.file):
        with pytest.raises(IoctlError, match="rmmod: EBUSY"):
            machine.unload()
        assert library.call("nvmx_close", file) == 0
    machine.unload()
    assert library.call("nvmx_ioctl", machine.file, 0xAE00, 0) == -errno.EBADF
    assert library.call("nvmx_open_kvm") == -errno.ENODEV


@pytest.mark.parametrize("counters", [33, 255])
def test_no_more_counters_are_reported_than_perf_knows(library: Library, counters: int) -> None:
    hardware = hardware_of(load_profile("skylake-x"))
    cpuid = tuple(
        leaf._replace(eax=leaf.eax & ~0xFF00 | counters << 8, edx=leaf.edx | 0x1F)
        if leaf.leaf == 0xA
        else leaf
        for leaf in hardware.cpuid
    )
    machine = Machine(library, replace(hardware, cpuid=cpuid))
    (found,) = (entry for entry in machine.supported_cpuid() if entry.function == 0xA)
    # Since 6.3 KVM has a limit of its own.
    assert found.eax >> 8 & 0xFF == (32 if library.kernel_version < (6, 3) else 8)
    assert found.edx & 0x1F == 3


def test_feature_msrs_tell_what_kvm_could_offer(library: Library) -> None:
    machine = Machine(library, hardware_of(load_profile("skylake-x")))
    indices = machine.feature_msr_indices()
    assert len(machine.feature_msrs(indices)) == len(indices)
    assert machine.feature_msrs([0x480, 0xDEAD, 0x481]) == machine.feature_msrs([0x480])
