# SPDX-License-Identifier: GPL-2.0-only
"""Layouts of those VMX capability MSRs that are no plain allowed-0/allowed-1 tables.

SDM: "VMX Capability Reporting Facility".
"""

from nvmxfuzz.arch.bits import bit, mask


class VmxBasic:
    """IA32_VMX_BASIC."""

    REVISION_ID = mask(30, 0, "VMCS revision identifier")
    REGION_SIZE = mask(44, 32, "size of the VMXON region and of each VMCS region, in bytes")
    PHYSICAL_ADDRESSES_32_BIT = bit(
        48,
        "VMX structures are limited to 32 physical-address bits",
        "VMX_BASIC_32BIT_PHYS_ADDR_ONLY",
    )
    DUAL_MONITOR_TREATMENT = bit(
        49, "dual-monitor treatment of SMIs and SMM", "VMX_BASIC_DUAL_MONITOR_TREATMENT"
    )
    MEMORY_TYPE = mask(53, 50, "memory type for VMX structures")
    INS_OUTS_INFORMATION = bit(
        54, "VM exits due to INS and OUTS report instruction information", "VMX_BASIC_INOUT"
    )
    TRUE_CONTROLS = bit(55, "default1 controls may be cleared", "VMX_BASIC_TRUE_CTLS")
    ANY_EXCEPTION_MAY_DELIVER_ERROR_CODE = bit(
        56, "injected hardware exceptions need not agree with their vector about an error code"
    )
    NESTED_EXCEPTION = bit(58, "an injected exception may be marked as nested")


class VmxMisc:
    """IA32_VMX_MISC."""

    PREEMPTION_TIMER_RATE = mask(4, 0, "TSC bit whose change counts the VMX-preemption timer down")
    STORE_EFER_LMA = bit(
        5, "VM exit stores IA32_EFER.LMA into the VM-entry controls", "VMX_MISC_SAVE_EFER_LMA"
    )
    ACTIVITY_HLT = bit(6, "activity state HLT", "VMX_MISC_ACTIVITY_HLT")
    ACTIVITY_SHUTDOWN = bit(7, "activity state shutdown", "VMX_MISC_ACTIVITY_SHUTDOWN")
    ACTIVITY_WAIT_FOR_SIPI = bit(8, "activity state wait-for-SIPI", "VMX_MISC_ACTIVITY_WAIT_SIPI")
    INTEL_PT_IN_VMX = bit(14, "Intel PT can be used in VMX operation", "VMX_MISC_INTEL_PT")
    SMBASE_IN_SMM = bit(15, "RDMSR can read IA32_SMBASE in SMM", "VMX_MISC_RDMSR_IN_SMM")
    CR3_TARGETS = mask(24, 16, "number of CR3-target values")
    MAX_MSR_LIST = mask(27, 25, "N, where MSR lists hold 512 * (N + 1) entries at most")
    SMI_UNBLOCK_BY_VMXOFF = bit(
        28, "IA32_SMM_MONITOR_CTL[2] can be set to 1", "VMX_MISC_VMXOFF_BLOCK_SMI"
    )
    VMWRITE_ANY_FIELD = bit(
        29, "VMWRITE can write every supported field", "VMX_MISC_VMWRITE_SHADOW_RO_FIELDS"
    )
    ZERO_LENGTH_INJECTION = bit(
        30, "software events may be injected with instruction length 0", "VMX_MISC_ZERO_LEN_INS"
    )
    MSEG_REVISION_ID = mask(63, 32, "MSEG revision identifier")


class VmcsEnum:
    """IA32_VMX_VMCS_ENUM."""

    HIGHEST_INDEX = mask(9, 1, "highest index value of any field encoding")


class EptVpidCap:
    """IA32_VMX_EPT_VPID_CAP. The kernel's VMX_VPID_* macros are positions in its high half."""

    EXECUTE_ONLY = bit(0, "execute-only translations by EPT", "VMX_EPT_EXECUTE_ONLY_BIT")
    PAGE_WALK_4 = bit(6, "page-walk length of 4", "VMX_EPT_PAGE_WALK_4_BIT")
    PAGE_WALK_5 = bit(7, "page-walk length of 5", "VMX_EPT_PAGE_WALK_5_BIT")
    MEMORY_TYPE_UC = bit(8, "EPT paging-structure memory type UC", "VMX_EPTP_UC_BIT")
    MEMORY_TYPE_WB = bit(14, "EPT paging-structure memory type WB", "VMX_EPTP_WB_BIT")
    PAGE_2MB = bit(16, "2-MByte EPT pages", "VMX_EPT_2MB_PAGE_BIT")
    PAGE_1GB = bit(17, "1-GByte EPT pages", "VMX_EPT_1GB_PAGE_BIT")
    INVEPT = bit(20, "INVEPT instruction", "VMX_EPT_INVEPT_BIT")
    ACCESSED_DIRTY = bit(21, "accessed and dirty flags for EPT", "VMX_EPT_AD_BIT")
    ADVANCED_EXIT_INFORMATION = bit(22, "advanced VM-exit information for EPT violations")
    SUPERVISOR_SHADOW_STACK = bit(23, "supervisor shadow-stack control")
    INVEPT_SINGLE_CONTEXT = bit(25, "single-context INVEPT", "VMX_EPT_EXTENT_CONTEXT_BIT")
    INVEPT_ALL_CONTEXTS = bit(26, "all-context INVEPT", "VMX_EPT_EXTENT_GLOBAL_BIT")
    INVVPID = bit(32, "INVVPID instruction", "VMX_VPID_INVVPID_BIT")
    INVVPID_INDIVIDUAL_ADDRESS = bit(
        40, "individual-address INVVPID", "VMX_VPID_EXTENT_INDIVIDUAL_ADDR_BIT"
    )
    INVVPID_SINGLE_CONTEXT = bit(41, "single-context INVVPID", "VMX_VPID_EXTENT_SINGLE_CONTEXT_BIT")
    INVVPID_ALL_CONTEXTS = bit(42, "all-context INVVPID", "VMX_VPID_EXTENT_GLOBAL_CONTEXT_BIT")
    INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS = bit(
        43, "single-context-retaining-globals INVVPID", "VMX_VPID_EXTENT_SINGLE_NON_GLOBAL_BIT"
    )
    MAX_HLAT_PREFIX_SIZE = mask(53, 48, "maximum HLAT prefix size")
