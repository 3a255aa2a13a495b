# SPDX-License-Identifier: GPL-2.0-only
"""Checks on VM-execution control fields: the control words, bitmaps, NMIs, shadowing, tracing."""

from __future__ import annotations

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.registers import RtitCtl
from nvmxfuzz.arch.sections import EXECUTION_CONTROLS
from nvmxfuzz.cpu import failures
from nvmxfuzz.cpu.conditions import does_not_return_from_smm
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.predicates import page_aligned
from nvmxfuzz.cpu.rule import Given, Section, within

SECTION = Section(EXECUTION_CONTROLS, failures.CONTROLS)


activates_secondary_controls = Given("primary", Primary.ACTIVATE_SECONDARY_CONTROLS)
"""The secondary processor-based controls are in use."""

activates_tertiary_controls = Given("primary", Primary.ACTIVATE_TERTIARY_CONTROLS)
"""The tertiary processor-based controls are in use."""

uses_io_bitmaps = Given("primary", Primary.USE_IO_BITMAPS)
"""The "use I/O bitmaps" control is 1."""

uses_msr_bitmaps = Given("primary", Primary.USE_MSR_BITMAPS)
"""The "use MSR bitmaps" control is 1."""


def nmi_exiting_off(entry: Entry) -> int:
    """The "NMI exiting" control is 0, and VM entry checks it."""
    return entry.pin & Pin.NMI_EXITING == 0 and does_not_return_from_smm(entry)


def virtual_nmis_off(entry: Entry) -> int:
    """The "virtual NMIs" control is 0, and VM entry checks it."""
    return entry.pin & Pin.VIRTUAL_NMIS == 0 and does_not_return_from_smm(entry)


shadows_vmcs = Given("secondary", Secondary.VMCS_SHADOWING)
"""The "VMCS shadowing" control is 1."""

translates_pasid = Given("secondary", Secondary.PASID_TRANSLATION)
"""The "PASID translation" control is 1."""

pt_uses_guest_physical = Given("secondary", Secondary.INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES)
"""The "Intel PT uses guest physical addresses" control is 1."""


@within("processor.rtit_ctl", RtitCtl.TRACEEN)
def is_traced(entry: Entry) -> bool:
    """Intel PT traces the hypervisor (TraceEn is 1), and VM entry checks execution controls."""
    return does_not_return_from_smm(entry)


scales_tsc = Given("secondary", Secondary.USE_TSC_SCALING)
"""The "use TSC scaling" control is 1."""


@SECTION.rule("execution.pin-based.must-be-1", when=does_not_return_from_smm)
def pin_based_ones(entry: Entry) -> bool:
    """Every pin-based control that the processor requires to be 1 is 1."""
    return entry.caps.pin_must & ~entry.vmcs.pin_based_vm_exec_control == 0


@SECTION.rule("execution.pin-based.may-be-1", when=does_not_return_from_smm)
def pin_based_supported(entry: Entry) -> bool:
    """Every pin-based control that is 1 is one that the processor allows to be 1."""
    return entry.vmcs.pin_based_vm_exec_control & ~entry.caps.pin_may == 0


@SECTION.rule("execution.primary.must-be-1", when=does_not_return_from_smm)
def primary_ones(entry: Entry) -> bool:
    """Every primary processor-based control that the processor requires to be 1 is 1."""
    return entry.caps.primary_must & ~entry.vmcs.cpu_based_vm_exec_control == 0


@SECTION.rule("execution.primary.may-be-1", when=does_not_return_from_smm)
def primary_supported(entry: Entry) -> bool:
    """Every primary processor-based control that is 1 is one that the processor allows to be 1."""
    return entry.vmcs.cpu_based_vm_exec_control & ~entry.caps.primary_may == 0


@SECTION.rule("execution.secondary.may-be-1", when=activates_secondary_controls)
def secondary_supported(entry: Entry) -> bool:
    """If the secondary controls are activated, each that is 1 is one that is allowed to be 1."""
    return entry.vmcs.secondary_vm_exec_control & ~entry.caps.secondary_may == 0


@SECTION.rule("execution.tertiary.may-be-1", when=activates_tertiary_controls)
def tertiary_supported(entry: Entry) -> bool:
    """If the tertiary controls are activated, each that is 1 is one that is allowed to be 1."""
    return entry.vmcs.tertiary_vm_exec_control & ~entry.caps.tertiary_may == 0


@SECTION.rule("execution.cr3-target.count", when=does_not_return_from_smm)
def cr3_target_count_supported(entry: Entry) -> bool:
    """The CR3-target count is not above the number of CR3-target values in IA32_VMX_MISC."""
    return entry.vmcs.cr3_target_count <= entry.caps.cr3_targets


@SECTION.rule("execution.io-bitmap-a.aligned", when=uses_io_bitmaps)
def io_bitmap_a_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the address of I/O bitmap A are 0 if I/O bitmaps are used."""
    return page_aligned(entry.vmcs.io_bitmap_a)


@SECTION.rule("execution.io-bitmap-a.width", when=uses_io_bitmaps)
def io_bitmap_a_width(entry: Entry) -> bool:
    """The address of I/O bitmap A is within the physical-address width if bitmaps are used."""
    return entry.vmcs.io_bitmap_a & entry.caps.physical_reserved == 0


@SECTION.rule("execution.io-bitmap-b.aligned", when=uses_io_bitmaps)
def io_bitmap_b_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the address of I/O bitmap B are 0 if I/O bitmaps are used."""
    return page_aligned(entry.vmcs.io_bitmap_b)


@SECTION.rule("execution.io-bitmap-b.width", when=uses_io_bitmaps)
def io_bitmap_b_width(entry: Entry) -> bool:
    """The address of I/O bitmap B is within the physical-address width if bitmaps are used."""
    return entry.vmcs.io_bitmap_b & entry.caps.physical_reserved == 0


@SECTION.rule("execution.msr-bitmap.aligned", when=uses_msr_bitmaps)
def msr_bitmap_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the MSR-bitmap address are 0 if MSR bitmaps are used."""
    return page_aligned(entry.vmcs.msr_bitmap)


@SECTION.rule("execution.msr-bitmap.width", when=uses_msr_bitmaps)
def msr_bitmap_width(entry: Entry) -> bool:
    """The MSR-bitmap address is within the physical-address width if MSR bitmaps are used."""
    return entry.vmcs.msr_bitmap & entry.caps.physical_reserved == 0


@SECTION.rule("execution.virtual-nmis.nmi-exiting", when=nmi_exiting_off)
def virtual_nmis_need_nmi_exiting(entry: Entry) -> bool:
    """If "NMI exiting" is 0, "virtual NMIs" is 0."""
    return entry.pin & Pin.VIRTUAL_NMIS == 0


@SECTION.rule("execution.nmi-window.virtual-nmis", when=virtual_nmis_off)
def nmi_window_needs_virtual_nmis(entry: Entry) -> bool:
    """If "virtual NMIs" is 0, "NMI-window exiting" is 0."""
    return entry.primary & Primary.NMI_WINDOW_EXITING == 0


@SECTION.rule("execution.vmread-bitmap.aligned", when=shadows_vmcs)
def vmread_bitmap_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the VMREAD-bitmap address are 0 if VMCSs are shadowed."""
    return page_aligned(entry.vmcs.vmread_bitmap)


@SECTION.rule("execution.vmread-bitmap.width", when=shadows_vmcs)
def vmread_bitmap_width(entry: Entry) -> bool:
    """The VMREAD-bitmap address is within the physical-address width if VMCSs are shadowed."""
    return entry.vmcs.vmread_bitmap & entry.caps.physical_reserved == 0


@SECTION.rule("execution.vmwrite-bitmap.aligned", when=shadows_vmcs)
def vmwrite_bitmap_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the VMWRITE-bitmap address are 0 if VMCSs are shadowed."""
    return page_aligned(entry.vmcs.vmwrite_bitmap)


@SECTION.rule("execution.vmwrite-bitmap.width", when=shadows_vmcs)
def vmwrite_bitmap_width(entry: Entry) -> bool:
    """The VMWRITE-bitmap address is within the physical-address width if VMCSs are shadowed."""
    return entry.vmcs.vmwrite_bitmap & entry.caps.physical_reserved == 0


@SECTION.rule("execution.low-pasid-directory.aligned", when=translates_pasid)
def low_pasid_directory_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the low PASID directory address are 0 if PASIDs are translated."""
    return page_aligned(entry.vmcs.low_pasid_directory_address)


@SECTION.rule("execution.low-pasid-directory.width", when=translates_pasid)
def low_pasid_directory_width(entry: Entry) -> bool:
    """The low PASID directory is within the physical-address width if PASIDs are translated."""
    return entry.vmcs.low_pasid_directory_address & entry.caps.physical_reserved == 0


@SECTION.rule("execution.high-pasid-directory.aligned", when=translates_pasid)
def high_pasid_directory_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the high PASID directory address are 0 if PASIDs are translated."""
    return page_aligned(entry.vmcs.high_pasid_directory_address)


@SECTION.rule("execution.high-pasid-directory.width", when=translates_pasid)
def high_pasid_directory_width(entry: Entry) -> bool:
    """The high PASID directory is within the physical-address width if PASIDs are translated."""
    return entry.vmcs.high_pasid_directory_address & entry.caps.physical_reserved == 0


@SECTION.rule("execution.pt-guest-physical.load-rtit-ctl", when=pt_uses_guest_physical)
def pt_guest_physical_loads_rtit_ctl(entry: Entry) -> bool:
    """If Intel PT uses guest-physical addresses, VM entry loads IA32_RTIT_CTL."""
    return entry.vm_entry & VmEntry.LOAD_IA32_RTIT_CTL != 0


@SECTION.rule("execution.pt-guest-physical.clear-rtit-ctl", when=pt_uses_guest_physical)
def pt_guest_physical_clears_rtit_ctl(entry: Entry) -> bool:
    """If Intel PT uses guest-physical addresses, VM exit clears IA32_RTIT_CTL."""
    return entry.vm_exit & VmExit.CLEAR_IA32_RTIT_CTL != 0


@SECTION.rule("execution.pt.tracing", when=is_traced)
def no_rtit_ctl_load_while_tracing(entry: Entry) -> bool:
    """VM entry does not load IA32_RTIT_CTL while the hypervisor itself is being traced."""
    return entry.vm_entry & VmEntry.LOAD_IA32_RTIT_CTL == 0


@SECTION.rule("execution.tsc-multiplier.zero", when=scales_tsc)
def tsc_multiplier_not_zero(entry: Entry) -> bool:
    """The TSC multiplier is not 0 if TSC scaling is used."""
    return entry.vmcs.tsc_multiplier != 0
