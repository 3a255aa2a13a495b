# SPDX-License-Identifier: GPL-2.0-only
"""Layouts of control registers, debug registers, flags and of the MSRs that VM entry loads.

SDM: "Control Registers", "EFLAGS Register", "Debug Registers", and the chapter on MSRs.
"""

from nvmxfuzz.arch.bits import Bit, bit, mask


class Cr0:
    """Control register CR0."""

    PE = bit(0, "protection enable", "X86_CR0_PE")
    MP = bit(1, "monitor coprocessor", "X86_CR0_MP")
    EM = bit(2, "emulation", "X86_CR0_EM")
    TS = bit(3, "task switched", "X86_CR0_TS")
    ET = bit(4, "extension type", "X86_CR0_ET")
    NE = bit(5, "numeric error", "X86_CR0_NE")
    WP = bit(16, "write protect", "X86_CR0_WP")
    AM = bit(18, "alignment mask", "X86_CR0_AM")
    NW = bit(29, "not write-through", "X86_CR0_NW")
    CD = bit(30, "cache disable", "X86_CR0_CD")
    PG = bit(31, "paging", "X86_CR0_PG")


class Cr3:
    """Control register CR3."""

    PWT = bit(3, "page-level write-through", "X86_CR3_PWT")
    PCD = bit(4, "page-level cache disable", "X86_CR3_PCD")
    PCID = mask(11, 0, "process-context identifier", "X86_CR3_PCID_MASK")
    LAM_U57 = bit(61, "linear-address masking for user pointers, 57 bits", "X86_CR3_LAM_U57")
    LAM_U48 = bit(62, "linear-address masking for user pointers, 48 bits", "X86_CR3_LAM_U48")


class Cr4:
    """Control register CR4."""

    VME = bit(0, "virtual-8086 mode extensions", "X86_CR4_VME")
    PVI = bit(1, "protected-mode virtual interrupts", "X86_CR4_PVI")
    TSD = bit(2, "time stamp disable", "X86_CR4_TSD")
    DE = bit(3, "debugging extensions", "X86_CR4_DE")
    PSE = bit(4, "page size extensions", "X86_CR4_PSE")
    PAE = bit(5, "physical address extension", "X86_CR4_PAE")
    MCE = bit(6, "machine-check enable", "X86_CR4_MCE")
    PGE = bit(7, "page global enable", "X86_CR4_PGE")
    PCE = bit(8, "performance-monitoring counter enable", "X86_CR4_PCE")
    OSFXSR = bit(9, "operating system support for FXSAVE and FXRSTOR", "X86_CR4_OSFXSR")
    OSXMMEXCPT = bit(
        10, "operating system support for unmasked SIMD exceptions", "X86_CR4_OSXMMEXCPT"
    )
    UMIP = bit(11, "user-mode instruction prevention", "X86_CR4_UMIP")
    LA57 = bit(12, "57-bit linear addresses", "X86_CR4_LA57")
    VMXE = bit(13, "VMX enable", "X86_CR4_VMXE")
    SMXE = bit(14, "SMX enable", "X86_CR4_SMXE")
    FSGSBASE = bit(16, "FSGSBASE enable", "X86_CR4_FSGSBASE")
    PCIDE = bit(17, "PCID enable", "X86_CR4_PCIDE")
    OSXSAVE = bit(18, "XSAVE and processor extended states enable", "X86_CR4_OSXSAVE")
    KL = bit(19, "Key Locker enable")
    SMEP = bit(20, "supervisor-mode execution prevention", "X86_CR4_SMEP")
    SMAP = bit(21, "supervisor-mode access prevention", "X86_CR4_SMAP")
    PKE = bit(22, "protection keys for user-mode pages", "X86_CR4_PKE")
    CET = bit(23, "control-flow enforcement technology", "X86_CR4_CET")
    PKS = bit(24, "protection keys for supervisor-mode pages")
    UINTR = bit(25, "user interrupts enable")
    LASS = bit(27, "linear-address-space separation")
    LAM_SUP = bit(28, "linear-address masking for supervisor pointers", "X86_CR4_LAM_SUP")
    FRED = bit(32, "flexible return and event delivery", "X86_CR4_FRED")


class Efer:
    """IA32_EFER."""

    SCE = bit(0, "SYSCALL enable", "EFER_SCE")
    LME = bit(8, "IA-32e mode enable", "EFER_LME")
    LMA = bit(10, "IA-32e mode active", "EFER_LMA")
    NXE = bit(11, "execute disable bit enable", "EFER_NX")
    RESERVED = Bit(0xFFFF_FFFF_FFFF_F2FE, "reserved")


class Rflags:
    """RFLAGS."""

    CF = bit(0, "carry flag", "X86_EFLAGS_CF")
    FIXED1 = bit(1, "reserved, always 1", "X86_EFLAGS_FIXED")
    PF = bit(2, "parity flag", "X86_EFLAGS_PF")
    AF = bit(4, "auxiliary carry flag", "X86_EFLAGS_AF")
    ZF = bit(6, "zero flag", "X86_EFLAGS_ZF")
    SF = bit(7, "sign flag", "X86_EFLAGS_SF")
    TF = bit(8, "trap flag", "X86_EFLAGS_TF")
    IF = bit(9, "interrupt enable flag", "X86_EFLAGS_IF")
    DF = bit(10, "direction flag", "X86_EFLAGS_DF")
    OF = bit(11, "overflow flag", "X86_EFLAGS_OF")
    IOPL = mask(13, 12, "I/O privilege level", "X86_EFLAGS_IOPL")
    NT = bit(14, "nested task", "X86_EFLAGS_NT")
    RF = bit(16, "resume flag", "X86_EFLAGS_RF")
    VM = bit(17, "virtual-8086 mode", "X86_EFLAGS_VM")
    AC = bit(18, "alignment check", "X86_EFLAGS_AC")
    VIF = bit(19, "virtual interrupt flag", "X86_EFLAGS_VIF")
    VIP = bit(20, "virtual interrupt pending", "X86_EFLAGS_VIP")
    ID = bit(21, "identification flag", "X86_EFLAGS_ID")
    RESERVED = Bit(0xFFFF_FFFF_FFC0_8028, "reserved, always 0")


class Dr7:
    """Debug register DR7."""

    L0 = bit(0, "local breakpoint enable 0")
    G0 = bit(1, "global breakpoint enable 0")
    L1 = bit(2, "local breakpoint enable 1")
    G1 = bit(3, "global breakpoint enable 1")
    L2 = bit(4, "local breakpoint enable 2")
    G2 = bit(5, "global breakpoint enable 2")
    L3 = bit(6, "local breakpoint enable 3")
    G3 = bit(7, "global breakpoint enable 3")
    LE = bit(8, "local exact breakpoint enable", "DR_LOCAL_SLOWDOWN")
    GE = bit(9, "global exact breakpoint enable", "DR_GLOBAL_SLOWDOWN")
    FIXED1 = bit(10, "reserved, always 1")
    RTM = bit(11, "restricted transactional memory")
    GD = bit(13, "general detect enable")
    RW0 = mask(17, 16, "read/write 0")
    LEN0 = mask(19, 18, "length 0")
    RW1 = mask(21, 20, "read/write 1")
    LEN1 = mask(23, 22, "length 1")
    RW2 = mask(25, 24, "read/write 2")
    LEN2 = mask(27, 26, "length 2")
    RW3 = mask(29, 28, "read/write 3")
    LEN3 = mask(31, 30, "length 3")


class DebugCtl:
    """IA32_DEBUGCTL. Which bits exist varies by processor."""

    LBR = bit(0, "last branch record", "DEBUGCTLMSR_LBR")
    BTF = bit(1, "single-step on branches", "DEBUGCTLMSR_BTF")
    BUS_LOCK_DETECT = bit(2, "bus-lock detection", "DEBUGCTLMSR_BUS_LOCK_DETECT")
    TR = bit(6, "trace messages enable", "DEBUGCTLMSR_TR")
    BTS = bit(7, "branch trace store", "DEBUGCTLMSR_BTS")
    BTINT = bit(8, "branch trace interrupt", "DEBUGCTLMSR_BTINT")
    BTS_OFF_OS = bit(9, "branch trace off in privileged code", "DEBUGCTLMSR_BTS_OFF_OS")
    BTS_OFF_USR = bit(10, "branch trace off in user code", "DEBUGCTLMSR_BTS_OFF_USR")
    FREEZE_LBRS_ON_PMI = bit(11, "freeze LBRs on PMI", "DEBUGCTLMSR_FREEZE_LBRS_ON_PMI")
    FREEZE_PERFMON_ON_PMI = bit(
        12, "freeze performance counters on PMI", "DEBUGCTLMSR_FREEZE_PERFMON_ON_PMI"
    )
    ENABLE_UNCORE_PMI = bit(13, "enable uncore PMI")
    FREEZE_IN_SMM = bit(14, "freeze while in SMM", "DEBUGCTLMSR_FREEZE_IN_SMM")
    RTM = bit(15, "RTM debug", "DEBUGCTLMSR_RTM_DEBUG")


class Pat:
    """IA32_PAT: eight memory types, one a byte, each in bits 2:0 of its byte."""

    PA0 = mask(2, 0, "page attribute 0")
    PA1 = mask(10, 8, "page attribute 1")
    PA2 = mask(18, 16, "page attribute 2")
    PA3 = mask(26, 24, "page attribute 3")
    PA4 = mask(34, 32, "page attribute 4")
    PA5 = mask(42, 40, "page attribute 5")
    PA6 = mask(50, 48, "page attribute 6")
    PA7 = mask(58, 56, "page attribute 7")
    RESERVED = Bit(0xF8F8_F8F8_F8F8_F8F8, "reserved")


class PerfGlobalCtrl:
    """IA32_PERF_GLOBAL_CTRL. How many counters exist varies by processor."""

    PMC = mask(31, 0, "general-purpose counters enable")
    FIXED = mask(47, 32, "fixed-function counters enable")
    PERF_METRICS = bit(48, "performance metrics enable")


class SCet:
    """IA32_S_CET, the CET state of supervisor mode (CPL < 3)."""

    SH_STK_EN = bit(0, "shadow stacks enable", "CET_SHSTK_EN")
    WR_SHSTK_EN = bit(1, "WRSS enable", "CET_WRSS_EN")
    ENDBR_EN = bit(2, "indirect branch tracking enable", "CET_ENDBR_EN")
    LEG_IW_EN = bit(3, "legacy compatibility treatment enable", "CET_LEG_IW_EN")
    NO_TRACK_EN = bit(4, "no-track prefix enable", "CET_NO_TRACK_EN")
    SUPPRESS_DIS = bit(5, "suppression of tracking disable", "CET_SUPPRESS_DISABLE")
    RESERVED = mask(9, 6, "reserved", "CET_RESERVED")
    SUPPRESS = bit(10, "tracking suppressed", "CET_SUPPRESS")
    TRACKER = bit(11, "indirect branch tracker state: wait for ENDBRANCH", "CET_WAIT_ENDBR")
    EB_LEG_BITMAP_BASE = mask(63, 12, "linear base of the legacy code page bitmap")


class BndCfgs:
    """IA32_BNDCFGS."""

    EN = bit(0, "enable MPX in supervisor mode")
    BNDPRESERVE = bit(1, "preserve bound registers on near branches")
    RESERVED = mask(11, 2, "reserved", "MSR_IA32_BNDCFGS_RSVD")
    BASE = mask(63, 12, "linear base of the bound directory")


class RtitCtl:
    """IA32_RTIT_CTL. Which bits exist varies by processor (CPUID leaf 14H)."""

    TRACEEN = bit(0, "enable tracing", "RTIT_CTL_TRACEEN")
    CYCEN = bit(1, "enable CYC packets", "RTIT_CTL_CYCLEACC")
    OS = bit(2, "trace CPL 0", "RTIT_CTL_OS")
    USER = bit(3, "trace CPL above 0", "RTIT_CTL_USR")
    PWREVTEN = bit(4, "enable power event trace packets", "RTIT_CTL_PWR_EVT_EN")
    FUPONPTW = bit(5, "FUP packets after PTW packets", "RTIT_CTL_FUP_ON_PTW")
    FABRICEN = bit(6, "output to the trace transport subsystem", "RTIT_CTL_FABRIC_EN")
    CR3FILTER = bit(7, "enable CR3 filtering", "RTIT_CTL_CR3EN")
    TOPA = bit(8, "table of physical addresses output", "RTIT_CTL_TOPA")
    MTCEN = bit(9, "enable MTC packets", "RTIT_CTL_MTC_EN")
    TSCEN = bit(10, "enable TSC packets", "RTIT_CTL_TSC_EN")
    DISRETC = bit(11, "disable RET compression", "RTIT_CTL_DISRETC")
    PTWEN = bit(12, "enable PTW packets", "RTIT_CTL_PTW_EN")
    BRANCHEN = bit(13, "enable branch packets", "RTIT_CTL_BRANCH_EN")
    MTCFREQ = mask(17, 14, "MTC packet frequency", "RTIT_CTL_MTC_RANGE")
    CYCTHRESH = mask(22, 19, "CYC packet threshold", "RTIT_CTL_CYC_THRESH")
    PSBFREQ = mask(27, 24, "PSB packet frequency", "RTIT_CTL_PSB_FREQ")
    EVENTEN = bit(31, "enable event trace packets", "RTIT_CTL_EVENT_EN")
    ADDR0_CFG = mask(35, 32, "address range 0", "RTIT_CTL_ADDR0")
    ADDR1_CFG = mask(39, 36, "address range 1", "RTIT_CTL_ADDR1")
    ADDR2_CFG = mask(43, 40, "address range 2", "RTIT_CTL_ADDR2")
    ADDR3_CFG = mask(47, 44, "address range 3", "RTIT_CTL_ADDR3")
    DISTNT = bit(55, "disable TNT packets", "RTIT_CTL_NOTNT")
    INJECTPSBPMIONENABLE = bit(56, "pend a PSB and PMI when tracing is next enabled")


class LbrCtl:
    """IA32_LBR_CTL, architectural last branch records."""

    LBREN = bit(0, "enable LBRs", "ARCH_LBR_CTL_LBREN")
    OS = bit(1, "record at CPL 0")
    USR = bit(2, "record at CPL above 0")
    CALL_STACK = bit(3, "call-stack mode", "ARCH_LBR_CTL_STACK")
    FILTER = mask(22, 16, "branch types to record", "ARCH_LBR_CTL_FILTER")


class Pkrs:
    """IA32_PKRS: access-disable and write-disable bits for 16 keys."""

    KEYS = mask(31, 0, "access rights of the protection keys")


class FredConfig:
    """IA32_FRED_CONFIG."""

    CSL = mask(1, 0, "current stack level")
    SSP_DECREMENT = bit(3, "decrement SSP by 8 when the stack level does not change")
    RSP_DECREMENT = mask(8, 6, "decrement of RSP, in units of 64 bytes")
    INTERRUPT_STACK_LEVEL = mask(10, 9, "stack level for maskable interrupts")
    ENTRY_POINT = mask(63, 12, "linear address of the event handlers' page")
    RESERVED = Bit(0x0000_0834, "reserved")


class SpecCtrl:
    """IA32_SPEC_CTRL. Which bits exist varies by processor."""

    IBRS = bit(0, "indirect branch restricted speculation", "SPEC_CTRL_IBRS")
    STIBP = bit(1, "single thread indirect branch predictors", "SPEC_CTRL_STIBP")
    SSBD = bit(2, "speculative store bypass disable", "SPEC_CTRL_SSBD")
    IPRED_DIS_U = bit(3, "indirect predictor disable, user")
    IPRED_DIS_S = bit(4, "indirect predictor disable, supervisor")
    RRSBA_DIS_U = bit(5, "alternate RSB prediction disable, user")
    RRSBA_DIS_S = bit(6, "alternate RSB prediction disable, supervisor", "SPEC_CTRL_RRSBA_DIS_S")
    PSFD = bit(7, "fast store forwarding predictor disable")
    DDPD_U = bit(8, "data-dependent prefetcher disable, user")
    BHI_DIS_S = bit(10, "branch history injection disable, supervisor", "SPEC_CTRL_BHI_DIS_S")


class FeatureControl:
    """IA32_FEATURE_CONTROL."""

    LOCKED = bit(0, "lock", "FEAT_CTL_LOCKED")
    VMX_INSIDE_SMX = bit(1, "VMX enabled inside SMX operation", "FEAT_CTL_VMX_ENABLED_INSIDE_SMX")
    VMX_OUTSIDE_SMX = bit(
        2, "VMX enabled outside SMX operation", "FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX"
    )
    SGX_LAUNCH_CONTROL = bit(17, "SGX launch control enable", "FEAT_CTL_SGX_LC_ENABLED")
    SGX = bit(18, "SGX global enable", "FEAT_CTL_SGX_ENABLED")
    LMCE = bit(20, "local machine-check exceptions", "FEAT_CTL_LMCE_ENABLED")


class SmmMonitorCtl:
    """IA32_SMM_MONITOR_CTL."""

    VALID = bit(0, "valid: the STM may be invoked with VMCALL")
    VMXOFF_UNBLOCKS_SMI = bit(2, "VMXOFF unblocks SMIs unless SMIs were blocked by it")
    MSEG_BASE = mask(31, 12, "base of MSEG")
