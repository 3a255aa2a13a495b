# SPDX-License-Identifier: GPL-2.0-only
"""KVM on a processor, and virtual machines on it: insmod, /dev/kvm and the ioctls of a VM.

An error that KVM returns is an `IoctlError`. A call that does not return at all (BUG, a signal, a
loop) is a `Stopped` of `Library`, after which a snapshot is to be restored.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.guest_memory import GuestMemory, Slot
from nvmxfuzz.targets.kvm_native.hardware import Hardware
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.vcpu import Vcpu, get_msrs, ioctl

_MOST_CPUID: Final = 256
_MOST_MSRS: Final = 1024
_SMM_ADDRESS_SPACE: Final = 1 << 16
"""What the number of a slot has if it is for SMM."""
_TSS: Final = 0xFEFF_D000
"""Where QEMU puts the pages that real mode needs without unrestricted guests."""
RAM: Final = 4 << 20
"""How much memory a VM gets where nothing else is said, in bytes."""


class Machine:
    """A processor with KVM loaded, and its /dev/kvm."""

    def __init__(
        self, library: Library, hardware: Hardware, parameters: Mapping[str, int] | None = None
    ) -> None:
        """Load the modules with `parameters` on `hardware`; IoctlError "insmod" if they refuse.

        The library must not have them loaded: restore its pristine snapshot before.
        """
        self.library = library
        self.hardware = hardware
        hardware.install(library)
        for name, value in (parameters or {}).items():
            library.parameters[name] = value
        error = library.call("nvmx_insmod")
        if error:
            raise IoctlError(-error, "insmod")
        self.file = library.call("nvmx_open_kvm")

    def unload(self) -> None:
        """Unload the modules: rmmod; IoctlError EBUSY if there is a VM, and nothing is done.

        A VM is there until its file and those of its vCPUs are closed. /dev/kvm is closed by this.
        """
        error = self.library.call("nvmx_rmmod")
        if error:
            raise IoctlError(-error, "rmmod")
        self.library.call("nvmx_close", self.file)

    def check_extension(self, capability: int) -> int:
        """KVM_CHECK_EXTENSION: return 0 if there is no such capability."""
        return ioctl(self.library, self.file, io.KVM_CHECK_EXTENSION, capability)

    def api_version(self) -> int:
        """KVM_GET_API_VERSION."""
        return ioctl(self.library, self.file, io.KVM_GET_API_VERSION)

    def supported_cpuid(self) -> tuple[s.CpuidEntry, ...]:
        """KVM_GET_SUPPORTED_CPUID: what KVM would let a guest have."""
        table = s.counted(s.CpuidEntry, (), _MOST_CPUID)
        ioctl(self.library, self.file, io.KVM_GET_SUPPORTED_CPUID, ctypes.byref(table))
        return tuple(table.items[: table.count])

    def msr_indices(self) -> tuple[int, ...]:
        """KVM_GET_MSR_INDEX_LIST: which MSRs a guest has that user space has to save."""
        return self._indices(io.KVM_GET_MSR_INDEX_LIST)

    def feature_msr_indices(self) -> tuple[int, ...]:
        """KVM_GET_MSR_FEATURE_INDEX_LIST: which MSRs tell what KVM could offer."""
        return self._indices(io.KVM_GET_MSR_FEATURE_INDEX_LIST)

    def feature_msrs(self, indices: Sequence[int]) -> tuple[int, ...]:
        """KVM_GET_MSRS of /dev/kvm: the values up to the first MSR that KVM refuses."""
        return get_msrs(self.library, self.file, indices)

    def create_vm(self, ram: int = RAM) -> Vm:
        """KVM_CREATE_VM; with `ram` bytes of memory from address 0, unless that is 0."""
        vm = Vm(self, ioctl(self.library, self.file, io.KVM_CREATE_VM))
        if ram:
            vm.add_memory(0, 0, ram)
        return vm

    def _indices(self, command: int) -> tuple[int, ...]:
        table = s.index_list(_MOST_MSRS)
        ioctl(self.library, self.file, command, ctypes.byref(table))
        return tuple(table.indices[: table.count])


class Vm:
    """One virtual machine."""

    def __init__(self, machine: Machine, file: int) -> None:
        self.machine = machine
        self.library = machine.library
        self.file = file
        self.memory = GuestMemory()

    def add_memory(self, number: int, guest_address: int, size: int, flags: int = 0) -> Slot:
        """Give the guest `size` bytes of new memory, all zero, between pages that fault.

        In SMM it is there as well, which to KVM is an address space of its own.
        """
        host_address = self.library.call("nvmx_guest_ram", size)
        slot = Slot(number, guest_address, size, host_address)
        self.set_memory(slot, flags)
        if self.check_extension(io.KVM_CAP_MULTI_ADDRESS_SPACE) > 1:
            self._set_region(replace(slot, number=number | _SMM_ADDRESS_SPACE), flags)
        return slot

    def set_memory(self, slot: Slot, flags: int = 0) -> None:
        """KVM_SET_USER_MEMORY_REGION; a slot of size 0 is taken away."""
        self._set_region(slot, flags)
        if slot.size:
            self.memory.add(slot)
        else:
            self.memory.remove(slot.number)

    def _set_region(self, slot: Slot, flags: int) -> None:
        region = s.MemoryRegion(
            slot.number, flags, slot.guest_address, slot.size, slot.host_address
        )
        self._ioctl(io.KVM_SET_USER_MEMORY_REGION, ctypes.byref(region))

    def set_tss_address(self, address: int) -> None:
        """KVM_SET_TSS_ADDR: three pages that real mode needs without unrestricted guests."""
        self._ioctl(io.KVM_SET_TSS_ADDR, address)

    def create_irqchip(self) -> None:
        """KVM_CREATE_IRQCHIP: local APICs in the kernel; before the first vCPU."""
        self._ioctl(io.KVM_CREATE_IRQCHIP)

    def check_extension(self, capability: int) -> int:
        """KVM_CHECK_EXTENSION of this VM."""
        return self._ioctl(io.KVM_CHECK_EXTENSION, capability)

    def enable_cap(self, capability: int, *arguments: int) -> None:
        """KVM_ENABLE_CAP of the VM."""
        cap = s.EnableCap(capability)
        cap.args[: len(arguments)] = arguments
        self._ioctl(io.KVM_ENABLE_CAP, ctypes.byref(cap))

    def create_vcpu(self, number: int = 0) -> Vcpu:
        """KVM_CREATE_VCPU."""
        return Vcpu(self.library, self._ioctl(io.KVM_CREATE_VCPU, number), self.memory)

    def _ioctl(self, command: int, argument: Any = 0) -> int:  # noqa: ANN401 # as Library.call
        return ioctl(self.library, self.file, command, argument)


@dataclass(frozen=True, slots=True)
class Fresh:
    """A machine with a VM and a vCPU in it, and a snapshot to come back to."""

    machine: Machine
    vm: Vm
    vcpu: Vcpu
    snapshot: int

    def renew(self) -> None:
        """Be as new: undo whatever was done to the machine since."""
        self.machine.library.restore(self.snapshot)

    def keep(self) -> Fresh:
        """Return the machine as it is now, to come back to that; its snapshot is a second one."""
        return Fresh(self.machine, self.vm, self.vcpu, self.machine.library.snapshot())

    def discard(self) -> None:
        """Give back the memory of the snapshot; nothing can come back to it any more."""
        self.machine.library.discard(self.snapshot)


def fresh(
    library: Library,
    hardware: Hardware,
    parameters: Mapping[str, int] | None = None,
    *,
    ram: int = RAM,
    irqchip: bool = False,
) -> Fresh:
    """Return a vCPU with all CPUID features that KVM supports, in a new VM on `hardware`.

    As `boot`, and with a snapshot of the end, which costs several times as much as all the rest.
    """
    machine, vm, vcpu = boot(library, hardware, parameters, ram=ram, irqchip=irqchip)
    return Fresh(machine, vm, vcpu, library.snapshot())


def boot(
    library: Library,
    hardware: Hardware,
    parameters: Mapping[str, int] | None = None,
    *,
    ram: int = RAM,
    irqchip: bool = False,
) -> tuple[Machine, Vm, Vcpu]:
    """Return a machine, a VM and a vCPU with all CPUID features that KVM supports.

    Everything that was in `library` is gone but its pristine snapshot, from which this starts.
    """
    library.restore()
    machine = Machine(library, hardware, parameters)
    vm = machine.create_vm(ram)
    vm.set_tss_address(_TSS)
    if irqchip:
        vm.create_irqchip()
    vcpu = vm.create_vcpu()
    vcpu.set_cpuid(machine.supported_cpuid())
    return machine, vm, vcpu
