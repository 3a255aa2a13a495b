# SPDX-License-Identifier: GPL-2.0-only
"""Every field of the VMCS, in the order of the encodings.

SDM: "Field Encoding in VMCS". A field's name is the kernel's macro (asm/vmx.h) in lower case;
fields that the kernel lacks are named in the same style and have no macro. Where recent editions
of the SDM renamed a field (event injection, IDT vectoring), the older name is kept: all other
documents use it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Width = Literal[16, 32, 64]
FieldType = Literal["control", "exit-info", "guest", "host"]

# By bits 14:13 of the encoding. Natural width is 64 bits on a processor with Intel 64.
_WIDTHS: tuple[Width, ...] = (16, 64, 32, 64)
_NATURAL = 3
# By bits 11:10 of the encoding.
_TYPES: tuple[FieldType, ...] = ("control", "exit-info", "guest", "host")
# Bit 12 and bits 31:15 of an encoding are reserved and 0.
_RESERVED = 0xFFFF_9000


def width(encoding: int) -> Width:
    """Return the width in bits of the field `encoding` on a processor with Intel 64."""
    return _WIDTHS[encoding >> 13 & 3]


def is_natural(encoding: int) -> bool:
    """Tell whether the field is of natural width: 64 bits with Intel 64, 32 bits without."""
    return encoding >> 13 & 3 == _NATURAL


def field_type(encoding: int) -> FieldType:
    """Return which part of the VMCS the field `encoding` belongs to."""
    return _TYPES[encoding >> 10 & 3]


def index(encoding: int) -> int:
    """Return the field's number among those of its width and type (bits 9:1)."""
    return encoding >> 1 & 0x1FF


def is_high(encoding: int) -> bool:
    """Tell whether `encoding` reaches only the upper 32 bits of a 64-bit field."""
    return bool(encoding & 1)


def full_encoding(encoding: int) -> int:
    """Return the encoding that reaches the whole of the field that `encoding` reaches."""
    return encoding & ~1


def is_well_formed(encoding: int) -> bool:
    """Tell whether `encoding` keeps to the format: no reserved bit, high access for 64-bit only."""
    high_allowed = encoding >> 13 & 3 == 1
    return not encoding & _RESERVED and (high_allowed or not is_high(encoding))


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the VMCS; what the encoding implies is derived from it."""

    encoding: int
    name: str
    sdm_name: str
    macro: str | None = None

    @property
    def width(self) -> Width:
        """Width in bits on a processor with Intel 64."""
        return width(self.encoding)

    @property
    def natural(self) -> bool:
        """Whether the width is that of the processor's registers."""
        return is_natural(self.encoding)

    @property
    def type(self) -> FieldType:
        """The part of the VMCS that holds the field."""
        return field_type(self.encoding)

    @property
    def index(self) -> int:
        """Number among the fields of the same width and type."""
        return index(self.encoding)

    @property
    def has_high(self) -> bool:
        """Whether a second encoding (this one + 1) reaches the upper 32 bits alone."""
        return self.width == 64 and not self.natural

    @property
    def max_value(self) -> int:
        """The greatest value that the field holds."""
        return (1 << self.width) - 1


FIELDS: tuple[Field, ...] = (
    # 16-bit control fields
    Field(
        0x0000,
        "virtual_processor_id",
        "virtual-processor identifier (VPID)",
        "VIRTUAL_PROCESSOR_ID",
    ),
    Field(0x0002, "posted_intr_nv", "posted-interrupt notification vector", "POSTED_INTR_NV"),
    Field(0x0004, "eptp_index", "EPTP index"),
    Field(0x0006, "hlat_prefix_size", "HLAT prefix size"),
    Field(0x0008, "last_pid_pointer_index", "last PID-pointer index", "LAST_PID_POINTER_INDEX"),
    Field(0x000A, "virtual_timer_vector", "virtual timer vector"),
    # 16-bit guest-state fields
    Field(0x0800, "guest_es_selector", "guest ES selector", "GUEST_ES_SELECTOR"),
    Field(0x0802, "guest_cs_selector", "guest CS selector", "GUEST_CS_SELECTOR"),
    Field(0x0804, "guest_ss_selector", "guest SS selector", "GUEST_SS_SELECTOR"),
    Field(0x0806, "guest_ds_selector", "guest DS selector", "GUEST_DS_SELECTOR"),
    Field(0x0808, "guest_fs_selector", "guest FS selector", "GUEST_FS_SELECTOR"),
    Field(0x080A, "guest_gs_selector", "guest GS selector", "GUEST_GS_SELECTOR"),
    Field(0x080C, "guest_ldtr_selector", "guest LDTR selector", "GUEST_LDTR_SELECTOR"),
    Field(0x080E, "guest_tr_selector", "guest TR selector", "GUEST_TR_SELECTOR"),
    Field(0x0810, "guest_intr_status", "guest interrupt status", "GUEST_INTR_STATUS"),
    Field(0x0812, "guest_pml_index", "PML index", "GUEST_PML_INDEX"),
    Field(0x0814, "guest_uinv", "guest UINV"),
    # 16-bit host-state fields
    Field(0x0C00, "host_es_selector", "host ES selector", "HOST_ES_SELECTOR"),
    Field(0x0C02, "host_cs_selector", "host CS selector", "HOST_CS_SELECTOR"),
    Field(0x0C04, "host_ss_selector", "host SS selector", "HOST_SS_SELECTOR"),
    Field(0x0C06, "host_ds_selector", "host DS selector", "HOST_DS_SELECTOR"),
    Field(0x0C08, "host_fs_selector", "host FS selector", "HOST_FS_SELECTOR"),
    Field(0x0C0A, "host_gs_selector", "host GS selector", "HOST_GS_SELECTOR"),
    Field(0x0C0C, "host_tr_selector", "host TR selector", "HOST_TR_SELECTOR"),
    # 64-bit control fields
    Field(0x2000, "io_bitmap_a", "address of I/O bitmap A", "IO_BITMAP_A"),
    Field(0x2002, "io_bitmap_b", "address of I/O bitmap B", "IO_BITMAP_B"),
    Field(0x2004, "msr_bitmap", "address of MSR bitmaps", "MSR_BITMAP"),
    Field(0x2006, "vm_exit_msr_store_addr", "VM-exit MSR-store address", "VM_EXIT_MSR_STORE_ADDR"),
    Field(0x2008, "vm_exit_msr_load_addr", "VM-exit MSR-load address", "VM_EXIT_MSR_LOAD_ADDR"),
    Field(0x200A, "vm_entry_msr_load_addr", "VM-entry MSR-load address", "VM_ENTRY_MSR_LOAD_ADDR"),
    Field(0x200C, "executive_vmcs_pointer", "executive-VMCS pointer"),
    Field(0x200E, "pml_address", "PML address", "PML_ADDRESS"),
    Field(0x2010, "tsc_offset", "TSC offset", "TSC_OFFSET"),
    Field(0x2012, "virtual_apic_page_addr", "virtual-APIC address", "VIRTUAL_APIC_PAGE_ADDR"),
    Field(0x2014, "apic_access_addr", "APIC-access address", "APIC_ACCESS_ADDR"),
    Field(
        0x2016,
        "posted_intr_desc_addr",
        "posted-interrupt descriptor address",
        "POSTED_INTR_DESC_ADDR",
    ),
    Field(0x2018, "vm_function_control", "VM-function controls", "VM_FUNCTION_CONTROL"),
    Field(0x201A, "ept_pointer", "EPT pointer", "EPT_POINTER"),
    Field(0x201C, "eoi_exit_bitmap0", "EOI-exit bitmap 0", "EOI_EXIT_BITMAP0"),
    Field(0x201E, "eoi_exit_bitmap1", "EOI-exit bitmap 1", "EOI_EXIT_BITMAP1"),
    Field(0x2020, "eoi_exit_bitmap2", "EOI-exit bitmap 2", "EOI_EXIT_BITMAP2"),
    Field(0x2022, "eoi_exit_bitmap3", "EOI-exit bitmap 3", "EOI_EXIT_BITMAP3"),
    Field(0x2024, "eptp_list_address", "EPTP-list address", "EPTP_LIST_ADDRESS"),
    Field(0x2026, "vmread_bitmap", "VMREAD-bitmap address", "VMREAD_BITMAP"),
    Field(0x2028, "vmwrite_bitmap", "VMWRITE-bitmap address", "VMWRITE_BITMAP"),
    Field(
        0x202A,
        "ve_information_address",
        "virtualization-exception information address",
        "VE_INFORMATION_ADDRESS",
    ),
    Field(0x202C, "xss_exit_bitmap", "XSS-exiting bitmap", "XSS_EXIT_BITMAP"),
    Field(0x202E, "encls_exiting_bitmap", "ENCLS-exiting bitmap", "ENCLS_EXITING_BITMAP"),
    Field(0x2030, "sub_page_permission_table_pointer", "sub-page-permission-table pointer"),
    Field(0x2032, "tsc_multiplier", "TSC multiplier", "TSC_MULTIPLIER"),
    Field(
        0x2034,
        "tertiary_vm_exec_control",
        "tertiary processor-based VM-execution controls",
        "TERTIARY_VM_EXEC_CONTROL",
    ),
    Field(0x2036, "enclv_exiting_bitmap", "ENCLV-exiting bitmap"),
    Field(0x2038, "low_pasid_directory_address", "low PASID directory address"),
    Field(0x203A, "high_pasid_directory_address", "high PASID directory address"),
    Field(0x203C, "seam_shared_ept_pointer", "SEAM shared EPT pointer"),
    Field(0x203E, "pconfig_exiting_bitmap", "PCONFIG-exiting bitmap"),
    Field(0x2040, "hlat_pointer", "hypervisor-managed linear-address translation pointer"),
    Field(0x2042, "pid_pointer_table", "PID-pointer table address", "PID_POINTER_TABLE"),
    Field(0x2044, "secondary_vm_exit_controls", "secondary VM-exit controls"),
    Field(0x204A, "spec_ctrl_mask", "IA32_SPEC_CTRL mask"),
    Field(0x204C, "spec_ctrl_shadow", "IA32_SPEC_CTRL shadow"),
    Field(0x204E, "guest_deadline_shadow", "guest deadline shadow"),
    Field(0x2052, "injected_event_data", "injected-event data"),
    # 64-bit read-only data fields
    Field(0x2400, "guest_physical_address", "guest-physical address", "GUEST_PHYSICAL_ADDRESS"),
    Field(0x2402, "msr_data", "MSR data"),
    Field(0x2404, "original_event_data", "original-event data"),
    # 64-bit guest-state fields
    Field(0x2800, "vmcs_link_pointer", "VMCS link pointer", "VMCS_LINK_POINTER"),
    Field(0x2802, "guest_ia32_debugctl", "guest IA32_DEBUGCTL", "GUEST_IA32_DEBUGCTL"),
    Field(0x2804, "guest_ia32_pat", "guest IA32_PAT", "GUEST_IA32_PAT"),
    Field(0x2806, "guest_ia32_efer", "guest IA32_EFER", "GUEST_IA32_EFER"),
    Field(
        0x2808,
        "guest_ia32_perf_global_ctrl",
        "guest IA32_PERF_GLOBAL_CTRL",
        "GUEST_IA32_PERF_GLOBAL_CTRL",
    ),
    Field(0x280A, "guest_pdptr0", "guest PDPTE0", "GUEST_PDPTR0"),
    Field(0x280C, "guest_pdptr1", "guest PDPTE1", "GUEST_PDPTR1"),
    Field(0x280E, "guest_pdptr2", "guest PDPTE2", "GUEST_PDPTR2"),
    Field(0x2810, "guest_pdptr3", "guest PDPTE3", "GUEST_PDPTR3"),
    Field(0x2812, "guest_bndcfgs", "guest IA32_BNDCFGS", "GUEST_BNDCFGS"),
    Field(0x2814, "guest_ia32_rtit_ctl", "guest IA32_RTIT_CTL", "GUEST_IA32_RTIT_CTL"),
    Field(0x2816, "guest_ia32_lbr_ctl", "guest IA32_LBR_CTL"),
    Field(0x2818, "guest_ia32_pkrs", "guest IA32_PKRS"),
    Field(0x281A, "guest_ia32_fred_config", "guest IA32_FRED_CONFIG"),
    Field(0x281C, "guest_ia32_fred_rsp1", "guest IA32_FRED_RSP1"),
    Field(0x281E, "guest_ia32_fred_rsp2", "guest IA32_FRED_RSP2"),
    Field(0x2820, "guest_ia32_fred_rsp3", "guest IA32_FRED_RSP3"),
    Field(0x2822, "guest_ia32_fred_stklvls", "guest IA32_FRED_STKLVLS"),
    Field(0x2824, "guest_ia32_fred_ssp1", "guest IA32_FRED_SSP1"),
    Field(0x2826, "guest_ia32_fred_ssp2", "guest IA32_FRED_SSP2"),
    Field(0x2828, "guest_ia32_fred_ssp3", "guest IA32_FRED_SSP3"),
    Field(0x282E, "guest_ia32_spec_ctrl", "guest IA32_SPEC_CTRL"),
    Field(0x2830, "guest_deadline", "guest deadline"),
    # 64-bit host-state fields
    Field(0x2C00, "host_ia32_pat", "host IA32_PAT", "HOST_IA32_PAT"),
    Field(0x2C02, "host_ia32_efer", "host IA32_EFER", "HOST_IA32_EFER"),
    Field(
        0x2C04,
        "host_ia32_perf_global_ctrl",
        "host IA32_PERF_GLOBAL_CTRL",
        "HOST_IA32_PERF_GLOBAL_CTRL",
    ),
    Field(0x2C06, "host_ia32_pkrs", "host IA32_PKRS"),
    Field(0x2C08, "host_ia32_fred_config", "host IA32_FRED_CONFIG"),
    Field(0x2C0A, "host_ia32_fred_rsp1", "host IA32_FRED_RSP1"),
    Field(0x2C0C, "host_ia32_fred_rsp2", "host IA32_FRED_RSP2"),
    Field(0x2C0E, "host_ia32_fred_rsp3", "host IA32_FRED_RSP3"),
    Field(0x2C10, "host_ia32_fred_stklvls", "host IA32_FRED_STKLVLS"),
    Field(0x2C12, "host_ia32_fred_ssp1", "host IA32_FRED_SSP1"),
    Field(0x2C14, "host_ia32_fred_ssp2", "host IA32_FRED_SSP2"),
    Field(0x2C16, "host_ia32_fred_ssp3", "host IA32_FRED_SSP3"),
    Field(0x2C1A, "host_ia32_spec_ctrl", "host IA32_SPEC_CTRL"),
    # 32-bit control fields
    Field(
        0x4000,
        "pin_based_vm_exec_control",
        "pin-based VM-execution controls",
        "PIN_BASED_VM_EXEC_CONTROL",
    ),
    Field(
        0x4002,
        "cpu_based_vm_exec_control",
        "primary processor-based VM-execution controls",
        "CPU_BASED_VM_EXEC_CONTROL",
    ),
    Field(0x4004, "exception_bitmap", "exception bitmap", "EXCEPTION_BITMAP"),
    Field(
        0x4006,
        "page_fault_error_code_mask",
        "page-fault error-code mask",
        "PAGE_FAULT_ERROR_CODE_MASK",
    ),
    Field(
        0x4008,
        "page_fault_error_code_match",
        "page-fault error-code match",
        "PAGE_FAULT_ERROR_CODE_MATCH",
    ),
    Field(0x400A, "cr3_target_count", "CR3-target count", "CR3_TARGET_COUNT"),
    Field(0x400C, "vm_exit_controls", "primary VM-exit controls", "VM_EXIT_CONTROLS"),
    Field(0x400E, "vm_exit_msr_store_count", "VM-exit MSR-store count", "VM_EXIT_MSR_STORE_COUNT"),
    Field(0x4010, "vm_exit_msr_load_count", "VM-exit MSR-load count", "VM_EXIT_MSR_LOAD_COUNT"),
    Field(0x4012, "vm_entry_controls", "VM-entry controls", "VM_ENTRY_CONTROLS"),
    Field(0x4014, "vm_entry_msr_load_count", "VM-entry MSR-load count", "VM_ENTRY_MSR_LOAD_COUNT"),
    Field(
        0x4016,
        "vm_entry_intr_info_field",
        "VM-entry interruption-information field",
        "VM_ENTRY_INTR_INFO_FIELD",
    ),
    Field(
        0x4018,
        "vm_entry_exception_error_code",
        "VM-entry exception error code",
        "VM_ENTRY_EXCEPTION_ERROR_CODE",
    ),
    Field(
        0x401A,
        "vm_entry_instruction_len",
        "VM-entry instruction length",
        "VM_ENTRY_INSTRUCTION_LEN",
    ),
    Field(0x401C, "tpr_threshold", "TPR threshold", "TPR_THRESHOLD"),
    Field(
        0x401E,
        "secondary_vm_exec_control",
        "secondary processor-based VM-execution controls",
        "SECONDARY_VM_EXEC_CONTROL",
    ),
    Field(0x4020, "ple_gap", "PLE_Gap", "PLE_GAP"),
    Field(0x4022, "ple_window", "PLE_Window", "PLE_WINDOW"),
    Field(0x4024, "notify_window", "instruction-timeout control", "NOTIFY_WINDOW"),
    Field(0x4026, "seam_guest_keyid", "SEAM-guest KeyID"),
    # 32-bit read-only data fields
    Field(0x4400, "vm_instruction_error", "VM-instruction error", "VM_INSTRUCTION_ERROR"),
    Field(0x4402, "vm_exit_reason", "exit reason", "VM_EXIT_REASON"),
    Field(0x4404, "vm_exit_intr_info", "VM-exit interruption information", "VM_EXIT_INTR_INFO"),
    Field(
        0x4406,
        "vm_exit_intr_error_code",
        "VM-exit interruption error code",
        "VM_EXIT_INTR_ERROR_CODE",
    ),
    Field(
        0x4408,
        "idt_vectoring_info_field",
        "IDT-vectoring information field",
        "IDT_VECTORING_INFO_FIELD",
    ),
    Field(
        0x440A, "idt_vectoring_error_code", "IDT-vectoring error code", "IDT_VECTORING_ERROR_CODE"
    ),
    Field(
        0x440C, "vm_exit_instruction_len", "VM-exit instruction length", "VM_EXIT_INSTRUCTION_LEN"
    ),
    Field(
        0x440E, "vmx_instruction_info", "VM-exit instruction information", "VMX_INSTRUCTION_INFO"
    ),
    # 32-bit guest-state fields
    Field(0x4800, "guest_es_limit", "guest ES limit", "GUEST_ES_LIMIT"),
    Field(0x4802, "guest_cs_limit", "guest CS limit", "GUEST_CS_LIMIT"),
    Field(0x4804, "guest_ss_limit", "guest SS limit", "GUEST_SS_LIMIT"),
    Field(0x4806, "guest_ds_limit", "guest DS limit", "GUEST_DS_LIMIT"),
    Field(0x4808, "guest_fs_limit", "guest FS limit", "GUEST_FS_LIMIT"),
    Field(0x480A, "guest_gs_limit", "guest GS limit", "GUEST_GS_LIMIT"),
    Field(0x480C, "guest_ldtr_limit", "guest LDTR limit", "GUEST_LDTR_LIMIT"),
    Field(0x480E, "guest_tr_limit", "guest TR limit", "GUEST_TR_LIMIT"),
    Field(0x4810, "guest_gdtr_limit", "guest GDTR limit", "GUEST_GDTR_LIMIT"),
    Field(0x4812, "guest_idtr_limit", "guest IDTR limit", "GUEST_IDTR_LIMIT"),
    Field(0x4814, "guest_es_ar_bytes", "guest ES access rights", "GUEST_ES_AR_BYTES"),
    Field(0x4816, "guest_cs_ar_bytes", "guest CS access rights", "GUEST_CS_AR_BYTES"),
    Field(0x4818, "guest_ss_ar_bytes", "guest SS access rights", "GUEST_SS_AR_BYTES"),
    Field(0x481A, "guest_ds_ar_bytes", "guest DS access rights", "GUEST_DS_AR_BYTES"),
    Field(0x481C, "guest_fs_ar_bytes", "guest FS access rights", "GUEST_FS_AR_BYTES"),
    Field(0x481E, "guest_gs_ar_bytes", "guest GS access rights", "GUEST_GS_AR_BYTES"),
    Field(0x4820, "guest_ldtr_ar_bytes", "guest LDTR access rights", "GUEST_LDTR_AR_BYTES"),
    Field(0x4822, "guest_tr_ar_bytes", "guest TR access rights", "GUEST_TR_AR_BYTES"),
    Field(
        0x4824,
        "guest_interruptibility_info",
        "guest interruptibility state",
        "GUEST_INTERRUPTIBILITY_INFO",
    ),
    Field(0x4826, "guest_activity_state", "guest activity state", "GUEST_ACTIVITY_STATE"),
    Field(0x4828, "guest_smbase", "guest SMBASE"),
    Field(0x482A, "guest_sysenter_cs", "guest IA32_SYSENTER_CS", "GUEST_SYSENTER_CS"),
    Field(
        0x482E,
        "vmx_preemption_timer_value",
        "VMX-preemption timer value",
        "VMX_PREEMPTION_TIMER_VALUE",
    ),
    # 32-bit host-state fields
    Field(0x4C00, "host_ia32_sysenter_cs", "host IA32_SYSENTER_CS", "HOST_IA32_SYSENTER_CS"),
    # natural-width control fields
    Field(0x6000, "cr0_guest_host_mask", "CR0 guest/host mask", "CR0_GUEST_HOST_MASK"),
    Field(0x6002, "cr4_guest_host_mask", "CR4 guest/host mask", "CR4_GUEST_HOST_MASK"),
    Field(0x6004, "cr0_read_shadow", "CR0 read shadow", "CR0_READ_SHADOW"),
    Field(0x6006, "cr4_read_shadow", "CR4 read shadow", "CR4_READ_SHADOW"),
    Field(0x6008, "cr3_target_value0", "CR3-target value 0", "CR3_TARGET_VALUE0"),
    Field(0x600A, "cr3_target_value1", "CR3-target value 1", "CR3_TARGET_VALUE1"),
    Field(0x600C, "cr3_target_value2", "CR3-target value 2", "CR3_TARGET_VALUE2"),
    Field(0x600E, "cr3_target_value3", "CR3-target value 3", "CR3_TARGET_VALUE3"),
    # natural-width read-only data fields
    Field(0x6400, "exit_qualification", "exit qualification", "EXIT_QUALIFICATION"),
    Field(0x6402, "io_rcx", "I/O RCX"),
    Field(0x6404, "io_rsi", "I/O RSI"),
    Field(0x6406, "io_rdi", "I/O RDI"),
    Field(0x6408, "io_rip", "I/O RIP"),
    Field(0x640A, "guest_linear_address", "guest-linear address", "GUEST_LINEAR_ADDRESS"),
    # natural-width guest-state fields
    Field(0x6800, "guest_cr0", "guest CR0", "GUEST_CR0"),
    Field(0x6802, "guest_cr3", "guest CR3", "GUEST_CR3"),
    Field(0x6804, "guest_cr4", "guest CR4", "GUEST_CR4"),
    Field(0x6806, "guest_es_base", "guest ES base", "GUEST_ES_BASE"),
    Field(0x6808, "guest_cs_base", "guest CS base", "GUEST_CS_BASE"),
    Field(0x680A, "guest_ss_base", "guest SS base", "GUEST_SS_BASE"),
    Field(0x680C, "guest_ds_base", "guest DS base", "GUEST_DS_BASE"),
    Field(0x680E, "guest_fs_base", "guest FS base", "GUEST_FS_BASE"),
    Field(0x6810, "guest_gs_base", "guest GS base", "GUEST_GS_BASE"),
    Field(0x6812, "guest_ldtr_base", "guest LDTR base", "GUEST_LDTR_BASE"),
    Field(0x6814, "guest_tr_base", "guest TR base", "GUEST_TR_BASE"),
    Field(0x6816, "guest_gdtr_base", "guest GDTR base", "GUEST_GDTR_BASE"),
    Field(0x6818, "guest_idtr_base", "guest IDTR base", "GUEST_IDTR_BASE"),
    Field(0x681A, "guest_dr7", "guest DR7", "GUEST_DR7"),
    Field(0x681C, "guest_rsp", "guest RSP", "GUEST_RSP"),
    Field(0x681E, "guest_rip", "guest RIP", "GUEST_RIP"),
    Field(0x6820, "guest_rflags", "guest RFLAGS", "GUEST_RFLAGS"),
    Field(
        0x6822,
        "guest_pending_dbg_exceptions",
        "guest pending debug exceptions",
        "GUEST_PENDING_DBG_EXCEPTIONS",
    ),
    Field(0x6824, "guest_sysenter_esp", "guest IA32_SYSENTER_ESP", "GUEST_SYSENTER_ESP"),
    Field(0x6826, "guest_sysenter_eip", "guest IA32_SYSENTER_EIP", "GUEST_SYSENTER_EIP"),
    Field(0x6828, "guest_s_cet", "guest IA32_S_CET"),
    Field(0x682A, "guest_ssp", "guest SSP"),
    Field(0x682C, "guest_intr_ssp_table", "guest IA32_INTERRUPT_SSP_TABLE_ADDR"),
    # natural-width host-state fields
    Field(0x6C00, "host_cr0", "host CR0", "HOST_CR0"),
    Field(0x6C02, "host_cr3", "host CR3", "HOST_CR3"),
    Field(0x6C04, "host_cr4", "host CR4", "HOST_CR4"),
    Field(0x6C06, "host_fs_base", "host FS base", "HOST_FS_BASE"),
    Field(0x6C08, "host_gs_base", "host GS base", "HOST_GS_BASE"),
    Field(0x6C0A, "host_tr_base", "host TR base", "HOST_TR_BASE"),
    Field(0x6C0C, "host_gdtr_base", "host GDTR base", "HOST_GDTR_BASE"),
    Field(0x6C0E, "host_idtr_base", "host IDTR base", "HOST_IDTR_BASE"),
    Field(0x6C10, "host_ia32_sysenter_esp", "host IA32_SYSENTER_ESP", "HOST_IA32_SYSENTER_ESP"),
    Field(0x6C12, "host_ia32_sysenter_eip", "host IA32_SYSENTER_EIP", "HOST_IA32_SYSENTER_EIP"),
    Field(0x6C14, "host_rsp", "host RSP", "HOST_RSP"),
    Field(0x6C16, "host_rip", "host RIP", "HOST_RIP"),
    Field(0x6C18, "host_s_cet", "host IA32_S_CET"),
    Field(0x6C1A, "host_ssp", "host SSP"),
    Field(0x6C1C, "host_intr_ssp_table", "host IA32_INTERRUPT_SSP_TABLE_ADDR"),
)

FIELD_BY_NAME: Mapping[str, Field] = MappingProxyType({field.name: field for field in FIELDS})
FIELD_BY_ENCODING: Mapping[int, Field] = MappingProxyType(
    {field.encoding: field for field in FIELDS}
)
