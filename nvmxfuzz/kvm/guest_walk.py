# SPDX-License-Identifier: GPL-2.0-only
"""FNAME(walk_addr_generic) and kvm_read_guest_virt(): L1's memory by linear address.

mmu/paging_tmpl.h and x86.c, for data that KVM reads or writes for L1 at CPL 0. Accessed and dirty
flags are set as KVM sets them.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvmxfuzz.arch.events import Vector
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags
from nvmxfuzz.kvm.guest_memory import PAGE_SIZE
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.kvm.vmx_registers import is_pae_paging, is_paging

_PRESENT = 1
_WRITABLE = 2
_USER = 4
_ACCESSED = 1 << 5
_DIRTY = 1 << 6
_LARGE = 1 << 7
_NX = 1 << 63
_ADDRESS = 0x000F_FFFF_FFFF_F000
_RESERVED_ERROR = 8
_FETCH_ERROR = 16
_PSE_36 = 0x1F << 17
"""Of an entry for 4 MiB with CR4.PSE: KVM has addresses of 36 bits there, bits 35:32 in 16:13."""
_NO_PDPTES = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Fault:
    """The exception that an access comes to; `address` is what CR2 gets of a page fault.

    `vector` is None where there is no memory behind an address: KVM gives up to userspace.
    """

    vector: int | None
    error_code: int = 0
    address: int | None = None


NO_MEMORY = Fault(None)


def kvm_read_guest_virt(vcpu: Vcpu, gva: int, size: int, *, fetch: bool = False) -> bytes | Fault:
    """Return `size` bytes at a linear address, data or code, or why there are none."""
    found = b""
    while len(found) < size:
        at = gva + len(found)
        count = min(size - len(found), PAGE_SIZE - at % PAGE_SIZE)
        gpa = translate(vcpu, at, write=False, fetch=fetch)
        if isinstance(gpa, Fault):
            return gpa
        data = vcpu.memory.read(gpa, count)
        if data is None:
            return NO_MEMORY
        found += data
    return found


def kvm_write_guest_virt(vcpu: Vcpu, gva: int, data: bytes) -> Fault | None:
    """Store bytes at a linear address, page by page; return why that ended, or None."""
    done = 0
    while done < len(data):
        at = gva + done
        count = min(len(data) - done, PAGE_SIZE - at % PAGE_SIZE)
        gpa = translate(vcpu, at, write=True)
        if isinstance(gpa, Fault):
            return gpa
        if not vcpu.memory.write(gpa, data[done : done + count]):
            return NO_MEMORY
        done += count
    return None


def translate(vcpu: Vcpu, gva: int, *, write: bool, fetch: bool = False) -> int | Fault:
    """Return the guest-physical address that a supervisor access at a linear address reaches."""
    if not is_paging(vcpu):
        return gva
    table, levels, size = _root(vcpu)
    bits = 10 if size == 4 else 9
    error = 2 if write else 0
    if fetch and (vcpu.efer & Efer.NXE or vcpu.cr4 & Cr4.SMEP):
        error |= _FETCH_ERROR
    executable = True
    path: list[tuple[int, int]] = []
    rights = _WRITABLE | _USER
    for level in range(levels, 0, -1):
        shift = 12 + bits * (level - 1)
        at = table + size * (gva >> shift & (1 << bits) - 1)
        if level == 3 and is_pae_paging(vcpu):
            # PDPTEs are in registers, without rights and flags of their own.
            entry: int | None = (vcpu.pdptrs or _NO_PDPTES)[gva >> 30 & 3] | _WRITABLE | _USER
        else:
            entry = vcpu.memory.read_int(at, size)
            path.append((at, entry or 0))
        if entry is None or not entry & _PRESENT:
            return Fault(Vector.PF, error, gva)
        if _is_reserved(vcpu, entry, level, size):
            return Fault(Vector.PF, error | _PRESENT | _RESERVED_ERROR, gva)
        rights &= entry
        executable &= not entry & _NX
        large = entry & _LARGE and 1 < level < 4 and (size == 8 or vcpu.cr4 & Cr4.PSE)
        if large or level == 1:
            forbidden = _is_forbidden(vcpu, rights, write)
            if fetch:
                forbidden = not executable or bool(rights & _USER and vcpu.cr4 & Cr4.SMEP)
            if forbidden:
                return Fault(Vector.PF, error | _PRESENT, gva)
            _mark(vcpu, path, size, write)
            inside = (1 << shift) - 1
            high = (entry >> 13 & 0xF) << 32 if size == 4 and level > 1 else 0
            return (entry & _ADDRESS & ~inside) + high + (gva & inside)
        table = entry & _ADDRESS & ((1 << 32) - 1 if size == 4 else -1)
    raise AssertionError("a walk ends at a page")


def _root(vcpu: Vcpu) -> tuple[int, int, int]:
    """Return the first table, the number of levels, and the size of an entry in bytes."""
    if vcpu.efer & Efer.LMA:
        return vcpu.cr3 & _ADDRESS, 5 if vcpu.cr4 & Cr4.LA57 else 4, 8
    if vcpu.cr4 & Cr4.PAE:
        return vcpu.cr3 & 0xFFFF_FFE0, 3, 8
    return vcpu.cr3 & 0xFFFF_F000, 2, 4


def _is_reserved(vcpu: Vcpu, entry: int, level: int, size: int) -> bool:
    if size == 4:
        return (
            level > 1 and vcpu.cr4 & Cr4.PSE != 0 and entry & _LARGE != 0 and entry & _PSE_36 != 0
        )
    reserved = vcpu.virtual.reserved_gpa_bits & ~_NX & ((1 << 52) - 1)
    if not vcpu.efer & Efer.NXE:
        reserved |= _NX
    if level > 3:
        reserved |= _LARGE
    elif level > 1 and entry & _LARGE and vcpu.efer & Efer.LMA:
        reserved |= (1 << 12 + 9 * (level - 1)) - 1 & ~0x1FFF
    return entry & reserved != 0


def _is_forbidden(vcpu: Vcpu, rights: int, write: bool) -> bool:
    if write and not rights & _WRITABLE and vcpu.cr0 & Cr0.WP:
        return True
    return bool(rights & _USER and vcpu.cr4 & Cr4.SMAP and not vcpu.rflags & Rflags.AC)


def _mark(vcpu: Vcpu, path: list[tuple[int, int]], size: int, write: bool) -> None:
    for number, (at, entry) in enumerate(path):
        marked = entry | _ACCESSED
        if write and number == len(path) - 1:
            marked |= _DIRTY
        if marked != entry:
            vcpu.memory.write(at, marked.to_bytes(size, "little"))
