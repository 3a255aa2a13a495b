# SPDX-License-Identifier: GPL-2.0-only
"""nested_get_vmcs12_pages(): the pages that vmcs12 points to, and what KVM does without one.

vmx/nested.c; with them nested_vmx_check_controls_late(), which looks into such a page.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Pin, Primary, Secondary
from nvmxfuzz.kvm.check_values import nested_cpu_has2
from nvmxfuzz.kvm.nested_load import load_pdptrs
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmx_registers import is_pae_paging
from nvmxfuzz.machine.vmcs import Vmcs

_CR8_EXITING = Primary.CR8_LOAD_EXITING | Primary.CR8_STORE_EXITING
_PAGE_MASK = ALL_ONES & ~0xFFF
_APIC_TASKPRI = 0x80
_CR3_FLAGS = 0xFFF
_POSTED = int(Pin.PROCESS_POSTED_INTERRUPTS)
_MSR_BITMAPS = int(Primary.USE_MSR_BITMAPS)


def nested_get_vmcs12_pages(vcpu: Vcpu) -> bool:
    """Find the pages that vmcs12 points to; False where KVM cannot go on without one.

    Without nested EPT, the PDPTEs of an L1 with PAE paging may be loaded again, with L1's own CR3
    at this moment.
    """
    vmcs12 = vcpu.vmcs12
    if (
        vcpu.behaviour.reloads_l1_pdptes
        and not nested_cpu_has2(vmcs12, Secondary.ENABLE_EPT)
        and is_pae_paging(vcpu)
        and not load_pdptrs(vcpu, vcpu.cr3)
    ):
        vcpu.fired.append("l1.pdptes.valid")
        return False
    if not _map_apic_access(vcpu, vmcs12):
        return False
    _map_virtual_apic(vcpu, vmcs12)
    if not _map_posted_interrupts(vcpu, vmcs12):
        return True
    if nested_vmx_prepare_msr_bitmap(vcpu):
        vcpu.vmcs["cpu_based_vm_exec_control"] |= _MSR_BITMAPS
    else:
        vcpu.vmcs["cpu_based_vm_exec_control"] &= ~_MSR_BITMAPS
    return True


def _map_apic_access(vcpu: Vcpu, vmcs12: Vmcs) -> bool:
    if not nested_cpu_has2(vmcs12, Secondary.VIRTUALIZE_APIC_ACCESSES):
        return True
    address = vmcs12.apic_access_addr
    if vcpu.memory.is_backed(address):
        vcpu.vmcs["apic_access_addr"] = (address & _PAGE_MASK) + vcpu.kvm.places.guest_memory
    elif vcpu.behaviour.tolerates_missing_pages:
        vcpu.vmcs["apic_access_addr"] = ALL_ONES
        vcpu.vmcs["secondary_vm_exec_control"] &= ~Secondary.VIRTUALIZE_APIC_ACCESSES
    else:
        vcpu.fired.append("execution.apic-access.memory")
        return False
    return True


def _map_virtual_apic(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    primary = vmcs12.cpu_based_vm_exec_control
    if not primary & Primary.USE_TPR_SHADOW:
        return
    vmcs = vcpu.vmcs
    address = vmcs12.virtual_apic_page_addr
    if vcpu.memory.is_backed(address):
        vmcs["virtual_apic_page_addr"] = (address & _PAGE_MASK) + vcpu.kvm.places.guest_memory
    elif (
        not vcpu.behaviour.tolerates_missing_pages
        and primary & _CR8_EXITING == _CR8_EXITING
        and not nested_cpu_has2(vmcs12, Secondary.VIRTUALIZE_APIC_ACCESSES)
    ):
        vmcs["cpu_based_vm_exec_control"] &= ~Primary.USE_TPR_SHADOW
    else:
        # Hardware shall refuse it: KVM has no better answer.
        vmcs["virtual_apic_page_addr"] = ALL_ONES


def _map_posted_interrupts(vcpu: Vcpu, vmcs12: Vmcs) -> bool:
    """Return whether KVM goes on to the MSR bitmap."""
    if not vmcs12.pin_based_vm_exec_control & _POSTED:
        return True
    address = vmcs12.posted_intr_desc_addr
    if vcpu.memory.is_backed(address):
        vcpu.vmcs["posted_intr_desc_addr"] = address + vcpu.kvm.places.guest_memory
    elif vcpu.behaviour.tolerates_missing_pages:
        return False
    else:
        vcpu.vmcs["pin_based_vm_exec_control"] &= ~_POSTED
    return True


def nested_vmx_prepare_msr_bitmap(vcpu: Vcpu) -> bool:
    """Whether L2 runs with an MSR bitmap, merged from L0's and L1's."""
    vmcs12 = vcpu.vmcs12
    return (
        vcpu.kvm.config.cpu_based_exec_ctrl & _MSR_BITMAPS != 0
        and vmcs12.cpu_based_vm_exec_control & _MSR_BITMAPS != 0
        and vcpu.memory.is_backed(vmcs12.msr_bitmap)
    )


def nested_vmx_check_controls_late(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """Check what lies in memory; for developers, for L1 can change it before hardware looks."""
    if not vcpu.behaviour.has_late_checks or not vcpu.params.warn_on_missed_cc:
        return ""
    shadow = Primary.USE_TPR_SHADOW
    if (
        not vcpu.vmcs["cpu_based_vm_exec_control"] & shadow
        or not vmcs12.cpu_based_vm_exec_control & shadow
        or nested_cpu_has2(vmcs12, Secondary.VIRTUAL_INTERRUPT_DELIVERY)
        or nested_cpu_has2(vmcs12, Secondary.VIRTUALIZE_APIC_ACCESSES)
    ):
        return ""
    page = vmcs12.virtual_apic_page_addr & _PAGE_MASK
    tpr = vcpu.memory.read_int(page + _APIC_TASKPRI, 4)
    if tpr is None:
        return "execution.virtual-apic.memory"
    if vmcs12.tpr_threshold & 0xF > tpr >> 4 & 0xF:
        return "execution.tpr-threshold.virtual-tpr"
    return ""


def has_backed_root(vcpu: Vcpu) -> bool:
    """mmu_check_root(): whether the page-table root that KVM shadows for L2 is in a memslot."""
    vmcs12 = vcpu.vmcs12
    if nested_cpu_has2(vmcs12, Secondary.ENABLE_EPT):
        return vcpu.memory.is_backed(vmcs12.ept_pointer)
    if vcpu.params.ept:
        return True
    if not vcpu.memory.is_backed(vcpu.cr3 & ~_CR3_FLAGS):
        return False
    pdptrs = vcpu.pdptrs if is_pae_paging(vcpu) and vcpu.pdptrs is not None else ()
    return all(vcpu.memory.is_backed(pdpte) for pdpte in pdptrs if pdpte & 1)
