# SPDX-License-Identifier: GPL-2.0-only
"""The VM entry that KVM asks of the hardware, as an `Attempt` on the host's profile.

The current VMCS is vmcs02 while KVM enters L2, and vmcs01 while it enters L1.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.targets.kvm_native.port import PortEntry

_NAMES: Final = tuple(field.name for field in FIELDS)
_COUNT: Final = len(FIELDS)
_Encodings: Final = ctypes.c_uint32 * _COUNT
_Values: Final = ctypes.c_uint64 * _COUNT
_ENCODINGS: Final = _Encodings(*(field.encoding for field in FIELDS))
_PACKED: Final = struct.Struct(f"={_COUNT}Q")

_SLOT: Final = 16
"""Size of an entry of an MSR list, in bytes."""
_LONGEST_LIST: Final = 4096
_PDPTES: Final = 32
_PDPTES_MASK: Final = 0xFFFF_FFE0
_VTPR: Final = 0x80
_NO_LINK: Final = 0xFFFF_FFFF_FFFF_FFFF
_PAGE: Final = 0x1000
_VMXON_REGION: Final = 0x1000
_SOMEWHERE: Final = 0x2000
"""Where the VMXON region, and a VMCS of which it is not known, are said to be."""


def vmcs_of(entry: PortEntry) -> Vmcs:
    """Return the current VMCS; fields that KVM never wrote are 0."""
    return vmcs_at(entry.functions, entry.vmcs)


def vmcs_at(functions: Any, vmcs_address: int) -> Vmcs:  # noqa: ANN401 # those of a Library
    """Return the VMCS that nvmx_vmcs_read() knows by this address."""
    values = _Values()
    functions.nvmx_vmcs_read_many(
        vmcs_address, ctypes.byref(_ENCODINGS), ctypes.byref(values), _COUNT
    )
    # Every field is there: what Vmcs() does for those that are not would cost as much again.
    vmcs = object.__new__(Vmcs)
    vmcs.__dict__.update(zip(_NAMES, _PACKED.unpack(values), strict=True))
    return vmcs


def attempt_of(entry: PortEntry, profile: Profile) -> Attempt:
    """Return the VM entry as an attempt on `profile`, which is that of the hardware.

    The launch state is the one that KVM's instruction takes for granted.
    """
    vmcs = vmcs_of(entry)
    return Attempt(
        profile=profile,
        vmcs=vmcs,
        processor=_processor(entry, vmcs),
        memory=_memory(entry, vmcs, profile),
        instruction="vmresume" if entry.resume else "vmlaunch",
        launch_state="launched" if entry.resume else "clear",
    )


def _memory(entry: PortEntry, vmcs: Vmcs, profile: Profile) -> Memory:
    regions = dict(_regions(entry, vmcs, profile))
    return Memory.of(regions) if len(regions) > 1 else Memory(tuple(regions.items()))


def _regions(entry: PortEntry, vmcs: Vmcs, profile: Profile) -> Iterator[tuple[int, bytes]]:
    """Yield what the processor reads at VM entry beside the VMCS, as far as there is memory."""
    limit = min(profile.caps.max_msr_list, _LONGEST_LIST)
    count = min(vmcs.vm_entry_msr_load_count, limit)
    places = [(vmcs.vm_entry_msr_load_addr + number * _SLOT, _SLOT) for number in range(count)]
    places.append((vmcs.virtual_apic_page_addr + _VTPR, 4))
    if vmcs.guest_cr0 & Cr0.PG and vmcs.guest_cr4 & Cr4.PAE:
        places.append((vmcs.guest_cr3 & _PDPTES_MASK, _PDPTES))
    if vmcs.vmcs_link_pointer != _NO_LINK:
        places.append((vmcs.vmcs_link_pointer, 4))
    for address, size in places:
        data = entry.memory(address, size)
        if data is not None:
            yield address, data


def _processor(entry: PortEntry, vmcs: Vmcs) -> Processor:
    functions = entry.functions
    return _mode(
        functions.nvmx_get_cr(0),
        functions.nvmx_get_cr(3),
        functions.nvmx_get_cr(4),
        _msr(entry, msr.MSR_EFER),
        functions.nvmx_get_rflags_if(),
        _physical_address(entry, vmcs),
        _msr(entry, msr.MSR_IA32_RTIT_CTL),
    )


@lru_cache(64)
def _mode(  # noqa: PLR0917 # the key of the cache: KVM is in few modes
    cr0: int, cr3: int, cr4: int, efer: int, rflags_if: int, current_vmcs: int, rtit_ctl: int
) -> Processor:
    return Processor(
        cr0=cr0,
        cr3=cr3,
        cr4=cr4,
        efer=efer,
        rflags=Rflags.FIXED1 | rflags_if,
        cs_l=bool(efer & Efer.LMA),
        vmxon_pointer=_VMXON_REGION,
        current_vmcs=current_vmcs,
        rtit_ctl=rtit_ctl,
    )


def _msr(entry: PortEntry, index: int) -> int:
    value = ctypes.c_uint64()
    absent = entry.functions.nvmx_get_msr(index, ctypes.byref(value))
    return 0 if absent else value.value


def _physical_address(entry: PortEntry, vmcs: Vmcs) -> int:
    """Return where the VMCS lies: like the MSR bitmap, in the one range that physical memory is."""
    place = entry.functions.nvmx_physical(vmcs.msr_bitmap, 1) or 0
    return (entry.vmcs & -_PAGE) - (place - vmcs.msr_bitmap) if place else _SOMEWHERE
