# SPDX-License-Identifier: GPL-2.0-only
"""KVM of one kernel whose calls are traced: L1 enters L2 twice, with the dry run or without.

L1 executes VMLAUNCH, L2 leaves by VMCALL, L1 executes VMRESUME and L2 leaves again: all of that is
one KVM_RUN.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs import places
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native.bench.calls import ENTRY, Call, tree
from nvmxfuzz.targets.kvm_native.bench.missing import MissingChecks
from nvmxfuzz.targets.kvm_native.bench.stepping import trace
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject
from nvmxfuzz.targets.kvm_native.direct import Direct
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.port import VMCALL, FailedEntry, Script
from nvmxfuzz.targets.kvm_native.symbols import Symbols, code_of
from nvmxfuzz.targets.kvm_native.virtual import virtual_profile
from nvmxfuzz.targets.kvm_native.vm import Fresh, fresh
from nvmxfuzz.targets.kvm_native.vmcs12 import Vmcs12Layout

PROFILE: Final = "skylake-x"
"""The processor below KVM."""
DRY_RUN: Final = "nested_early_check"
"""The module parameter that turns the dry run on."""
RUN: Final = "nested_vmx_run"

_ADDRESS_SPACE: Final = "nvmx_check_address_space_size"
_ZERO_PAGE: Final = bytes(0x1000)


class Session:
    """The object in this process; each trace is that of a child. `virtual` is L1's processor."""

    def __init__(self, built: BuiltObject) -> None:
        """Load the object."""
        self._library = Library.of(built)
        # Stepped through, a call takes as long as it takes.
        self._library.seconds = 0
        self._symbols = Symbols(built.symbols, code_of(built.path.read_bytes()))
        self._offsets = _offsets(built)
        known = ctypes.cast(self._library.functions.nvmx_kernel_version, ctypes.c_void_p)
        self._base = (known.value or 0) - self._offsets["nvmx_kernel_version"]
        host = load_profile(PROFILE)
        self._hardware = hardware_of(host)
        machine = fresh(self._library, self._hardware)
        l1.prepare(machine.vcpu, machine.vm.memory)
        self.virtual: Profile = virtual_profile(machine.vcpu, host, PROFILE)
        machine.discard()
        self._layout = Vmcs12Layout(self._library)
        self._missing = MissingChecks(self._layout.offsets)

    def runs(self, attempt: Attempt, dry_run: bool) -> list[Call]:
        """Return the calls of nested_vmx_run() for VMLAUNCH and VMRESUME."""
        machine = self._ready(attempt, dry_run)
        tested = (FailedEntry(ExitReason.INVALID_STATE),) if dry_run else ()
        script = Script(l1.VMLAUNCH, *tested, VMCALL, l1.VMRESUME, *tested, VMCALL, l1.OUT)
        found = [
            self._traced(RUN, lambda: machine.vcpu.run(script), number).calls[0]
            for number in (1, 2)
        ]
        machine.discard()
        if [run.count(ENTRY) for run in found] != [dry_run, dry_run] or any(map(_failed, found)):
            raise InputError("KVM refuses a VM entry that is to be counted: it cannot be")
        return found

    def address_space_size(self, attempt: Attempt) -> int:
        """Return the instructions of a check that its callers contain; those of a wrapper too."""
        machine = self._ready(attempt, False)
        direct = Direct(self._library, machine.vcpu.address)
        image = self._layout.pack(attempt.vmcs)
        called = self._traced(_ADDRESS_SPACE, lambda: direct.check_address_space_size(image))
        machine.discard()
        return called.calls[0].own

    def missing(self, attempt: Attempt) -> int:
        """Return the instructions of the checks that KVM does not make."""
        image = self._layout.pack(attempt.vmcs)
        return len(trace(lambda: self._missing.first(image, _ZERO_PAGE), self._missing.address))

    def _ready(self, attempt: Attempt, dry_run: bool) -> Fresh:
        """Return L1 before VMLAUNCH, with the VMCS of an attempt current."""
        machine = fresh(self._library, self._hardware, {DRY_RUN: int(dry_run)})
        memory = machine.vm.memory
        l1.prepare(machine.vcpu, memory)
        for address, data in attempt.memory.regions:
            memory.write(address, data)
        memory.write(places.CURRENT_VMCS, self._layout.pack(attempt.vmcs))
        machine.vcpu.run(Script(l1.vmxon(), l1.vmptrld(), l1.OUT))
        return machine

    def _traced(self, function: str, work: Callable[[], object], number: int = 1) -> Call:
        return tree(trace(work, self._base + self._offsets[function], number), self._place)

    def _place(self, address: int) -> str:
        return self._symbols.place(address - self._base)


def _failed(run: Call) -> bool:
    return run.count("nested_vmx_enter_non_root_mode") == 0


def _offsets(built: BuiltObject) -> dict[str, int]:
    """Return where functions lie in the object."""
    lines = (line.split() for line in built.symbols.read_text().splitlines())
    return {words[-1]: int(words[0], 16) for words in lines}
