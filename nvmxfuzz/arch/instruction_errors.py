# SPDX-License-Identifier: GPL-2.0-only
"""VM-instruction error numbers. SDM: "VM Instruction Error Numbers"."""

from nvmxfuzz.arch.bits import Named


class InstructionError:
    """What the VM-instruction error field holds after VMfailValid."""

    VMCALL_IN_VMX_ROOT_OPERATION = Named(
        1, "VMCALL executed in VMX root operation", "VMXERR_VMCALL_IN_VMX_ROOT_OPERATION"
    )
    VMCLEAR_INVALID_ADDRESS = Named(
        2, "VMCLEAR with invalid physical address", "VMXERR_VMCLEAR_INVALID_ADDRESS"
    )
    VMCLEAR_VMXON_POINTER = Named(3, "VMCLEAR with VMXON pointer", "VMXERR_VMCLEAR_VMXON_POINTER")
    VMLAUNCH_NONCLEAR_VMCS = Named(
        4, "VMLAUNCH with non-clear VMCS", "VMXERR_VMLAUNCH_NONCLEAR_VMCS"
    )
    VMRESUME_NONLAUNCHED_VMCS = Named(
        5, "VMRESUME with non-launched VMCS", "VMXERR_VMRESUME_NONLAUNCHED_VMCS"
    )
    VMRESUME_AFTER_VMXOFF = Named(
        6,
        "VMRESUME after VMXOFF (VMXOFF and VMXON between VMLAUNCH and VMRESUME)",
        "VMXERR_VMRESUME_AFTER_VMXOFF",
    )
    ENTRY_INVALID_CONTROL_FIELD = Named(
        7, "VM entry with invalid control field(s)", "VMXERR_ENTRY_INVALID_CONTROL_FIELD"
    )
    ENTRY_INVALID_HOST_STATE_FIELD = Named(
        8, "VM entry with invalid host-state field(s)", "VMXERR_ENTRY_INVALID_HOST_STATE_FIELD"
    )
    VMPTRLD_INVALID_ADDRESS = Named(
        9, "VMPTRLD with invalid physical address", "VMXERR_VMPTRLD_INVALID_ADDRESS"
    )
    VMPTRLD_VMXON_POINTER = Named(10, "VMPTRLD with VMXON pointer", "VMXERR_VMPTRLD_VMXON_POINTER")
    VMPTRLD_INCORRECT_VMCS_REVISION_ID = Named(
        11,
        "VMPTRLD with incorrect VMCS revision identifier",
        "VMXERR_VMPTRLD_INCORRECT_VMCS_REVISION_ID",
    )
    UNSUPPORTED_VMCS_COMPONENT = Named(
        12,
        "VMREAD/VMWRITE from/to unsupported VMCS component",
        "VMXERR_UNSUPPORTED_VMCS_COMPONENT",
    )
    VMWRITE_READ_ONLY_VMCS_COMPONENT = Named(
        13,
        "VMWRITE to read-only VMCS component",
        "VMXERR_VMWRITE_READ_ONLY_VMCS_COMPONENT",
    )
    VMXON_IN_VMX_ROOT_OPERATION = Named(
        15, "VMXON executed in VMX root operation", "VMXERR_VMXON_IN_VMX_ROOT_OPERATION"
    )
    ENTRY_INVALID_EXECUTIVE_VMCS_POINTER = Named(
        16,
        "VM entry with invalid executive-VMCS pointer",
        "VMXERR_ENTRY_INVALID_EXECUTIVE_VMCS_POINTER",
    )
    ENTRY_NONLAUNCHED_EXECUTIVE_VMCS = Named(
        17,
        "VM entry with non-launched executive VMCS",
        "VMXERR_ENTRY_NONLAUNCHED_EXECUTIVE_VMCS",
    )
    ENTRY_EXECUTIVE_VMCS_POINTER_NOT_VMXON_POINTER = Named(
        18,
        "VM entry with executive-VMCS pointer not VMXON pointer",
        "VMXERR_ENTRY_EXECUTIVE_VMCS_POINTER_NOT_VMXON_POINTER",
    )
    VMCALL_NONCLEAR_VMCS = Named(19, "VMCALL with non-clear VMCS", "VMXERR_VMCALL_NONCLEAR_VMCS")
    VMCALL_INVALID_VM_EXIT_CONTROL_FIELDS = Named(
        20,
        "VMCALL with invalid VM-exit control fields",
        "VMXERR_VMCALL_INVALID_VM_EXIT_CONTROL_FIELDS",
    )
    VMCALL_INCORRECT_MSEG_REVISION_ID = Named(
        22,
        "VMCALL with incorrect MSEG revision identifier",
        "VMXERR_VMCALL_INCORRECT_MSEG_REVISION_ID",
    )
    VMXOFF_UNDER_DUAL_MONITOR_TREATMENT = Named(
        23,
        "VMXOFF under dual-monitor treatment of SMIs and SMM",
        "VMXERR_VMXOFF_UNDER_DUAL_MONITOR_TREATMENT_OF_SMIS_AND_SMM",
    )
    VMCALL_INVALID_SMM_MONITOR_FEATURES = Named(
        24,
        "VMCALL with invalid SMM-monitor features",
        "VMXERR_VMCALL_INVALID_SMM_MONITOR_FEATURES",
    )
    ENTRY_INVALID_EXECUTION_CONTROL_FIELDS_IN_EXECUTIVE_VMCS = Named(
        25,
        "VM entry with invalid VM-execution control fields in executive VMCS",
        "VMXERR_ENTRY_INVALID_VM_EXECUTION_CONTROL_FIELDS_IN_EXECUTIVE_VMCS",
    )
    ENTRY_EVENTS_BLOCKED_BY_MOV_SS = Named(
        26, "VM entry with events blocked by MOV SS", "VMXERR_ENTRY_EVENTS_BLOCKED_BY_MOV_SS"
    )
    INVALID_OPERAND_TO_INVEPT_INVVPID = Named(
        28, "invalid operand to INVEPT/INVVPID", "VMXERR_INVALID_OPERAND_TO_INVEPT_INVVPID"
    )
