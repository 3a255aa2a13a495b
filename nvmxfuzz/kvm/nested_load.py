# SPDX-License-Identifier: GPL-2.0-only
"""nested_vmx_load_cr3() and nested_vmx_load_msr(): what VM entry and VM exit load from memory.

vmx/nested.c and load_pdptrs() of x86.c.
"""

from __future__ import annotations

from collections.abc import Iterator

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.entry_failures import EntryFailure
from nvmxfuzz.arch.vmx_msr import VmxMisc
from nvmxfuzz.kvm.check_values import kvm_vcpu_is_legal_cr3
from nvmxfuzz.kvm.entry_behaviour import PerfGlobalCtrl
from nvmxfuzz.kvm.msrs import X2APIC_ENABLE, kvm_set_msr
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmx_registers import is_pae_paging

MSR_ENTRY_SIZE = 16
_WORD = 0xFFFF_FFFF
_PDPTE_RESERVED = 0x1E6
_LIST_UNIT = 512


def load_pdptrs(vcpu: Vcpu, cr3: int) -> bool:
    """Load the four PDPTEs that CR3 points to; False where one is not valid or not in memory.

    A processor takes the address from CR3[31:5]; KVM takes all bits above as well.
    """
    table = vcpu.memory.read(cr3 & ~0x1F, 32)
    if table is None:
        return False
    pdptrs = tuple(int.from_bytes(table[at : at + 8], "little") for at in (0, 8, 16, 24))
    reserved = vcpu.virtual.reserved_gpa_bits | _PDPTE_RESERVED
    if any(pdpte & 1 and pdpte & reserved for pdpte in pdptrs):
        return False
    vcpu.pdptrs = pdptrs
    return True


def nested_vmx_load_cr3(vcpu: Vcpu, cr3: int, nested_ept: bool) -> tuple[str, int]:
    """Load CR3, and the PDPTEs for PAE paging without nested EPT.

    Returns the check that fails with the exit qualification, or ("", 0).
    """
    if not kvm_vcpu_is_legal_cr3(vcpu, cr3):
        return "guest.cr3.width", int(EntryFailure.DEFAULT)
    if not nested_ept and is_pae_paging(vcpu) and not load_pdptrs(vcpu, cr3):
        return "guest.pdptes.valid", int(EntryFailure.PDPTE)
    vcpu.cr3 = cr3
    return "", 0


def nested_vmx_max_atomic_switch_msrs(vcpu: Vcpu) -> int:
    """Return how many entries of an MSR list KVM processes."""
    encoded = (vcpu.virtual.msrs.misc & VmxMisc.MAX_MSR_LIST) >> VmxMisc.MAX_MSR_LIST.position
    return _LIST_UNIT * (encoded + 1)


def nested_vmx_msr_check_common(vcpu: Vcpu, index: int, reserved: int) -> str:
    """Return what forbids the MSR in every list, or ""."""
    if vcpu.apic_base & X2APIC_ENABLE and index >> 8 == 0x8:
        return "msr-list.x2apic.range"
    if index == msr.MSR_IA32_UCODE_WRITE:
        return "msr-list.microcode.write"
    if index == msr.MSR_IA32_UCODE_REV:
        return "msr-list.microcode.revision"
    if reserved:
        return "msr-list.entry.reserved"
    return ""


def nested_vmx_load_msr_check(vcpu: Vcpu, index: int, reserved: int) -> str:
    """Return what forbids loading the MSR from a list, or ""."""
    if index == msr.MSR_FS_BASE:
        return "msr-load.fs-base.forbidden"
    if index == msr.MSR_GS_BASE:
        return "msr-load.gs-base.forbidden"
    if index == msr.MSR_IA32_SMM_MONITOR_CTL:
        return "msr-load.smm-monitor-ctl.forbidden"
    return nested_vmx_msr_check_common(vcpu, index, reserved)


def nested_vmx_store_msr_check(vcpu: Vcpu, index: int, reserved: int) -> str:
    """Return what forbids storing the MSR into a list, or ""."""
    if index == msr.MSR_IA32_SMBASE:
        return "msr-store.smbase.forbidden"
    return nested_vmx_msr_check_common(vcpu, index, reserved)


def nested_vmx_load_msr(vcpu: Vcpu, address: int, count: int) -> tuple[str, int]:
    """Load the MSRs of a list; return what stopped it and the entry's number from 1, or ("", 0)."""
    maximum = nested_vmx_max_atomic_switch_msrs(vcpu) if vcpu.behaviour.limits_msr_lists else count
    for number in range(min(count, maximum + 1)):
        if number >= maximum:
            return "msr-load.list.length", number + 1
        entry = vcpu.memory.read_int(address + number * MSR_ENTRY_SIZE & ALL_ONES, MSR_ENTRY_SIZE)
        if entry is None:
            return "msr-load.list.memory", number + 1
        index = entry & _WORD
        failed = nested_vmx_load_msr_check(vcpu, index, entry >> 32 & _WORD)
        if failed:
            vcpu.fired.append(failed)
            return failed, number + 1
        if not kvm_set_msr(vcpu, index, entry >> 64):
            return "msr-load.msr.writable", number + 1
    return "", 0


def load_perf_global_ctrl(vcpu: Vcpu, value: int) -> bool:
    """Load IA32_PERF_GLOBAL_CTRL through the MSR; False where the vCPU refuses it."""
    if (
        vcpu.behaviour.perf_global_ctrl is PerfGlobalCtrl.PMU
        and not vcpu.virtual.has_perf_global_ctrl
    ):
        return True
    return kvm_set_msr(vcpu, msr.MSR_CORE_PERF_GLOBAL_CTRL, value)


def list_entries(vcpu: Vcpu, address: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield number and content (128 bits) of the entries that somebody wrote, in order.

    For lists without a limit. Of the others the first one is there too unless it is zero, for
    MSR 0 is none that matters; what comes behind is the same.
    """
    numbers: set[int] = set()
    for start, data in (*vcpu.memory.memory.regions, *vcpu.memory.written.items()):
        first = max((start - address) // MSR_ENTRY_SIZE, 0)
        last = min((start + len(data) - address - 1) // MSR_ENTRY_SIZE, count - 1)
        numbers.update(range(first, last + 1))
    if vcpu.memory.unwritten:
        numbers.update(range(min(count, len(numbers) + 1)))
    for number in sorted(numbers):
        entry = vcpu.memory.read_int(address + number * MSR_ENTRY_SIZE, MSR_ENTRY_SIZE)
        if entry is None:
            return
        yield number, entry


def nested_msr_store_list_has_msr(vcpu: Vcpu, address: int, count: int, wanted: int) -> bool:
    """Whether L1's VM-exit MSR-store list has an MSR, searched as far as it can be stored.

    The kernel reads entry after entry up to the count, however large, without a limit.
    """
    for _, entry in list_entries(vcpu, address, count):
        failed = nested_vmx_store_msr_check(vcpu, entry & _WORD, entry >> 32 & _WORD)
        if failed:
            vcpu.fired.append(failed)
            return False
        if entry & _WORD == wanted:
            return True
    return False
