# SPDX-License-Identifier: GPL-2.0-only
"""What looks like a mistake of KVM's: each entry has a page in `docs/findings`.

`docs/known-differences-kvm.md` lists them behind what KVM leaves to the processor by design.
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch import sections
from nvmxfuzz.cpu.failures import CONTROLS, GUEST_STATE, HOST_STATE, MSR_LOADING, PDPTE
from nvmxfuzz.oracles.known import always
from nvmxfuzz.oracles.kvm import known_where as where
from nvmxfuzz.oracles.kvm.tables import KvmDifference

_TO_USER_SPACE: Final = "KVM leaves L1 to user space"
_GIVEN_UP: Final = (
    "WARN arch/x86/kvm/vmx/nested.c:",
    "WARN arch/x86/kvm/vmx/vmx.c:",
    "KVM_RUN: EIO",
    # A VMX abort, if L1's MSRs cannot be loaded either: that comes before the VM is given up.
    "KVM ends L2 for a reason of its own",
)

MISTAKES: Final = (
    KvmDifference(
        "kvm.execution.tsc-multiplier-unused",
        'Nobody looks at the TSC multiplier where "use TSC offsetting" is 0: KVM scales nothing '
        "for L2 then.",
        sections.EXECUTION_CONTROLS,
        where.tsc_multiplier_unused,
        unchecked=("execution.tsc-multiplier.zero",),
        function="vmx_get_l2_tsc_multiplier",
        later="nobody",
        page="tsc-multiplier",
    ),
    KvmDifference(
        "kvm.execution.virtual-apic-memory",
        "Where L1 has no memory for the virtual-APIC page, KVM has the processor refuse the entry, "
        "where the rules let it pass.",
        sections.EXECUTION_CONTROLS,
        where.virtual_apic_beyond_memory,
        function="nested_get_vmcs12_pages",
        later=CONTROLS,
        page="no-memory",
    ),
    KvmDifference(
        "kvm.execution.tpr-shadow-dropped",
        "Where L1 has no memory for the virtual-APIC page and every access to CR8 exits, KVM turns "
        "the TPR shadow off, and nobody looks at the TPR threshold.",
        sections.EXECUTION_CONTROLS,
        where.tpr_shadow_dropped,
        unchecked=("execution.tpr-threshold.reserved", "execution.tpr-threshold.vtpr"),
        function="nested_get_vmcs12_pages",
        later="nobody",
        page="no-memory",
    ),
    KvmDifference(
        "kvm.execution.apic-access-memory",
        "Where L1 has no memory for the APIC-access page, KVM leaves the VM to user space with an "
        "internal error.",
        sections.EXECUTION_CONTROLS,
        where.apic_access_beyond_memory,
        function="nested_get_vmcs12_pages",
        harm=(_TO_USER_SPACE,),
        page="no-memory",
    ),
    KvmDifference(
        "kvm.execution.eptp-memory",
        "Where L1 has no memory for the root of EPT, KVM warns twice and gives up the VM.",
        sections.EXECUTION_CONTROLS,
        where.eptp_beyond_memory,
        function="mmu_check_root",
        harm=_GIVEN_UP,
        kernels=("6.1",),
        page="no-memory",
    ),
    KvmDifference(
        "kvm.execution.paging-root-memory",
        "Where KVM has no EPT itself, and L1 no memory for the page tables of L2, KVM warns twice "
        "and gives up the VM.",
        sections.GUEST_REGISTERS,
        where.paging_root_beyond_memory,
        function="mmu_check_root",
        harm=_GIVEN_UP,
        kernels=("6.1",),
        page="no-memory",
    ),
    KvmDifference(
        "kvm.execution.pdptes-of-l1",
        "KVM loads the PDPTEs of L1 itself again, and leaves the VM to user space if they are no "
        "longer right in memory.",
        sections.EXECUTION_CONTROLS,
        where.pdptes_of_l1_invalid,
        function="nested_get_vmcs12_pages",
        harm=(_TO_USER_SPACE,),
        page="pdptes-of-l1",
    ),
    KvmDifference(
        "kvm.execution.late-vmfail-without-pae",
        "After a late VMfail an L1 of 32 bits has LMA where the processor cannot load EFER at VM "
        "entry; without PAE KVM takes that for a bug of its own, and gives up the VM.",
        sections.EXECUTION_CONTROLS,
        where.late_vmfail_without_pae,
        function="nested_vmx_restore_host_state",
        harm=("WARN arch/x86/kvm/mmu/mmu.c:", "KVM_RUN: EIO"),
        kernels=("6.12",),
        page="late-vmfail",
    ),
    KvmDifference(
        "kvm.guest.activity-state",
        "KVM puts no activity state into the merged VMCS, and does not check itself what goes "
        "together with it.",
        sections.GUEST_NON_REGISTER,
        always,
        unchecked=(
            "guest.activity.hlt-dpl",
            "guest.activity.blocking",
            "guest.activity.hlt-event",
            "guest.activity.wait-for-sipi-event",
        ),
        function="nested_check_guest_non_reg_state",
        later="nobody",
        page="activity-state",
    ),
    KvmDifference(
        "kvm.guest.halted",
        "KVM keeps an L2 to itself that begins halted or waiting for a SIPI: what it leaves to the "
        "processor nobody looks at before an event wakes L2.",
        sections.GUEST_NON_REGISTER,
        where.keeps_l2_to_itself,
        function="nested_vmx_run",
        later="nobody",
        postpones=True,
        page="activity-state",
    ),
    KvmDifference(
        "kvm.guest.halted-single-step",
        "KVM puts no activity state into the merged VMCS: of an L2 that begins halted with an "
        "event to inject, the processor does not ask BS to be what HLT makes it.",
        sections.GUEST_NON_REGISTER,
        where.halted_with_nothing_blocked,
        unchecked=("guest.pending-debug.bs-set", "guest.pending-debug.bs-clear"),
        function="nested_check_guest_non_reg_state",
        later="nobody",
        page="activity-state",
    ),
    KvmDifference(
        "kvm.guest.btf",
        "KVM does not have BTF, and leaves it out of the merged VMCS: with it the processor wants "
        "BS to be what it is without.",
        sections.GUEST_NON_REGISTER,
        where.steps_over_branches,
        unchecked=("guest.pending-debug.bs-clear",),
        function="vmx_get_supported_debugctl",
        later="nobody",
        page="btf",
    ),
    KvmDifference(
        "kvm.guest.btf-refused",
        "KVM does not have BTF, and leaves it out of the merged VMCS: the processor refuses BS = 0 "
        "although BTF makes it right.",
        sections.GUEST_NON_REGISTER,
        where.steps_over_branches_while_blocked,
        function="vmx_get_supported_debugctl",
        later=GUEST_STATE,
        page="btf",
    ),
    KvmDifference(
        "kvm.guest.nmi-while-blocked",
        'KVM runs L2 with "virtual NMIs" even if L1 does not use them: the processor refuses to '
        "inject an NMI while NMIs are blocked.",
        sections.GUEST_NON_REGISTER,
        where.injects_nmi_with_nmis_blocked,
        function="prepare_vmcs02_early",
        later=GUEST_STATE,
        page="nmi-while-blocked",
    ),
    KvmDifference(
        "kvm.guest.sysenter-esp-replaced",
        "The processor checks the guest's IA32_SYSENTER_ESP after KVM has loaded MSRs: one from "
        "the MSR-load area hides what stands in the VMCS.",
        sections.GUEST_REGISTERS,
        where.list_replaces_sysenter_esp,
        unchecked=("guest.sysenter-esp.canonical",),
        function="nested_vmx_load_msr",
        later="nobody",
        page="sysenter",
    ),
    KvmDifference(
        "kvm.guest.sysenter-eip-replaced",
        "The processor checks the guest's IA32_SYSENTER_EIP after KVM has loaded MSRs: one from "
        "the MSR-load area hides what stands in the VMCS.",
        sections.GUEST_REGISTERS,
        where.list_replaces_sysenter_eip,
        unchecked=("guest.sysenter-eip.canonical",),
        function="nested_vmx_load_msr",
        later="nobody",
        page="sysenter",
    ),
    KvmDifference(
        "kvm.msr-load.sysenter",
        "KVM makes an address for IA32_SYSENTER_ESP or IA32_SYSENTER_EIP canonical instead of "
        "refusing it.",
        sections.MSR_LOADING,
        where.loads_sysenter_address,
        unchecked=("msr-load.address.canonical",),
        view="msr-load",
        function="__kvm_set_msr",
        later="nobody",
        page="sysenter",
    ),
    KvmDifference(
        "kvm.guest.link-pointer-current",
        "Nobody looks whether the VMCS link pointer is the current VMCS.",
        sections.GUEST_NON_REGISTER,
        always,
        unchecked=("guest.link-pointer.current",),
        function="nested_vmx_check_vmcs_link_ptr",
        later="nobody",
        page="link-pointer-current",
    ),
    KvmDifference(
        "kvm.guest.cs-unusable",
        "KVM refuses a CS that is unusable.",
        sections.GUEST_SEGMENTS,
        where.unusable_code,
        failure=GUEST_STATE,
        function="code_segment_valid",
        page="cs-unusable",
    ),
    KvmDifference(
        "kvm.guest.pdptes-beyond-4-gib",
        "KVM looks for the PDPTEs where all of CR3 points; PAE paging ignores bits 63:32.",
        sections.GUEST_PDPTES,
        where.pdptes_at_high_address,
        failure=PDPTE,
        function="load_pdptrs",
        page="pdptes-beyond-4-gib",
    ),
    KvmDifference(
        "kvm.host.addresses-of-57-bits",
        "KVM wants addresses of the host of 48 bits if L1 has CR4.LA57 = 0; the processor takes as "
        "many as it has.",
        sections.HOST_SEGMENTS,
        where.host_address_of_57_bits,
        failure=HOST_STATE,
        function="is_noncanonical_address",
        kernels=("6.1",),
        page="addresses-of-57-bits",
    ),
    KvmDifference(
        "kvm.guest.bndcfgs-of-57-bits",
        "KVM wants an address of 48 bits in the guest's IA32_BNDCFGS if L1 has CR4.LA57 = 0; the "
        "processor takes as many as it has.",
        sections.GUEST_REGISTERS,
        where.bndcfgs_of_57_bits,
        failure=GUEST_STATE,
        function="is_noncanonical_address",
        kernels=("6.1",),
        page="addresses-of-57-bits",
    ),
    KvmDifference(
        "kvm.msr-load.addresses-of-57-bits",
        "KVM wants addresses of 48 bits in the MSR-load area if L2 has CR4.LA57 = 0; the processor "
        "takes as many as it has.",
        sections.MSR_LOADING,
        where.loads_address_of_57_bits,
        failure=MSR_LOADING,
        view="msr-load",
        function="is_noncanonical_address",
        kernels=("6.1",),
        page="addresses-of-57-bits",
    ),
    KvmDifference(
        "kvm.host.rip-of-57-bits",
        "KVM holds the RIP of the host against L1's own CR4.LA57, not against the one that VM exit "
        "loads.",
        sections.ADDRESS_SPACE_SIZE,
        where.host_rip_of_57_bits,
        failure=HOST_STATE,
        function="nested_vmx_check_host_state",
        page="addresses-of-57-bits",
    ),
)
"""What looks like a mistake of KVM's."""
