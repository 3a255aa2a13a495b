# SPDX-License-Identifier: GPL-2.0-only
"""nested_vmx_vmexit(): out of L2 again, by a VM exit or by a VMfail that hardware found too late.

vmx/nested.c: load_vmcs12_host_state() gives L1 what vmcs12 says; nested_vmx_restore_host_state()
gives it back what it had, as well as KVM still knows.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.events import Activity
from nvmxfuzz.arch.instruction_errors import InstructionError
from nvmxfuzz.arch.msr import MSR_EFER
from nvmxfuzz.arch.registers import Efer, Rflags
from nvmxfuzz.arch.segments import AccessRights
from nvmxfuzz.kvm.check_values import nested_cpu_has2
from nvmxfuzz.kvm.entry_behaviour import PerfGlobalCtrl
from nvmxfuzz.kvm.entry_run import kvm_init_mmu
from nvmxfuzz.kvm.msrs import kvm_set_msr, vmx_set_virtual_apic_mode
from nvmxfuzz.kvm.nested_load import (
    list_entries,
    load_perf_global_ctrl,
    nested_vmx_load_cr3,
    nested_vmx_load_msr,
    nested_vmx_load_msr_check,
)
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmcs02_fields import PDPTR_FIELDS, SEGMENT_FIELDS
from nvmxfuzz.kvm.vmx_registers import (
    UNUSABLE_SEGMENT,
    cet_fields,
    cpu_has_load_ia32_efer,
    is_pae_paging,
    kvm_set_dr7,
    vmx_guest_debugctl_write,
    vmx_l1_guest_owned_cr0_bits,
    vmx_set_cr0,
    vmx_set_cr4,
    vmx_set_efer,
    vmx_set_rflags,
    vmx_set_segment,
)
from nvmxfuzz.machine.vmcs import Vmcs

FAILED_VMENTRY = 1 << 31
_LONG = Efer.LMA | Efer.LME
_WORD = 0xFFFF_FFFF
_FLAGS = Rflags.CF | Rflags.PF | Rflags.AF | Rflags.ZF | Rflags.SF | Rflags.OF
_VMLAUNCH_LENGTH = 3
_CODE = 0x809B
_DATA = 0xC093
_TSS = 0x8B


def nested_vmx_fail_invalid(vcpu: Vcpu) -> None:
    """nested_vmx_failInvalid(): VMfailInvalid, and on to the next instruction of L1."""
    _finish(vcpu, int(Rflags.CF))


def nested_vmx_fail(vcpu: Vcpu, error: int) -> None:
    """VMfailValid with an error number; there is a current VMCS wherever this is called."""
    _finish(vcpu, int(Rflags.ZF))
    vcpu.vmcs12_writes["vm_instruction_error"] = error


def _finish(vcpu: Vcpu, flag: int) -> None:
    vmx_set_rflags(vcpu, vcpu.rflags & ~_FLAGS | flag)
    vcpu.rip = vcpu.rip + _VMLAUNCH_LENGTH & ALL_ONES
    vcpu.vmcs["guest_interruptibility_info"] &= ~3


def nested_vmx_abort(vcpu: Vcpu, indicator: str) -> None:
    """VMX abort: KVM kills L1 by a triple fault. `indicator` says what could not be done."""
    vcpu.aborted = vcpu.aborted or indicator


def switch_to_vmcs01(vcpu: Vcpu) -> None:
    """vmx_switch_vmcs() back to L1."""
    vcpu.vmcs = vcpu.vmcs01


def nested_vmx_vmexit(
    vcpu: Vcpu, exit_reason: int | None, qualification: int, failed: bool
) -> None:
    """Leave L2: a VM exit with a reason, or with `failed` the VMfail of hardware.

    Without a reason L1 learns nothing of it: KVM leaves L2 for its own ends.
    """
    vmcs12 = vcpu.vmcs12
    vcpu.guest_mode = False
    if vmcs12.cpu_based_vm_exec_control & Primary.USE_TSC_OFFSETTING:
        vcpu.tsc_offset = vcpu.l1.tsc_offset
        if nested_cpu_has2(vmcs12, Secondary.USE_TSC_SCALING):
            vcpu.tsc_scaling_ratio = vcpu.l1.tsc_scaling_ratio
    if not failed:
        sync_vmcs02_to_vmcs12(vcpu, vmcs12)
        if exit_reason is not None:
            vcpu.vmcs12_writes["vm_exit_reason"] = exit_reason
            vcpu.vmcs12_writes["exit_qualification"] = qualification
    switch_to_vmcs01(vcpu)
    vmcs = vcpu.vmcs
    vmcs["vm_exit_msr_load_count"] = len(vcpu.msr_autoload)
    vmcs["vm_entry_msr_load_count"] = len(vcpu.msr_autoload)
    vmcs["tsc_offset"] = vcpu.tsc_offset
    if vcpu.kvm.config.cpu_based_2nd_exec_ctrl & Secondary.USE_TSC_SCALING:
        vmcs["tsc_multiplier"] = vcpu.tsc_scaling_ratio
    if vcpu.virtual_apic_stale:
        vmx_set_virtual_apic_mode(vcpu)
    if not failed:
        load_vmcs12_host_state(vcpu, vmcs12)
        return
    # L1's flags and instruction pointer are still those of vmcs01.
    vcpu.rflags = vmcs["guest_rflags"]
    vcpu.rip = vmcs["guest_rip"]
    vcpu.rsp = vmcs["guest_rsp"]
    nested_vmx_fail(vcpu, int(InstructionError.ENTRY_INVALID_CONTROL_FIELD))
    nested_vmx_restore_host_state(vcpu, vmcs12)


def sync_vmcs02_to_vmcs12(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    """Write L2's state into vmcs12; done for a failed entry too, if hardware found the failure.

    A processor changes no guest state then. KVM's copy is what vmcs12 held, but for what L1 did
    not load: DR7 and EFER (with the controls that save them) and the activity state.
    """
    vmcs = vcpu.vmcs
    saved = {
        "guest_cr0": _synced(vmcs, "cr0", vcpu.cr0_guest_owned_bits, vmcs12.cr0_guest_host_mask),
        "guest_cr4": _synced(vmcs, "cr4", vcpu.cr4_guest_owned_bits, vmcs12.cr4_guest_host_mask),
        "guest_rsp": vcpu.rsp,
        "guest_rip": vcpu.rip,
        "guest_activity_state": _activity(vcpu),
        "vm_entry_controls": vmcs12.vm_entry_controls & ~VmEntry.IA_32E_MODE_GUEST
        | vmcs["vm_entry_controls"] & VmEntry.IA_32E_MODE_GUEST,
    }
    saved["guest_cr0"] |= vmcs12.guest_cr0 & vmcs12.cr0_guest_host_mask
    saved["guest_cr4"] |= vmcs12.guest_cr4 & vmcs12.cr4_guest_host_mask
    read = ["guest_rflags", "guest_cs_ar_bytes", "guest_ss_ar_bytes", "guest_linear_address"]
    read += ["guest_interruptibility_info", *SEGMENT_FIELDS, "guest_pending_dbg_exceptions"]
    if vcpu.params.ept:
        read.append("guest_cr3")
        if nested_cpu_has2(vmcs12, Secondary.ENABLE_EPT) and is_pae_paging(vcpu):
            read += PDPTR_FIELDS
    if nested_cpu_has2(vmcs12, Secondary.VIRTUAL_INTERRUPT_DELIVERY):
        read.append("guest_intr_status")
    saved.update((name, vmcs[name]) for name in read)
    if vmcs12.vm_exit_controls & VmExit.SAVE_DEBUG_CONTROLS:
        saved["guest_dr7"] = vcpu.dr7
    if vmcs12.vm_exit_controls & VmExit.SAVE_IA32_EFER:
        saved["guest_ia32_efer"] = vcpu.efer
    saved.update((name, vmcs[name]) for name in cet_fields(vcpu))
    vcpu.vmcs12_writes.update(saved)


def _activity(vcpu: Vcpu) -> int:
    if vcpu.halted:
        return int(Activity.HLT)
    return int(Activity.WAIT_FOR_SIPI if vcpu.waits_for_sipi else Activity.ACTIVE)


def _synced(vmcs: dict[str, int], register: str, owned: int, mask: int) -> int:
    return vmcs[f"guest_{register}"] & owned | vmcs[f"{register}_read_shadow"] & ~(mask | owned)


def load_vmcs12_host_state(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    """Give L1 the host state of vmcs12, as a VM exit does, also the one of a failed entry."""
    controls = vmcs12.vm_exit_controls
    long_mode = controls & VmExit.HOST_ADDRESS_SPACE_SIZE
    if controls & VmExit.LOAD_IA32_EFER:
        efer = vmcs12.host_ia32_efer
    else:
        efer = vcpu.efer | _LONG if long_mode else vcpu.efer & ~_LONG
    vmx_set_efer(vcpu, efer)
    vcpu.rsp = vmcs12.host_rsp
    vcpu.rip = vmcs12.host_rip
    vmx_set_rflags(vcpu, int(Rflags.FIXED1))
    vmcs = vcpu.vmcs
    vmcs["guest_interruptibility_info"] &= ~3
    vcpu.cr0_guest_owned_bits = vmx_l1_guest_owned_cr0_bits(vcpu)
    vmx_set_cr0(vcpu, vmcs12.host_cr0)
    vcpu.cr4_guest_owned_bits = ALL_ONES & ~vmcs["cr4_guest_host_mask"]
    vmx_set_cr4(vcpu, vmcs12.host_cr4)
    failed, _ = nested_vmx_load_cr3(vcpu, vmcs12.host_cr3, nested_ept=False)
    if failed:
        vcpu.fired.append(failed)
        nested_vmx_abort(vcpu, "host-pdptes")
    _load_host_msrs(vcpu, vmcs12)
    _load_host_segments(vcpu, vmcs12)
    kvm_set_dr7(vcpu, 0x400)
    vmx_guest_debugctl_write(vcpu, 0)
    failed, _ = nested_vmx_load_msr(
        vcpu, vmcs12.vm_exit_msr_load_addr, vmcs12.vm_exit_msr_load_count
    )
    if failed:
        nested_vmx_abort(vcpu, "host-msrs")


def _load_host_msrs(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    vmcs = vcpu.vmcs
    controls = vmcs12.vm_exit_controls
    vmcs["guest_sysenter_cs"] = vmcs12.host_ia32_sysenter_cs
    vmcs["guest_sysenter_esp"] = vmcs12.host_ia32_sysenter_esp
    vmcs["guest_sysenter_eip"] = vmcs12.host_ia32_sysenter_eip
    vmcs["guest_idtr_base"] = vmcs12.host_idtr_base
    vmcs["guest_gdtr_base"] = vmcs12.host_gdtr_base
    vmcs["guest_idtr_limit"] = vmcs["guest_gdtr_limit"] = 0xFFFF
    if controls & VmExit.CLEAR_IA32_BNDCFGS:
        vmcs["guest_bndcfgs"] = 0
    _load_host_cet(vcpu, vmcs12)
    if controls & VmExit.LOAD_IA32_PAT:
        vmcs["guest_ia32_pat"] = vcpu.pat = vmcs12.host_ia32_pat
    if controls & VmExit.LOAD_IA32_PERF_GLOBAL_CTRL:
        if vcpu.behaviour.perf_global_ctrl is PerfGlobalCtrl.FIELD:
            vmcs["guest_ia32_perf_global_ctrl"] = vmcs12.host_ia32_perf_global_ctrl
        elif not load_perf_global_ctrl(vcpu, vmcs12.host_ia32_perf_global_ctrl):
            vcpu.warn("load_vmcs12_host_state.perf_global_ctrl")


def _load_host_cet(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    # What VM exit does not load it keeps, and what it keeps is L2's.
    loads = vmcs12.vm_exit_controls & VmExit.LOAD_CET_STATE
    for name in cet_fields(vcpu):
        if loads:
            vcpu.vmcs[name] = vmcs12.__dict__[name.replace("guest", "host")]
        else:
            vcpu.vmcs[name] = vcpu.vmcs12_writes.get(name, vmcs12.__dict__[name])


def _load_host_segments(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    long_mode = vmcs12.vm_exit_controls & VmExit.HOST_ADDRESS_SPACE_SIZE
    code = _CODE | (AccessRights.L if long_mode else AccessRights.DB)
    vmx_set_segment(vcpu, "cs", vmcs12.host_cs_selector, (0, _WORD, code))
    flat = 0, _WORD, _DATA
    vmx_set_segment(vcpu, "ds", vmcs12.host_ds_selector, flat)
    vmx_set_segment(vcpu, "es", vmcs12.host_es_selector, flat)
    vmx_set_segment(vcpu, "ss", vmcs12.host_ss_selector, flat)
    vmx_set_segment(vcpu, "fs", vmcs12.host_fs_selector, (vmcs12.host_fs_base, _WORD, _DATA))
    vmx_set_segment(vcpu, "gs", vmcs12.host_gs_selector, (vmcs12.host_gs_base, _WORD, _DATA))
    vmx_set_segment(vcpu, "tr", vmcs12.host_tr_selector, (vmcs12.host_tr_base, 0x67, _TSS))
    vmx_set_segment(vcpu, "ldtr", 0, UNUSABLE_SEGMENT)


def nested_vmx_get_vmcs01_guest_efer(vcpu: Vcpu) -> int:
    """Return L1's EFER, which nobody has kept, from wherever vmcs01 has it switched."""
    if vcpu.vmcs["vm_entry_controls"] & VmEntry.LOAD_IA32_EFER:
        return vcpu.vmcs["guest_ia32_efer"]
    if cpu_has_load_ia32_efer(vcpu):
        return vcpu.kvm.host.efer
    if MSR_EFER in vcpu.msr_autoload:
        return vcpu.msr_autoload[MSR_EFER][0]
    return vcpu.uret_efer


def nested_vmx_restore_host_state(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    """Give L1 back what it had before an entry that hardware refused with a VMfail.

    KVM has loaded L2's registers into its model by then; L1's are read from vmcs01 again. MSRs of
    the VM-entry MSR-load list are put back only if the VM-exit MSR-load list has them too.
    """
    vmcs = vcpu.vmcs
    vcpu.pat = vmcs["guest_ia32_pat"]
    if vmcs12.vm_entry_controls & VmEntry.LOAD_DEBUG_CONTROLS:
        kvm_set_dr7(vcpu, vmcs["guest_dr7"])
    vmx_set_efer(vcpu, nested_vmx_get_vmcs01_guest_efer(vcpu))
    vcpu.cr0_guest_owned_bits = vmx_l1_guest_owned_cr0_bits(vcpu)
    # Where CR0.PG changes, CR4 is read from here on the way; L2's own mask is in force still.
    owned = vcpu.cr4_guest_owned_bits
    vcpu.cr4 = vcpu.cr4 & ~owned | vmcs["guest_cr4"] & owned
    vmx_set_cr0(vcpu, vmcs["cr0_read_shadow"])
    vcpu.cr4_guest_owned_bits = ALL_ONES & ~vmcs["cr4_guest_host_mask"]
    vmx_set_cr4(vcpu, vmcs["cr4_read_shadow"])
    vcpu.cr3 = vmcs["guest_cr3"]
    if vcpu.params.ept and is_pae_paging(vcpu):
        vcpu.pdptrs = tuple(vmcs[name] for name in PDPTR_FIELDS)
    # EFER may have stayed that of L2, and then it does not go with L1's paging.
    kvm_init_mmu(vcpu)
    if not _restore_msrs(vcpu, vmcs12):
        nested_vmx_abort(vcpu, "host-msrs")


def _restore_msrs(vcpu: Vcpu, vmcs12: Vmcs) -> bool:
    loaded = list_entries(vcpu, vmcs12.vm_entry_msr_load_addr, vmcs12.vm_entry_msr_load_count)
    for _, guest in loaded:
        entries = list_entries(vcpu, vmcs12.vm_exit_msr_load_addr, vmcs12.vm_exit_msr_load_count)
        for _, host in entries:
            index = host & _WORD
            if index != guest & _WORD:
                continue
            if host >> 64 == guest >> 64:
                break
            failed = nested_vmx_load_msr_check(vcpu, index, host >> 32 & _WORD)
            if failed:
                vcpu.fired.append(failed)
                return False
            if not kvm_set_msr(vcpu, index, host >> 64):
                return False
        else:
            if _list_leaves_memory(vcpu, vmcs12):
                return False
    return True


def _list_leaves_memory(vcpu: Vcpu, vmcs12: Vmcs) -> bool:
    """Whether reading the VM-exit MSR-load list to its end fails for the lack of memory."""
    count = vmcs12.vm_exit_msr_load_count
    if count == 0:
        return False
    last = vmcs12.vm_exit_msr_load_addr + 16 * count - 1
    start = vmcs12.vm_exit_msr_load_addr
    return not any(first <= start and last < first + size for first, size in vcpu.memory.slots)
