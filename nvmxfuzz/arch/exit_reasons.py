# SPDX-License-Identifier: GPL-2.0-only
"""Basic exit reasons, bits 15:0 of the exit-reason field, and the field's other bits.

SDM: "VMX Basic Exit Reasons" and "Basic VM-Exit Information".
"""

from nvmxfuzz.arch.bits import Named, bit, mask


class ExitReason:
    """Basic exit reasons."""

    EXCEPTION_NMI = Named(
        0, "exception or non-maskable interrupt (NMI)", "EXIT_REASON_EXCEPTION_NMI"
    )
    EXTERNAL_INTERRUPT = Named(1, "external interrupt", "EXIT_REASON_EXTERNAL_INTERRUPT")
    TRIPLE_FAULT = Named(2, "triple fault", "EXIT_REASON_TRIPLE_FAULT")
    INIT_SIGNAL = Named(3, "INIT signal", "EXIT_REASON_INIT_SIGNAL")
    SIPI_SIGNAL = Named(4, "start-up IPI (SIPI)", "EXIT_REASON_SIPI_SIGNAL")
    IO_SMI = Named(5, "I/O system-management interrupt (SMI)")
    OTHER_SMI = Named(6, "other SMI")
    INTERRUPT_WINDOW = Named(7, "interrupt window", "EXIT_REASON_INTERRUPT_WINDOW")
    NMI_WINDOW = Named(8, "NMI window", "EXIT_REASON_NMI_WINDOW")
    TASK_SWITCH = Named(9, "task switch", "EXIT_REASON_TASK_SWITCH")
    CPUID = Named(10, "CPUID", "EXIT_REASON_CPUID")
    GETSEC = Named(11, "GETSEC")
    HLT = Named(12, "HLT", "EXIT_REASON_HLT")
    INVD = Named(13, "INVD", "EXIT_REASON_INVD")
    INVLPG = Named(14, "INVLPG", "EXIT_REASON_INVLPG")
    RDPMC = Named(15, "RDPMC", "EXIT_REASON_RDPMC")
    RDTSC = Named(16, "RDTSC", "EXIT_REASON_RDTSC")
    RSM = Named(17, "RSM")
    VMCALL = Named(18, "VMCALL", "EXIT_REASON_VMCALL")
    VMCLEAR = Named(19, "VMCLEAR", "EXIT_REASON_VMCLEAR")
    VMLAUNCH = Named(20, "VMLAUNCH", "EXIT_REASON_VMLAUNCH")
    VMPTRLD = Named(21, "VMPTRLD", "EXIT_REASON_VMPTRLD")
    VMPTRST = Named(22, "VMPTRST", "EXIT_REASON_VMPTRST")
    VMREAD = Named(23, "VMREAD", "EXIT_REASON_VMREAD")
    VMRESUME = Named(24, "VMRESUME", "EXIT_REASON_VMRESUME")
    VMWRITE = Named(25, "VMWRITE", "EXIT_REASON_VMWRITE")
    VMOFF = Named(26, "VMXOFF", "EXIT_REASON_VMOFF")
    VMON = Named(27, "VMXON", "EXIT_REASON_VMON")
    CR_ACCESS = Named(28, "control-register accesses", "EXIT_REASON_CR_ACCESS")
    DR_ACCESS = Named(29, "MOV DR", "EXIT_REASON_DR_ACCESS")
    IO_INSTRUCTION = Named(30, "I/O instruction", "EXIT_REASON_IO_INSTRUCTION")
    MSR_READ = Named(31, "RDMSR", "EXIT_REASON_MSR_READ")
    MSR_WRITE = Named(32, "WRMSR", "EXIT_REASON_MSR_WRITE")
    INVALID_STATE = Named(
        33, "VM-entry failure due to invalid guest state", "EXIT_REASON_INVALID_STATE"
    )
    MSR_LOAD_FAIL = Named(34, "VM-entry failure due to MSR loading", "EXIT_REASON_MSR_LOAD_FAIL")
    MWAIT_INSTRUCTION = Named(36, "MWAIT", "EXIT_REASON_MWAIT_INSTRUCTION")
    MONITOR_TRAP_FLAG = Named(37, "monitor trap flag", "EXIT_REASON_MONITOR_TRAP_FLAG")
    MONITOR_INSTRUCTION = Named(39, "MONITOR", "EXIT_REASON_MONITOR_INSTRUCTION")
    PAUSE_INSTRUCTION = Named(40, "PAUSE", "EXIT_REASON_PAUSE_INSTRUCTION")
    MCE_DURING_VMENTRY = Named(
        41, "VM-entry failure due to machine-check event", "EXIT_REASON_MCE_DURING_VMENTRY"
    )
    TPR_BELOW_THRESHOLD = Named(43, "TPR below threshold", "EXIT_REASON_TPR_BELOW_THRESHOLD")
    APIC_ACCESS = Named(44, "APIC access", "EXIT_REASON_APIC_ACCESS")
    EOI_INDUCED = Named(45, "virtualized EOI", "EXIT_REASON_EOI_INDUCED")
    GDTR_IDTR = Named(46, "access to GDTR or IDTR", "EXIT_REASON_GDTR_IDTR")
    LDTR_TR = Named(47, "access to LDTR or TR", "EXIT_REASON_LDTR_TR")
    EPT_VIOLATION = Named(48, "EPT violation", "EXIT_REASON_EPT_VIOLATION")
    EPT_MISCONFIG = Named(49, "EPT misconfiguration", "EXIT_REASON_EPT_MISCONFIG")
    INVEPT = Named(50, "INVEPT", "EXIT_REASON_INVEPT")
    RDTSCP = Named(51, "RDTSCP", "EXIT_REASON_RDTSCP")
    PREEMPTION_TIMER = Named(52, "VMX-preemption timer expired", "EXIT_REASON_PREEMPTION_TIMER")
    INVVPID = Named(53, "INVVPID", "EXIT_REASON_INVVPID")
    WBINVD = Named(54, "WBINVD or WBNOINVD", "EXIT_REASON_WBINVD")
    XSETBV = Named(55, "XSETBV", "EXIT_REASON_XSETBV")
    APIC_WRITE = Named(56, "APIC write", "EXIT_REASON_APIC_WRITE")
    RDRAND = Named(57, "RDRAND", "EXIT_REASON_RDRAND")
    INVPCID = Named(58, "INVPCID", "EXIT_REASON_INVPCID")
    VMFUNC = Named(59, "VMFUNC", "EXIT_REASON_VMFUNC")
    ENCLS = Named(60, "ENCLS", "EXIT_REASON_ENCLS")
    RDSEED = Named(61, "RDSEED", "EXIT_REASON_RDSEED")
    PML_FULL = Named(62, "page-modification log full", "EXIT_REASON_PML_FULL")
    XSAVES = Named(63, "XSAVES", "EXIT_REASON_XSAVES")
    XRSTORS = Named(64, "XRSTORS", "EXIT_REASON_XRSTORS")
    PCONFIG = Named(65, "PCONFIG")
    SPP_RELATED_EVENT = Named(66, "SPP-related event")
    UMWAIT = Named(67, "UMWAIT", "EXIT_REASON_UMWAIT")
    TPAUSE = Named(68, "TPAUSE", "EXIT_REASON_TPAUSE")
    LOADIWKEY = Named(69, "LOADIWKEY")
    ENCLV = Named(70, "ENCLV")
    ENQCMD_PASID = Named(72, "ENQCMD PASID translation failure")
    ENQCMDS_PASID = Named(73, "ENQCMDS PASID translation failure")
    BUS_LOCK = Named(74, "bus lock", "EXIT_REASON_BUS_LOCK")
    NOTIFY = Named(75, "instruction timeout", "EXIT_REASON_NOTIFY")
    SEAMCALL = Named(76, "SEAMCALL")
    TDCALL = Named(77, "TDCALL")
    RDMSRLIST = Named(78, "RDMSRLIST")
    WRMSRLIST = Named(79, "WRMSRLIST")


class ExitReasonField:
    """The exit-reason field of the VMCS, 32 bits."""

    BASIC = mask(15, 0, "basic exit reason")
    BUSY_SHADOW_STACK = bit(25, "a shadow stack became prematurely busy")
    BUS_LOCK = bit(26, "a bus lock was asserted")
    ENCLAVE_MODE = bit(27, "incident to enclave mode", "VMX_EXIT_REASONS_SGX_ENCLAVE_MODE")
    PENDING_MTF = bit(28, "pending MTF VM exit")
    FROM_ROOT = bit(29, "VM exit from VMX root operation")
    ENTRY_FAILURE = bit(31, "VM-entry failure", "VMX_EXIT_REASONS_FAILED_VMENTRY")


class VmxAbort:
    """VMX-abort indicators. SDM: "VMX Aborts"."""

    SAVE_GUEST_MSR = Named(1, "saving guest MSRs failed", "VMX_ABORT_SAVE_GUEST_MSR_FAIL")
    HOST_PDPTE = Named(2, "host PDPTE checking failed", "VMX_ABORT_LOAD_HOST_PDPTE_FAIL")
    CORRUPTED_VMCS = Named(3, "the current VMCS was corrupted")
    LOAD_HOST_MSR = Named(4, "loading host MSRs failed", "VMX_ABORT_LOAD_HOST_MSR_FAIL")
    MACHINE_CHECK = Named(5, "machine-check event during the VM exit")
    IA_32E_MODE = Named(6, "IA-32e mode before, but not after the VM exit")
