# SPDX-License-Identifier: GPL-2.0-only
"""The control words of the VMCS: one class a word, one mask a control.

SDM: "VM-Execution Control Fields", "VM-Exit Control Fields" and "VM-Entry Control Fields".
A control without a macro has none in the kernel's asm/vmx.h.
"""

from nvmxfuzz.arch.bits import bit


class Pin:
    """Pin-based VM-execution controls, 32 bits."""

    EXTERNAL_INTERRUPT_EXITING = bit(0, "external-interrupt exiting", "PIN_BASED_EXT_INTR_MASK")
    NMI_EXITING = bit(3, "NMI exiting", "PIN_BASED_NMI_EXITING")
    VIRTUAL_NMIS = bit(5, "virtual NMIs", "PIN_BASED_VIRTUAL_NMIS")
    ACTIVATE_VMX_PREEMPTION_TIMER = bit(
        6, "activate VMX-preemption timer", "PIN_BASED_VMX_PREEMPTION_TIMER"
    )
    PROCESS_POSTED_INTERRUPTS = bit(7, "process posted interrupts", "PIN_BASED_POSTED_INTR")


class Primary:
    """Primary processor-based VM-execution controls, 32 bits."""

    INTERRUPT_WINDOW_EXITING = bit(2, "interrupt-window exiting", "CPU_BASED_INTR_WINDOW_EXITING")
    USE_TSC_OFFSETTING = bit(3, "use TSC offsetting", "CPU_BASED_USE_TSC_OFFSETTING")
    HLT_EXITING = bit(7, "HLT exiting", "CPU_BASED_HLT_EXITING")
    INVLPG_EXITING = bit(9, "INVLPG exiting", "CPU_BASED_INVLPG_EXITING")
    MWAIT_EXITING = bit(10, "MWAIT exiting", "CPU_BASED_MWAIT_EXITING")
    RDPMC_EXITING = bit(11, "RDPMC exiting", "CPU_BASED_RDPMC_EXITING")
    RDTSC_EXITING = bit(12, "RDTSC exiting", "CPU_BASED_RDTSC_EXITING")
    CR3_LOAD_EXITING = bit(15, "CR3-load exiting", "CPU_BASED_CR3_LOAD_EXITING")
    CR3_STORE_EXITING = bit(16, "CR3-store exiting", "CPU_BASED_CR3_STORE_EXITING")
    ACTIVATE_TERTIARY_CONTROLS = bit(
        17, "activate tertiary controls", "CPU_BASED_ACTIVATE_TERTIARY_CONTROLS"
    )
    CR8_LOAD_EXITING = bit(19, "CR8-load exiting", "CPU_BASED_CR8_LOAD_EXITING")
    CR8_STORE_EXITING = bit(20, "CR8-store exiting", "CPU_BASED_CR8_STORE_EXITING")
    USE_TPR_SHADOW = bit(21, "use TPR shadow", "CPU_BASED_TPR_SHADOW")
    NMI_WINDOW_EXITING = bit(22, "NMI-window exiting", "CPU_BASED_NMI_WINDOW_EXITING")
    MOV_DR_EXITING = bit(23, "MOV-DR exiting", "CPU_BASED_MOV_DR_EXITING")
    UNCONDITIONAL_IO_EXITING = bit(24, "unconditional I/O exiting", "CPU_BASED_UNCOND_IO_EXITING")
    USE_IO_BITMAPS = bit(25, "use I/O bitmaps", "CPU_BASED_USE_IO_BITMAPS")
    MONITOR_TRAP_FLAG = bit(27, "monitor trap flag", "CPU_BASED_MONITOR_TRAP_FLAG")
    USE_MSR_BITMAPS = bit(28, "use MSR bitmaps", "CPU_BASED_USE_MSR_BITMAPS")
    MONITOR_EXITING = bit(29, "MONITOR exiting", "CPU_BASED_MONITOR_EXITING")
    PAUSE_EXITING = bit(30, "PAUSE exiting", "CPU_BASED_PAUSE_EXITING")
    ACTIVATE_SECONDARY_CONTROLS = bit(
        31, "activate secondary controls", "CPU_BASED_ACTIVATE_SECONDARY_CONTROLS"
    )


class Secondary:
    """Secondary processor-based VM-execution controls, 32 bits."""

    VIRTUALIZE_APIC_ACCESSES = bit(
        0, "virtualize APIC accesses", "SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES"
    )
    ENABLE_EPT = bit(1, "enable EPT", "SECONDARY_EXEC_ENABLE_EPT")
    DESCRIPTOR_TABLE_EXITING = bit(2, "descriptor-table exiting", "SECONDARY_EXEC_DESC")
    ENABLE_RDTSCP = bit(3, "enable RDTSCP", "SECONDARY_EXEC_ENABLE_RDTSCP")
    VIRTUALIZE_X2APIC_MODE = bit(
        4, "virtualize x2APIC mode", "SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE"
    )
    ENABLE_VPID = bit(5, "enable VPID", "SECONDARY_EXEC_ENABLE_VPID")
    WBINVD_EXITING = bit(6, "WBINVD exiting", "SECONDARY_EXEC_WBINVD_EXITING")
    UNRESTRICTED_GUEST = bit(7, "unrestricted guest", "SECONDARY_EXEC_UNRESTRICTED_GUEST")
    APIC_REGISTER_VIRTUALIZATION = bit(
        8, "APIC-register virtualization", "SECONDARY_EXEC_APIC_REGISTER_VIRT"
    )
    VIRTUAL_INTERRUPT_DELIVERY = bit(
        9, "virtual-interrupt delivery", "SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY"
    )
    PAUSE_LOOP_EXITING = bit(10, "PAUSE-loop exiting", "SECONDARY_EXEC_PAUSE_LOOP_EXITING")
    RDRAND_EXITING = bit(11, "RDRAND exiting", "SECONDARY_EXEC_RDRAND_EXITING")
    ENABLE_INVPCID = bit(12, "enable INVPCID", "SECONDARY_EXEC_ENABLE_INVPCID")
    ENABLE_VM_FUNCTIONS = bit(13, "enable VM functions", "SECONDARY_EXEC_ENABLE_VMFUNC")
    VMCS_SHADOWING = bit(14, "VMCS shadowing", "SECONDARY_EXEC_SHADOW_VMCS")
    ENABLE_ENCLS_EXITING = bit(15, "enable ENCLS exiting", "SECONDARY_EXEC_ENCLS_EXITING")
    RDSEED_EXITING = bit(16, "RDSEED exiting", "SECONDARY_EXEC_RDSEED_EXITING")
    ENABLE_PML = bit(17, "enable PML", "SECONDARY_EXEC_ENABLE_PML")
    EPT_VIOLATION_VE = bit(18, "EPT-violation #VE", "SECONDARY_EXEC_EPT_VIOLATION_VE")
    CONCEAL_VMX_FROM_PT = bit(19, "conceal VMX from PT", "SECONDARY_EXEC_PT_CONCEAL_VMX")
    ENABLE_XSAVES_XRSTORS = bit(20, "enable XSAVES/XRSTORS", "SECONDARY_EXEC_ENABLE_XSAVES")
    PASID_TRANSLATION = bit(21, "PASID translation")
    MODE_BASED_EXECUTE_CONTROL_FOR_EPT = bit(
        22, "mode-based execute control for EPT", "SECONDARY_EXEC_MODE_BASED_EPT_EXEC"
    )
    SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT = bit(23, "sub-page write permissions for EPT")
    INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES = bit(
        24, "Intel PT uses guest physical addresses", "SECONDARY_EXEC_PT_USE_GPA"
    )
    USE_TSC_SCALING = bit(25, "use TSC scaling", "SECONDARY_EXEC_TSC_SCALING")
    ENABLE_USER_WAIT_AND_PAUSE = bit(
        26, "enable user wait and pause", "SECONDARY_EXEC_ENABLE_USR_WAIT_PAUSE"
    )
    ENABLE_PCONFIG = bit(27, "enable PCONFIG")
    # Missing in recent editions of the SDM; the kernel keeps it as VMX_FEATURE_ENCLV_EXITING.
    ENABLE_ENCLV_EXITING = bit(28, "enable ENCLV exiting")
    VMM_BUS_LOCK_DETECTION = bit(30, "VMM bus-lock detection", "SECONDARY_EXEC_BUS_LOCK_DETECTION")
    INSTRUCTION_TIMEOUT = bit(31, "instruction timeout", "SECONDARY_EXEC_NOTIFY_VM_EXITING")


class Tertiary:
    """Tertiary processor-based VM-execution controls, 64 bits."""

    LOADIWKEY_EXITING = bit(0, "LOADIWKEY exiting")
    ENABLE_HLAT = bit(1, "enable HLAT")
    EPT_PAGING_WRITE_CONTROL = bit(2, "EPT paging-write control")
    GUEST_PAGING_VERIFICATION = bit(3, "guest-paging verification")
    IPI_VIRTUALIZATION = bit(4, "IPI virtualization", "TERTIARY_EXEC_IPI_VIRT")
    SEAM_GUEST_PHYSICAL_ADDRESS_WIDTH = bit(5, "SEAM guest-physical address width")
    ENABLE_MSR_LIST_INSTRUCTIONS = bit(6, "enable MSR-list instructions")
    VIRTUALIZE_IA32_SPEC_CTRL = bit(7, "virtualize IA32_SPEC_CTRL")
    APIC_TIMER_VIRTUALIZATION = bit(8, "APIC-timer virtualization")
    ENABLE_PBNDKB = bit(9, "enable PBNDKB")
    PEBS_USES_GUEST_PHYSICAL_ADDRESSES = bit(12, "PEBS uses guest physical addresses")


class VmExit:
    """Primary VM-exit controls, 32 bits."""

    SAVE_DEBUG_CONTROLS = bit(2, "save debug controls", "VM_EXIT_SAVE_DEBUG_CONTROLS")
    HOST_ADDRESS_SPACE_SIZE = bit(9, "host address-space size", "VM_EXIT_HOST_ADDR_SPACE_SIZE")
    LOAD_IA32_PERF_GLOBAL_CTRL = bit(
        12, "load IA32_PERF_GLOBAL_CTRL", "VM_EXIT_LOAD_IA32_PERF_GLOBAL_CTRL"
    )
    ACKNOWLEDGE_INTERRUPT_ON_EXIT = bit(
        15, "acknowledge interrupt on exit", "VM_EXIT_ACK_INTR_ON_EXIT"
    )
    SAVE_IA32_PAT = bit(18, "save IA32_PAT", "VM_EXIT_SAVE_IA32_PAT")
    LOAD_IA32_PAT = bit(19, "load IA32_PAT", "VM_EXIT_LOAD_IA32_PAT")
    SAVE_IA32_EFER = bit(20, "save IA32_EFER", "VM_EXIT_SAVE_IA32_EFER")
    LOAD_IA32_EFER = bit(21, "load IA32_EFER", "VM_EXIT_LOAD_IA32_EFER")
    SAVE_VMX_PREEMPTION_TIMER_VALUE = bit(
        22, "save VMX-preemption timer value", "VM_EXIT_SAVE_VMX_PREEMPTION_TIMER"
    )
    CLEAR_IA32_BNDCFGS = bit(23, "clear IA32_BNDCFGS", "VM_EXIT_CLEAR_BNDCFGS")
    CONCEAL_VMX_FROM_PT = bit(24, "conceal VMX from PT", "VM_EXIT_PT_CONCEAL_PIP")
    CLEAR_IA32_RTIT_CTL = bit(25, "clear IA32_RTIT_CTL", "VM_EXIT_CLEAR_IA32_RTIT_CTL")
    CLEAR_IA32_LBR_CTL = bit(26, "clear IA32_LBR_CTL")
    CLEAR_UINV = bit(27, "clear UINV")
    LOAD_CET_STATE = bit(28, "load CET state")
    LOAD_PKRS = bit(29, "load PKRS")
    SAVE_IA32_PERF_GLOBAL_CTL = bit(30, "save IA32_PERF_GLOBAL_CTL")
    ACTIVATE_SECONDARY_CONTROLS = bit(31, "activate secondary controls")


class VmExit2:
    """Secondary VM-exit controls, 64 bits."""

    SAVE_IA32_FRED = bit(0, "save FRED")
    LOAD_IA32_FRED = bit(1, "load FRED")
    LOAD_IA32_SPEC_CTRL = bit(2, "load IA32_SPEC_CTRL")
    PREMATURELY_BUSY_SHADOW_STACK = bit(3, "prematurely busy shadow stack")


class VmEntry:
    """VM-entry controls, 32 bits."""

    LOAD_DEBUG_CONTROLS = bit(2, "load debug controls", "VM_ENTRY_LOAD_DEBUG_CONTROLS")
    IA_32E_MODE_GUEST = bit(9, "IA-32e mode guest", "VM_ENTRY_IA32E_MODE")
    ENTRY_TO_SMM = bit(10, "entry to SMM", "VM_ENTRY_SMM")
    DEACTIVATE_DUAL_MONITOR_TREATMENT = bit(
        11, "deactivate dual-monitor treatment", "VM_ENTRY_DEACT_DUAL_MONITOR"
    )
    LOAD_IA32_PERF_GLOBAL_CTRL = bit(
        13, "load IA32_PERF_GLOBAL_CTRL", "VM_ENTRY_LOAD_IA32_PERF_GLOBAL_CTRL"
    )
    LOAD_IA32_PAT = bit(14, "load IA32_PAT", "VM_ENTRY_LOAD_IA32_PAT")
    LOAD_IA32_EFER = bit(15, "load IA32_EFER", "VM_ENTRY_LOAD_IA32_EFER")
    LOAD_IA32_BNDCFGS = bit(16, "load IA32_BNDCFGS", "VM_ENTRY_LOAD_BNDCFGS")
    CONCEAL_VMX_FROM_PT = bit(17, "conceal VMX from PT", "VM_ENTRY_PT_CONCEAL_PIP")
    LOAD_IA32_RTIT_CTL = bit(18, "load IA32_RTIT_CTL", "VM_ENTRY_LOAD_IA32_RTIT_CTL")
    LOAD_UINV = bit(19, "load UINV")
    LOAD_CET_STATE = bit(20, "load CET state")
    LOAD_GUEST_IA32_LBR_CTL = bit(21, "load guest IA32_LBR_CTL")
    LOAD_PKRS = bit(22, "load PKRS")
    LOAD_IA32_FRED = bit(23, "load FRED")
    LOAD_IA32_SPEC_CTRL = bit(24, "load IA32_SPEC_CTRL")
    ALLOW_SEAM_GUEST_TELEMETRY = bit(25, "allow SEAM-guest telemetry")


class VmFunction:
    """VM-function controls, 64 bits."""

    EPTP_SWITCHING = bit(0, "EPTP switching", "VMX_VMFUNC_EPTP_SWITCHING")


# What the plain capability MSRs always report as 1: the SDM calls it the "default1 class". A
# processor that lets software clear such a control says so in the TRUE MSRs.
PIN_DEFAULT1 = 0x0000_0016
PRIMARY_DEFAULT1 = 0x0401_E172
VM_EXIT_DEFAULT1 = 0x0003_6DFF
VM_ENTRY_DEFAULT1 = 0x0000_11FF
