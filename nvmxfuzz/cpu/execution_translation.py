# SPDX-License-Identifier: GPL-2.0-only
"""Checks on VM-execution control fields: VPID, EPT, all that needs EPT, and VM functions."""

from __future__ import annotations

from nvmxfuzz.arch.controls import Secondary, Tertiary, VmFunction
from nvmxfuzz.arch.paging import Eptp, Hlatp, MemoryType
from nvmxfuzz.arch.sections import EXECUTION_CONTROLS
from nvmxfuzz.arch.vmx_msr import EptVpidCap
from nvmxfuzz.cpu import failures
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.execution_general import pt_uses_guest_physical
from nvmxfuzz.cpu.predicates import page_aligned
from nvmxfuzz.cpu.rule import Given, Section, within

SECTION = Section(EXECUTION_CONTROLS, failures.CONTROLS)

_PAGE_WALK_4 = 3 << Eptp.PAGE_WALK_LENGTH.position
_PAGE_WALK_5 = 4 << Eptp.PAGE_WALK_LENGTH.position


uses_vpid = Given("secondary", Secondary.ENABLE_VPID)
"""The "enable VPID" control is 1."""


uses_ept = Given("secondary", Secondary.ENABLE_EPT)
"""The "enable EPT" control is 1."""


runs_unrestricted_guest = Given("secondary", Secondary.UNRESTRICTED_GUEST)
"""The "unrestricted guest" control is 1."""


logs_page_modifications = Given("secondary", Secondary.ENABLE_PML)
"""The "enable PML" control is 1."""

executes_by_mode = Given("secondary", Secondary.MODE_BASED_EXECUTE_CONTROL_FOR_EPT)
"""The "mode-based execute control for EPT" control is 1."""

permits_sub_page_writes = Given("secondary", Secondary.SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT)
"""The "sub-page write permissions for EPT" control is 1."""

raises_ve = Given("secondary", Secondary.EPT_VIOLATION_VE)
"""The "EPT-violation #VE" control is 1."""

uses_vm_functions = Given("secondary", Secondary.ENABLE_VM_FUNCTIONS)
"""The "enable VM functions" control is 1."""


@within("secondary", Secondary.ENABLE_VM_FUNCTIONS)
def switches_eptp(entry: Entry) -> int:
    """VM functions are enabled and "EPTP switching" is among them."""
    return entry.vmcs.vm_function_control & VmFunction.EPTP_SWITCHING


pebs_uses_guest_physical = Given("tertiary", Tertiary.PEBS_USES_GUEST_PHYSICAL_ADDRESSES)
"""The "PEBS uses guest physical addresses" control is 1."""

uses_hlat = Given("tertiary", Tertiary.ENABLE_HLAT)
"""The "enable HLAT" control is 1."""

controls_paging_writes = Given("tertiary", Tertiary.EPT_PAGING_WRITE_CONTROL)
"""The "EPT paging-write control" control is 1."""

verifies_guest_paging = Given("tertiary", Tertiary.GUEST_PAGING_VERIFICATION)
"""The "guest-paging verification" control is 1."""


@SECTION.rule("execution.vpid.zero", when=uses_vpid)
def vpid_not_zero(entry: Entry) -> bool:
    """The VPID is not 0000H if VPIDs are enabled."""
    return entry.vmcs.virtual_processor_id != 0


@SECTION.rule("execution.eptp.memory-type", when=uses_ept)
def eptp_memory_type_supported(entry: Entry) -> bool:
    """Bits 2:0 of EPTP are a memory type, UC or WB, that IA32_VMX_EPT_VPID_CAP reports."""
    return (
        entry.caps.ept_vpid_cap & EptVpidCap.MEMORY_TYPE_UC != 0
        if entry.vmcs.ept_pointer & Eptp.MEMORY_TYPE == MemoryType.UC
        else entry.caps.ept_vpid_cap & EptVpidCap.MEMORY_TYPE_WB != 0
        and entry.vmcs.ept_pointer & Eptp.MEMORY_TYPE == MemoryType.WB
    )


@SECTION.rule("execution.eptp.page-walk-length", when=uses_ept)
def eptp_page_walk_length_supported(entry: Entry) -> bool:
    """Bits 5:3 of EPTP are 1 less than a page-walk length that IA32_VMX_EPT_VPID_CAP reports."""
    return (
        entry.caps.ept_vpid_cap & EptVpidCap.PAGE_WALK_4 != 0
        if entry.vmcs.ept_pointer & Eptp.PAGE_WALK_LENGTH == _PAGE_WALK_4
        else entry.caps.ept_vpid_cap & EptVpidCap.PAGE_WALK_5 != 0
        and entry.vmcs.ept_pointer & Eptp.PAGE_WALK_LENGTH == _PAGE_WALK_5
    )


@SECTION.rule("execution.eptp.accessed-dirty", when=uses_ept)
def eptp_accessed_dirty_supported(entry: Entry) -> bool:
    """Bit 6 of EPTP is 0 on a processor without accessed and dirty flags for EPT."""
    return (
        entry.vmcs.ept_pointer & Eptp.ACCESSED_DIRTY == 0
        or entry.caps.ept_vpid_cap & EptVpidCap.ACCESSED_DIRTY != 0
    )


@SECTION.rule("execution.eptp.supervisor-shadow-stack", when=uses_ept)
def eptp_supervisor_shadow_stack_supported(entry: Entry) -> bool:
    """Bit 7 of EPTP is 0 on a processor without supervisor shadow-stack control."""
    return (
        entry.vmcs.ept_pointer & Eptp.SUPERVISOR_SHADOW_STACK == 0
        or entry.caps.ept_vpid_cap & EptVpidCap.SUPERVISOR_SHADOW_STACK != 0
    )


@SECTION.rule("execution.eptp.reserved", when=uses_ept)
def eptp_reserved(entry: Entry) -> bool:
    """Bits 11:8 of EPTP are 0."""
    return entry.vmcs.ept_pointer & Eptp.RESERVED == 0


@SECTION.rule("execution.eptp.width", when=uses_ept)
def eptp_width(entry: Entry) -> bool:
    """The address in EPTP is within the physical-address width."""
    return entry.vmcs.ept_pointer & entry.caps.physical_reserved == 0


@SECTION.rule("execution.unrestricted-guest.ept", when=runs_unrestricted_guest)
def unrestricted_guest_needs_ept(entry: Entry) -> bool:
    """If "unrestricted guest" is 1, "enable EPT" is 1."""
    return entry.ept != 0


@SECTION.rule("execution.pml.ept", when=logs_page_modifications)
def pml_needs_ept(entry: Entry) -> bool:
    """If "enable PML" is 1, "enable EPT" is 1."""
    return entry.ept != 0


@SECTION.rule("execution.pml.aligned", when=logs_page_modifications)
def pml_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the PML address are 0 if page modifications are logged."""
    return page_aligned(entry.vmcs.pml_address)


@SECTION.rule("execution.pml.width", when=logs_page_modifications)
def pml_width(entry: Entry) -> bool:
    """The PML address is within the physical-address width if page modifications are logged."""
    return entry.vmcs.pml_address & entry.caps.physical_reserved == 0


@SECTION.rule("execution.mode-based-execute.ept", when=executes_by_mode)
def mode_based_execute_needs_ept(entry: Entry) -> bool:
    """If "mode-based execute control for EPT" is 1, "enable EPT" is 1."""
    return entry.ept != 0


@SECTION.rule("execution.sub-page.ept", when=permits_sub_page_writes)
def sub_page_writes_need_ept(entry: Entry) -> bool:
    """If "sub-page write permissions for EPT" is 1, "enable EPT" is 1."""
    return entry.ept != 0


@SECTION.rule("execution.sub-page.aligned", when=permits_sub_page_writes)
def sub_page_table_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the sub-page-permission-table pointer are 0 if it is used."""
    return page_aligned(entry.vmcs.sub_page_permission_table_pointer)


@SECTION.rule("execution.sub-page.width", when=permits_sub_page_writes)
def sub_page_table_width(entry: Entry) -> bool:
    """The sub-page-permission-table pointer is within the physical-address width if used."""
    return entry.vmcs.sub_page_permission_table_pointer & entry.caps.physical_reserved == 0


@SECTION.rule("execution.pt-guest-physical.ept", when=pt_uses_guest_physical)
def pt_guest_physical_needs_ept(entry: Entry) -> bool:
    """If "Intel PT uses guest physical addresses" is 1, "enable EPT" is 1."""
    return entry.ept != 0


@SECTION.rule("execution.pebs-guest-physical.ept", when=pebs_uses_guest_physical)
def pebs_guest_physical_needs_ept(entry: Entry) -> bool:
    """If "PEBS uses guest physical addresses" is 1, "enable EPT" is 1."""
    return entry.ept != 0


@SECTION.rule("execution.hlat.ept", when=uses_hlat)
def hlat_needs_ept(entry: Entry) -> bool:
    """If "enable HLAT" is 1, "enable EPT" is 1."""
    return entry.ept != 0


@SECTION.rule("execution.hlat.reserved", when=uses_hlat)
def hlat_pointer_reserved(entry: Entry) -> bool:
    """Bits 2:0 and 11:5 of the HLAT pointer are 0 if HLAT is enabled."""
    return entry.vmcs.hlat_pointer & Hlatp.RESERVED == 0


@SECTION.rule("execution.hlat.width", when=uses_hlat)
def hlat_pointer_width(entry: Entry) -> bool:
    """The address in the HLAT pointer is within the physical-address width if it is used."""
    return entry.vmcs.hlat_pointer & entry.caps.physical_reserved == 0


@SECTION.rule("execution.paging-write.ept", when=controls_paging_writes)
def paging_write_control_needs_ept(entry: Entry) -> bool:
    """If "EPT paging-write control" is 1, "enable EPT" is 1."""
    return entry.ept != 0


@SECTION.rule("execution.guest-paging-verification.ept", when=verifies_guest_paging)
def guest_paging_verification_needs_ept(entry: Entry) -> bool:
    """If "guest-paging verification" is 1, "enable EPT" is 1."""
    return entry.ept != 0


@SECTION.rule("execution.virtualization-exception.aligned", when=raises_ve)
def ve_information_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the virtualization-exception information address are 0 if it is used."""
    return page_aligned(entry.vmcs.ve_information_address)


@SECTION.rule("execution.virtualization-exception.width", when=raises_ve)
def ve_information_width(entry: Entry) -> bool:
    """The virtualization-exception information is within the physical-address width if used."""
    return entry.vmcs.ve_information_address & entry.caps.physical_reserved == 0


@SECTION.rule("execution.vm-functions.may-be-1", when=uses_vm_functions)
def vm_functions_supported(entry: Entry) -> bool:
    """If VM functions are enabled, each control that is 1 is one that IA32_VMX_VMFUNC allows."""
    return entry.vmcs.vm_function_control & ~entry.caps.vmfunc_may == 0


@SECTION.rule("execution.eptp-switching.ept", when=switches_eptp)
def eptp_switching_needs_ept(entry: Entry) -> bool:
    """If "EPTP switching" is 1, "enable EPT" is 1."""
    return entry.ept != 0


@SECTION.rule("execution.eptp-list.aligned", when=switches_eptp)
def eptp_list_aligned(entry: Entry) -> bool:
    """Bits 11:0 of the EPTP-list address are 0 if EPTP switching is enabled."""
    return page_aligned(entry.vmcs.eptp_list_address)


@SECTION.rule("execution.eptp-list.width", when=switches_eptp)
def eptp_list_width(entry: Entry) -> bool:
    """The EPTP-list address is within the physical-address width if EPTP switching is enabled."""
    return entry.vmcs.eptp_list_address & entry.caps.physical_reserved == 0
