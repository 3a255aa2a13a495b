# SPDX-License-Identifier: GPL-2.0-only
"""Straight into kvm_intel, for fast loops: the config, the checks on vmcs12, nested_vmx_run().

An image is what `Vmcs12Layout.pack` makes. Each call leaves its outcome in a structure that is
allocated once; numbers are returned, and values are made of the rest when asked for. All calls
raise Stopped if they do not return.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.arch.events import Interruptibility
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.targets.kvm_native import native
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.results import Check

CONFIG_WORDS: Final = tuple([name for name, _ in native.Config._fields_[1:]])
"""The names of the words of a config: struct vmcs_config and struct vmx_capability."""

PASSED: Final = 0
CONTROLS: Final = 1
HOST_STATE: Final = 2
GUEST_STATE: Final = 3

_CONFIG: Final = struct.Struct(f"<8x{len(CONFIG_WORDS)}Q")
_RAN: Final = struct.Struct("<iIQQIIQQIIII")
_RAN_WHOLE: Final = struct.Struct(_RAN.format + "QQ")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What KVM's checks say of a vmcs12: the stage at which one failed (0 is none), and which.

    `code` is the entry failure code of the guest-state stage (enum vm_entry_failure_code).
    """

    stage: int
    code: int
    check: Check | None


@dataclass(frozen=True, slots=True)
class Ran:
    """What nested_vmx_run() came to: its value, the state of L1 and vmcs12 after it.

    `exception` is the vector of a pending exception with bit 8 set, or 0; `exit_to_user` is
    kvm_run->exit_reason where `value` is 0. `check` is the first one that failed.
    """

    check: Check | None
    value: int
    in_l2: bool
    rflags: int
    rip: int
    instruction_error: int
    exit_reason: int
    exit_qualification: int
    requests: int
    exception: int
    mp_state: int
    launch_state: int
    exit_to_user: int


class ConfigSetup:
    """setup_vmcs_config() on the MSRs that the library's hardware has."""

    def __init__(self, library: Library) -> None:
        self._config = native.Config()
        self._address = ctypes.addressof(self._config)
        self._setup = library.prepare("nvmx_setup_vmcs_config")

    def run(self) -> int:
        """Set up a config: 0 or a negative errno."""
        return self._setup(self._address)

    def words(self) -> tuple[int, ...]:
        """Return the words of the config that `run` made, as `CONFIG_WORDS` names them."""
        return _CONFIG.unpack_from(self._config)


class Direct:
    """The calls that need a vCPU. A check reads the cached vmcs12, where the image is put first."""

    def __init__(self, library: Library, vcpu: int) -> None:
        """Take the struct kvm_vcpu of a vCPU, which must live on."""
        self._library = library
        self._text = library.reader.text
        self.vcpu = vcpu
        self.verdict_seen = native.Verdict()
        self.ran_seen = native.Ran()
        self._verdict = ctypes.addressof(self.verdict_seen)
        self._ran = ctypes.addressof(self.ran_seen)
        self._code = ctypes.c_uint32()
        self._value = ctypes.c_uint64()
        self._controls = library.prepare("nvmx_check_controls")
        self._address_space_size = library.prepare("nvmx_check_address_space_size")
        self._host_state = library.prepare("nvmx_check_host_state")
        self._guest_state = library.prepare("nvmx_check_guest_state")
        self._check = library.prepare("nvmx_check")
        self._run = library.prepare("nvmx_run")
        self._run_l2 = library.prepare("nvmx_run_l2")
        self._run_loop = library.prepare("nvmx_run_loop")
        self._reset = library.prepare("nvmx_reset_l1")
        self._set_vmx_msr = library.prepare("nvmx_set_vmx_msr")
        self._get_vmx_msr = library.prepare("nvmx_get_vmx_msr")

    def check_controls(self, image: bytes) -> int:
        """Call nested_vmx_check_controls(): 0 or a negative errno."""
        return self._controls(self.vcpu, image)

    def check_address_space_size(self, image: bytes) -> int:
        """Call nested_vmx_check_address_space_size(): 0 or a negative errno."""
        return self._address_space_size(self.vcpu, image)

    def check_host_state(self, image: bytes) -> int:
        """Call nested_vmx_check_host_state(): 0 or a negative errno."""
        return self._host_state(self.vcpu, image)

    def check_guest_state(self, image: bytes) -> int:
        """Call nested_vmx_check_guest_state(): 0 or a negative errno."""
        return self._guest_state(self.vcpu, image, ctypes.byref(self._code))

    @property
    def guest_state_code(self) -> int:
        """The entry failure code that `check_guest_state` found."""
        return int(self._code.value)

    def check(self, image: bytes) -> int:
        """Make all checks in KVM's order; return the stage at which one failed, 0 if none did."""
        return self._check(self.vcpu, image, self._verdict)

    def verdict(self) -> Verdict:
        """Return what `check` found."""
        return self.verdict_of(self.verdict_seen)

    def run(self, image: bytes, launch: bool = True) -> int:
        """Call nested_vmx_run() for VMLAUNCH or VMRESUME in the L1 of the last `reset_l1`."""
        return self._run(self.vcpu, image, launch, self._ran)

    def run_l2(self, file: int) -> int:
        """Call KVM_RUN of the vCPU, whose file this is, in the L2 that `run` came to.

        Return 0 or a negative errno; `ran` is what L1 finds then.
        """
        return self._run_l2(self.vcpu, file, self._ran)

    def loop(self, file: int, below: native.Below | None) -> native.Loop:
        """Return what `run_loop` needs of the vCPU and the processor below; it is for good.

        Where nothing is below, L2 is not run.
        """
        place = None if below is None else ctypes.addressof(below)
        return native.Loop(self.vcpu, place, self._ran, file)

    def run_loop(self, loop: native.Loop, l1: native.L1, image: bytes, launch: bool) -> int:
        """Do what `reset_l1`, `run` and, if nothing was said until then, `run_l2` do.

        Return 0 if it was not, 1 if it was and KVM_RUN has returned 0, else the negative errno.
        """
        return self._run_loop(ctypes.byref(loop), ctypes.byref(l1), image, launch)

    def ran(self) -> Ran:
        """Return what `run` came to."""
        return self.ran_of(self.ran_seen)

    def numbers(self) -> tuple[int, ...]:
        """Return the numbers of what `run` came to, as `Ran` names them: it costs less."""
        return _RAN.unpack_from(self.ran_seen)

    def reset_l1(self, l1: native.L1) -> int:
        """Leave L2, drop what is pending and put L1 into a state: 0 or a negative errno."""
        return self._reset(self.vcpu, ctypes.byref(l1))

    def set_vmx_msr(self, index: int, value: int) -> int:
        """Call vmx_set_vmx_msr(), as a migration does: 0 or a negative errno."""
        return self._set_vmx_msr(self.vcpu, index, value)

    def get_vmx_msr(self, index: int) -> int | None:
        """Return a capability MSR of L1 by vmx_get_vmx_msr(), None if it refuses."""
        refused = self._get_vmx_msr(self.vcpu, index, ctypes.byref(self._value))
        return None if refused else int(self._value.value)

    def verdict_of(self, seen: native.Verdict) -> Verdict:
        """Return the value of a verdict."""
        return Verdict(seen.stage, seen.code, self._first(seen, seen.code))

    def ran_of(self, seen: native.Ran) -> Ran:
        """Return the value of an outcome."""
        value, in_l2, *numbers = _RAN.unpack_from(seen)
        return Ran(self._first(seen, 0), value, in_l2 != 0, *numbers)

    def _first(self, seen: native.Verdict | native.Ran, code: int) -> Check | None:
        return Check(self._text(seen.text), self._text(seen.where), code) if seen.text else None


class Batch:
    """Many images in one call: `images` is a buffer of them, one behind the other."""

    def __init__(self, library: Library, direct: Direct, size: int, capacity: int) -> None:
        """Make room for `capacity` images of `size` bytes, and what comes of them."""
        self._direct = direct
        self.size = size
        self.capacity = capacity
        self.images = bytearray(size * capacity)
        self.verdicts = (native.Verdict * capacity)()
        self.rans = (native.Ran * capacity)()
        self._images = ctypes.addressof(ctypes.c_char.from_buffer(self.images))
        self._check = library.prepare("nvmx_check_batch")
        self._run = library.prepare("nvmx_run_batch")

    def put(self, index: int, image: bytes) -> None:
        """Make an image the one at `index`."""
        self.images[index * self.size : (index + 1) * self.size] = image

    def check(self, count: int) -> int:
        """Check the first images; return how many failed. `verdict` tells more."""
        self._bounded(count)
        return self._check(self._direct.vcpu, self._images, count, ctypes.addressof(self.verdicts))

    def run(self, count: int, l1: native.L1) -> int:
        """Run the first images, each in the L1 given; return how many entered L2."""
        self._bounded(count)
        return self._run(
            self._direct.vcpu, self._images, count, ctypes.addressof(self.rans), ctypes.byref(l1)
        )

    def verdict(self, index: int) -> Verdict:
        """Return what `check` found of an image."""
        return self._direct.verdict_of(self.verdicts[index])

    def ran(self, index: int) -> Ran:
        """Return what `run` of an image came to."""
        return self._direct.ran_of(self.rans[index])

    def numbers(self, count: int) -> Iterator[tuple[int, ...]]:
        """Return the numbers of what `run` of the first images came to, as `Ran` names them.

        Behind them stand the addresses of the check and its function: 0 if none failed.
        """
        self._bounded(count)
        return _RAN_WHOLE.iter_unpack(memoryview(self.rans).cast("B")[: count * _RAN_WHOLE.size])

    def _bounded(self, count: int) -> None:
        if not 0 <= count <= self.capacity:
            raise ValueError(f"a batch of {count} where there is room for {self.capacity}")


def l1_of(processor: Processor) -> native.L1:
    """Return the hypervisor that executes VM entry, as `Direct.reset_l1` takes it."""
    return native.L1(
        processor.cr0,
        processor.cr3,
        processor.cr4,
        processor.efer,
        processor.rflags,
        processor.vmxon_pointer,
        processor.current_vmcs,
        processor.cpl,
        processor.cs_l,
        Interruptibility.BLOCKING_BY_MOV_SS if processor.blocking_by_mov_ss else 0,
        0,
    )
