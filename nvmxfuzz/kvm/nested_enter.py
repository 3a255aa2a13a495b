# SPDX-License-Identifier: GPL-2.0-only
"""nested_vmx_run(): L1 executes VMLAUNCH or VMRESUME, and every way that can end.

vmx/nested.c; vcpu_run() and vmx_vcpu_run() as far as they run vmcs02 for the first time.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Primary, Secondary, VmEntry
from nvmxfuzz.arch.events import Activity, Interruptibility, InterruptionInfo, Vector
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.instruction_errors import InstructionError
from nvmxfuzz.arch.msr import MSR_EFER
from nvmxfuzz.arch.registers import Cr0, Efer, Rflags
from nvmxfuzz.kvm.check_values import nested_cpu_has2
from nvmxfuzz.kvm.dry_run import nested_vmx_check_vmentry_hw, vmx_prepare_switch_to_guest
from nvmxfuzz.kvm.entry_behaviour import MissingRoot, StashedCr3
from nvmxfuzz.kvm.entry_run import (
    FAIL_ENTRY,
    INTERNAL_ERROR,
    TRIPLE_FAULT,
    VM_BUGGED,
    EntryRun,
    NestedEntry,
    Over,
)
from nvmxfuzz.kvm.hardware import Hardware, WillingHardware, enter_hardware
from nvmxfuzz.kvm.nested_checks_controls import nested_vmx_check_controls
from nvmxfuzz.kvm.nested_checks_guest import VMCS12_REVISION, nested_vmx_check_guest_state
from nvmxfuzz.kvm.nested_checks_host import (
    nested_vmx_check_address_space_size,
    nested_vmx_check_host_state,
)
from nvmxfuzz.kvm.nested_checks_listed import check_vmentry_postreqs, check_vmentry_prereqs
from nvmxfuzz.kvm.nested_exit import (
    FAILED_VMENTRY,
    load_vmcs12_host_state,
    nested_vmx_fail,
    nested_vmx_fail_invalid,
    nested_vmx_vmexit,
    switch_to_vmcs01,
)
from nvmxfuzz.kvm.nested_load import nested_vmx_load_msr
from nvmxfuzz.kvm.nested_pages import (
    has_backed_root,
    nested_get_vmcs12_pages,
    nested_vmx_check_controls_late,
)
from nvmxfuzz.kvm.vcpu import EntryRequest, Kvm, Vcpu
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmcs01 import ZERO_VMCS, construct_eptp, prepare_vmcs01, vmx_vcpu_load_vmcs
from nvmxfuzz.kvm.vmcs02 import prepare_vmcs02
from nvmxfuzz.kvm.vmcs02_early import prepare_vmcs02_early
from nvmxfuzz.kvm.vmcs02_fields import PDPTR_FIELDS
from nvmxfuzz.kvm.vmx_registers import (
    cet_fields,
    is_pae_paging,
    user_return_efer,
    vmx_guest_debugctl_read,
)
from nvmxfuzz.machine.outcome import (
    ENTERED,
    FAIL_INVALID,
    exit_on_entry,
    fail_valid,
    fault,
)
from nvmxfuzz.machine.vmcs import Vmcs

EVMCS_VERSION = 1
_CONTROL_FIELD = int(InstructionError.ENTRY_INVALID_CONTROL_FIELD)
_HOST_FIELD = int(InstructionError.ENTRY_INVALID_HOST_STATE_FIELD)
_BLOCKING_INTERRUPTS = Interruptibility.BLOCKING_BY_STI | Interruptibility.BLOCKING_BY_MOV_SS
_APIC_PROCPRI = 0xA0
_INVALID_STATE = int(ExitReason.INVALID_STATE)
_MSR_LOAD_FAIL = int(ExitReason.MSR_LOAD_FAIL)


def vm_entry(kvm: Kvm, request: EntryRequest, hardware: Hardware | None = None) -> NestedEntry:
    """Let L1 execute the instruction, and L2 be entered once if KVM gets that far.

    Without `hardware` vmcs02 is prepared but never run.
    """
    vcpu = Vcpu(kvm, request)
    run = EntryRun(vcpu, hardware or WillingHardware())
    try:
        handle_vmlaunch(run)
        if hardware is not None:
            _run_vmcs02(run)
    except Over as over:
        return run.result(over.outcome, over.check, over.died)
    return run.result(ENTERED, "")


def handle_vmlaunch(run: EntryRun) -> None:
    """What the processor checks before the instruction causes a VM exit to KVM, then KVM."""
    vcpu = run.vcpu
    processor = vcpu.l1.processor
    if (
        not processor.cr0 & Cr0.PE
        or processor.rflags & Rflags.VM
        or (processor.efer & Efer.LMA and not processor.cs_l)
    ):
        raise Over("basic.mode.supported", fault(Vector.UD))
    nested_vmx_run(run)


def nested_vmx_check_permission(vcpu: Vcpu) -> None:
    """L1 is in VMX operation, where SMM never is, and at CPL 0."""
    processor = vcpu.l1.processor
    if processor.vmxon_pointer == ALL_ONES or processor.in_smm:
        raise Over("basic.vmx-operation.on", fault(Vector.UD))
    if processor.cpl:
        raise Over("basic.cpl.zero", fault(Vector.GP))


def nested_vmx_handle_enlightened_vmptrld(vcpu: Vcpu) -> bool:
    """Map the enlightened VMCS that L1 uses, if any; True if it is the current VMCS."""
    evmcs = vcpu.l1.evmcs
    if evmcs is None or evmcs.pointer == ALL_ONES:
        return False
    if not vcpu.memory.is_backed(evmcs.pointer):
        raise Over("evmcs.pointer.memory", fault(Vector.UD))
    revision = vcpu.memory.read_int(evmcs.pointer, 4)
    if revision not in (EVMCS_VERSION, VMCS12_REVISION):
        raise _fail_invalid(vcpu, "evmcs.revision.known")
    return True


def _fail_invalid(vcpu: Vcpu, check: str) -> Over:
    vcpu.fired.append(check)
    nested_vmx_fail_invalid(vcpu)
    return Over(check, FAIL_INVALID)


def _fail(vcpu: Vcpu, check: str, error: int) -> Over:
    vcpu.fired.append(check)
    nested_vmx_fail(vcpu, error)
    return Over(check, fail_valid(error))


def nested_vmx_run(run: EntryRun) -> None:
    """Enter L2 as far as KVM's model goes: its registers loaded, vmcs02 prepared."""
    vcpu = run.vcpu
    vmcs12 = vcpu.vmcs12
    nested_vmx_check_permission(vcpu)
    load_vmcs01(vcpu)
    enlightened = nested_vmx_handle_enlightened_vmptrld(vcpu)
    processor = vcpu.l1.processor
    if not enlightened:
        if processor.current_vmcs == ALL_ONES:
            raise _fail_invalid(vcpu, "basic.vmcs.current")
        if processor.current_vmcs_is_shadow:
            raise _fail_invalid(vcpu, "basic.vmcs.shadow")
    if processor.blocking_by_mov_ss:
        error = InstructionError.ENTRY_EVENTS_BLOCKED_BY_MOV_SS
        raise _fail(vcpu, "basic.mov-ss.blocking", int(error))
    request = vcpu.request
    # The enlightened VMCS has no launch state.
    if not enlightened and request.launched == request.launch:
        error = (
            InstructionError.VMLAUNCH_NONCLEAR_VMCS
            if request.launch
            else InstructionError.VMRESUME_NONLAUNCHED_VMCS
        )
        raise _fail(vcpu, "basic.launch-state.instruction", int(error))
    failed, number = check_controls_and_host_state(vcpu, vmcs12)
    if failed:
        raise _fail(vcpu, failed, number)
    vcpu.nested_run_pending = True
    nested_vmx_enter_non_root_mode(run)
    _enter_activity_state(vcpu, vmcs12)


def check_controls_and_host_state(vcpu: Vcpu, vmcs12: Vmcs) -> tuple[str, int]:
    """Return the first check that ends in VMfailValid with the error number, or ("", 0)."""
    if vcpu.behaviour.one_list_of_checks:
        return check_vmentry_prereqs(vcpu, vmcs12)
    failed = nested_vmx_check_controls(vcpu, vmcs12)
    if failed:
        return failed, _CONTROL_FIELD
    failed = nested_vmx_check_address_space_size(vcpu, vmcs12)
    failed = failed or nested_vmx_check_host_state(vcpu, vmcs12)
    return (failed, _HOST_FIELD) if failed else ("", 0)


def check_guest_state(vcpu: Vcpu, vmcs12: Vmcs) -> tuple[str, int]:
    """Return the first check that ends in a VM exit with its qualification, or ("", 0)."""
    if vcpu.behaviour.one_list_of_checks:
        return check_vmentry_postreqs(vcpu, vmcs12)
    return nested_vmx_check_guest_state(vcpu, vmcs12)


def load_vmcs01(vcpu: Vcpu) -> None:
    """Make vmcs01 as the request has it, or as KVM makes it, the loaded VMCS."""
    given = vcpu.request.vmcs01
    if given is None:
        vcpu.vmcs01 = prepare_vmcs01(vcpu)
    else:
        vcpu.vmcs = vcpu.vmcs01 = dict(given.__dict__)
        vcpu.cr0_guest_owned_bits = ALL_ONES & ~given.cr0_guest_host_mask
        vcpu.cr4_guest_owned_bits = ALL_ONES & ~given.cr4_guest_host_mask
        if given.vm_entry_msr_load_count:
            vcpu.msr_autoload[MSR_EFER] = vcpu.efer, vcpu.host.efer
        vcpu.uret_efer = user_return_efer(vcpu)


def _enter_activity_state(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    vcpu.waits_for_sipi = vmcs12.guest_activity_state == Activity.WAIT_FOR_SIPI
    if vmcs12.guest_activity_state == Activity.HLT:
        primary = vmcs12.cpu_based_vm_exec_control
        woken = vmcs12.vm_entry_intr_info_field & InterruptionInfo.VALID
        if vcpu.behaviour.windows_wake:
            woken |= primary & Primary.NMI_WINDOW_EXITING
            if vmcs12.guest_rflags & Rflags.IF:
                woken |= primary & Primary.INTERRUPT_WINDOW_EXITING
        if vcpu.behaviour.virtual_interrupts_wake and vmx_has_nested_events(vcpu, vmcs12):
            woken = 1
        vcpu.halted = not woken


def vmx_has_nested_events(vcpu: Vcpu, vmcs12: Vmcs) -> bool:
    """Whether RVI has a virtual interrupt that L2 takes; the timer's end is no part of an entry."""
    page = vmcs12.virtual_apic_page_addr & ~0xFFF
    blocked = vmcs12.guest_interruptibility_info & _BLOCKING_INTERRUPTS
    if (
        not nested_cpu_has2(vmcs12, Secondary.VIRTUAL_INTERRUPT_DELIVERY)
        or blocked
        or not vcpu.rflags & Rflags.IF
        or not vcpu.memory.is_backed(page)
    ):
        return False
    priority = vcpu.memory.read_int(page + _APIC_PROCPRI, 1) or 0
    return vcpu.vmcs["guest_intr_status"] & 0xF0 > priority & 0xF0


def nested_vmx_enter_non_root_mode(run: EntryRun, *, from_vmentry: bool = True) -> None:
    """Switch from vmcs01 to vmcs02 and load L2's state; undo it all where a check fails.

    Without `from_vmentry` L2 is restored, by RSM or KVM_SET_NESTED_STATE: what L1's instruction has
    checked is not checked again, pages come later, and a failure leaves L1 without its registers.
    """
    vcpu = run.vcpu
    vmcs12 = vcpu.vmcs12
    _keep_for_l2(vcpu, vmcs12)
    nested = vcpu.request.nested
    vcpu.vmcs02 = dict(nested.vmcs02.__dict__ if nested.vmcs02 is not None else ZERO_VMCS)
    vcpu.vmcs = vcpu.vmcs02
    vmx_vcpu_load_vmcs(vcpu)
    prepare_vmcs02_early(vcpu, vmcs12)
    if from_vmentry:
        _check_vmentry(run, vmcs12)
    vcpu.guest_mode = True
    failed, qualification = prepare_vmcs02(vcpu, vmcs12, from_vmentry=from_vmentry)
    if failed:
        raise _fail_vmexit_guest_mode(
            vcpu, failed, _INVALID_STATE, qualification, from_vmentry=from_vmentry
        )
    if not from_vmentry:
        return
    failed, number = nested_vmx_load_msr(
        vcpu, vmcs12.vm_entry_msr_load_addr, vmcs12.vm_entry_msr_load_count
    )
    if failed:
        raise _fail_vmexit_guest_mode(vcpu, failed, _MSR_LOAD_FAIL, number)


def _keep_for_l2(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    """Keep of L1 what L2 goes on with, and what a late VMfail has to find."""
    entry = vmcs12.vm_entry_controls if vcpu.nested_run_pending else 0
    if not entry & VmEntry.LOAD_DEBUG_CONTROLS:
        vcpu.pre_vmenter_debugctl = vmx_guest_debugctl_read(vcpu)
    if vcpu.kvm.mpx_supported and not entry & VmEntry.LOAD_IA32_BNDCFGS:
        vcpu.pre_vmenter_bndcfgs = vcpu.vmcs["guest_bndcfgs"]
    vcpu.pre_vmenter_cet = {name: vcpu.vmcs[name] for name in cet_fields(vcpu)}
    if not vcpu.params.ept and _stashes_cr3(vcpu):
        vcpu.vmcs["guest_cr3"] = vcpu.cr3


def _check_vmentry(run: EntryRun, vmcs12: Vmcs) -> None:
    """Make the checks that only L1's instruction brings, with the pages that they need."""
    vcpu = run.vcpu
    if not nested_get_vmcs12_pages(vcpu):
        switch_to_vmcs01(vcpu)
        raise Over(vcpu.fired[-1], None, INTERNAL_ERROR)
    failed, entry = nested_vmx_check_vmentry_hw(vcpu, run.hardware)
    if entry is not None:
        run.entries.append(entry)
    if failed:
        switch_to_vmcs01(vcpu)
        raise _fail(vcpu, failed, _CONTROL_FIELD)
    failed = nested_vmx_check_controls_late(vcpu, vmcs12)
    if failed:
        switch_to_vmcs01(vcpu)
        raise _fail(vcpu, failed, _CONTROL_FIELD)
    failed, qualification = check_guest_state(vcpu, vmcs12)
    if failed:
        raise _fail_vmexit(vcpu, failed, _INVALID_STATE, qualification)


def _stashes_cr3(vcpu: Vcpu) -> bool:
    """Whether the way back from a late VMfail finds L1's own CR3 in vmcs01."""
    when = vcpu.behaviour.stashed_cr3
    return when is StashedCr3.ALWAYS or (
        when is StashedCr3.NO_DRY_RUN and not vcpu.params.early_consistency_checks
    )


def _fail_vmexit_guest_mode(
    vcpu: Vcpu, check: str, reason: int, qualification: int, *, from_vmentry: bool = True
) -> Over:
    if vcpu.vmcs12.cpu_based_vm_exec_control & Primary.USE_TSC_OFFSETTING:
        vcpu.tsc_offset = vcpu.tsc_offset - vcpu.vmcs12.tsc_offset & ALL_ONES
    vcpu.guest_mode = False
    return _fail_vmexit(vcpu, check, reason, qualification, from_vmentry=from_vmentry)


def _fail_vmexit(
    vcpu: Vcpu, check: str, reason: int, qualification: int, *, from_vmentry: bool = True
) -> Over:
    if check not in vcpu.fired:
        vcpu.fired.append(check)
    switch_to_vmcs01(vcpu)
    vcpu.vmcs12_writes["exit_qualification"] = qualification
    if from_vmentry:
        load_vmcs12_host_state(vcpu, vcpu.vmcs12)
        vcpu.vmcs12_writes["vm_exit_reason"] = reason | FAILED_VMENTRY
    else:
        _read_lazily(vcpu)
    return Over(check, exit_on_entry(reason, qualification))


def _read_lazily(vcpu: Vcpu) -> None:
    """Have the registers that KVM reads from the loaded VMCS when it needs them: vmx_cache_reg().

    What L1 or userspace has changed since L1's last VM entry is lost.
    """
    vmcs = vcpu.vmcs
    vcpu.rip, vcpu.rsp, vcpu.rflags = (vmcs[f"guest_{name}"] for name in ("rip", "rsp", "rflags"))
    owned0, owned4 = vcpu.cr0_guest_owned_bits, vcpu.cr4_guest_owned_bits
    vcpu.cr0 = vcpu.cr0 & ~owned0 | vmcs["guest_cr0"] & owned0
    vcpu.cr4 = vcpu.cr4 & ~owned4 | vmcs["guest_cr4"] & owned4
    if not vmcs["cpu_based_vm_exec_control"] & Primary.CR3_LOAD_EXITING:
        vcpu.cr3 = vmcs["guest_cr3"]


def _run_vmcs02(run: EntryRun) -> None:
    """vcpu_enter_guest() for L2: the last fields of vmcs02, the entry, and back to L1 if it fails.

    A halted L2 is not run until something wakes it.
    """
    vcpu = run.vcpu
    if vcpu.halted or vcpu.waits_for_sipi:
        return
    run.prepared = Vmcs(vcpu.vmcs02)
    missing = vcpu.behaviour.missing_root
    if missing is not MissingRoot.DUMMY and not has_backed_root(vcpu):
        if missing is MissingRoot.TRIPLE_FAULT:
            raise Over("entry.root.memory", None, TRIPLE_FAULT)
        vcpu.warn("nested_vmx_vmexit.nested_run_pending")
        raise Over("entry.root.memory", None, VM_BUGGED)
    _vmx_vcpu_run(vcpu)
    entry = enter_hardware(vcpu, run.hardware, dry_run=False)
    run.entries.append(entry)
    outcome = entry.outcome
    vcpu.nested_run_pending = False
    if outcome.kind == "entered":
        vcpu.vmcs02_launched = True
        return
    if outcome.kind == "exit":
        if outcome.number == ExitReason.MCE_DURING_VMENTRY:
            raise Over("hardware.entry.machine-check", None, FAIL_ENTRY)
        nested_vmx_vmexit(vcpu, outcome.number | FAILED_VMENTRY, outcome.qualification, False)
        raise Over("hardware.entry.exit", outcome)
    vcpu.fired.append("hardware.entry.vmfail")
    if outcome.number != _CONTROL_FIELD:
        vcpu.warn("nested_vmx_vmexit.error")
    if vcpu.early_check:
        vcpu.warn("nested_vmx_vmexit.early-check")
    if vcpu.behaviour.has_late_checks and vcpu.params.warn_on_missed_cc:
        vcpu.warn("nested_vmx_vmexit.missed-check")
    nested_vmx_vmexit(vcpu, 0, 0, True)
    raise Over("hardware.entry.vmfail", fail_valid(_CONTROL_FIELD))


def _vmx_vcpu_run(vcpu: Vcpu) -> None:
    """Write what KVM keeps until the moment of entry: page tables, registers, the host's state."""
    vmcs = vcpu.vmcs
    vmx_prepare_switch_to_guest(vcpu)
    vmcs["guest_rsp"] = vcpu.rsp
    vmcs["guest_rip"] = vcpu.rip
    vmcs["host_cr3"] = vcpu.host.cr3
    vmcs["host_cr4"] = vcpu.host.cr4
    if vcpu.params.ept:
        vmcs["ept_pointer"] = construct_eptp(vcpu, vcpu.kvm.places.ept02)
        if vcpu.pdptrs is not None and is_pae_paging(vcpu):
            vmcs.update(zip(PDPTR_FIELDS, vcpu.pdptrs, strict=True))
    else:
        vmcs["guest_cr3"] = vcpu.kvm.places.ept02
