# SPDX-License-Identifier: GPL-2.0-only
"""kvm_set_msr(): which MSRs an MSR list may load with which values, and what that changes.

kvm_set_msr_common() of x86.c, vmx_set_msr(), the virtual PMU, MTRRs, machine-check banks and KVM's
own MSRs, for a vCPU without Hyper-V, Xen and Intel PT, with ignore_msrs off and no MSR filter.
What KVM accepts is not what a processor accepts: it swallows some AMD MSRs, makes SYSENTER
addresses canonical instead of refusing them, and knows no MSR that it does not emulate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.bits import named_bits
from nvmxfuzz.arch.controls import Secondary, VmEntry, VmExit
from nvmxfuzz.arch.registers import BndCfgs, Efer, SpecCtrl
from nvmxfuzz.kvm.check_values import (
    is_noncanonical_msr_address,
    kvm_pat_valid,
    kvm_valid_efer,
    kvm_valid_perf_global_ctrl,
    vcpu_virt_addr_bits,
    vmx_is_valid_debugctl,
)
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmx_registers import is_paging, vmx_guest_debugctl_write, vmx_set_efer

Setter = Callable[[Vcpu, int, int], bool]
"""Takes the vCPU, the MSR's index and the value; False where KVM refuses the value."""

X2APIC_ENABLE = 1 << 10
_APIC_MODE = X2APIC_ENABLE | 1 << 11
_X2APIC = _APIC_MODE
_XAPIC = 1 << 11
_VIRTUAL_APIC = Secondary.VIRTUALIZE_APIC_ACCESSES | Secondary.VIRTUALIZE_X2APIC_MODE

MTRR_TYPES = 0x73
"""Bit n is 1 where n is a memory type of an MTRR: UC, WC, WT, WP and WB."""

_MISC_ENABLE_READ_ONLY = 1 << 11 | 1 << 12
_MCE_BANKS = 32
_SPEC_CTRL_BITS = sum(named_bits(SpecCtrl).values())
_PMC_WIDTH = (1 << 48) - 1
_EVENTSEL_RESERVED = 0xFFFF_FFFF_0020_0000
_HSW_IN_TX = 1 << 32
_HSW_IN_TX_CHECKPOINTED = 1 << 33
_STEAL_RESERVED = 0x3E


def kvm_set_msr(vcpu: Vcpu, index: int, value: int) -> bool:
    """Write an MSR as the guest would; False where the write is refused and changes nothing."""
    setter = _SETTERS.get(index) or _setter_of_range(index)
    return setter is not None and setter(vcpu, index, value)


def _setter_of_range(index: int) -> Setter | None:
    for first, last, setter in _RANGES:
        if first <= index <= last:
            return setter
    return None


def _store(vcpu: Vcpu, index: int, value: int) -> bool:
    vcpu.msrs[index] = value
    return True


def _ignore(vcpu: Vcpu, index: int, value: int) -> bool:
    del vcpu, index, value
    return True


def _only_zero(vcpu: Vcpu, index: int, value: int) -> bool:
    del vcpu, index
    return value == 0


def _address(vcpu: Vcpu, index: int, value: int) -> bool:
    return not is_noncanonical_msr_address(value, vcpu) and _store(vcpu, index, value)


def set_efer(vcpu: Vcpu, index: int, value: int) -> bool:
    """EFER: LME does not change while paging is on, LMA never."""
    del index
    if not kvm_valid_efer(vcpu, value):
        return False
    if is_paging(vcpu) and (vcpu.efer ^ value) & Efer.LME:
        return False
    vmx_set_efer(vcpu, value & ~Efer.LMA | vcpu.efer & Efer.LMA)
    return True


def _set_pat(vcpu: Vcpu, index: int, value: int) -> bool:
    del index
    if not kvm_pat_valid(value):
        return False
    if vcpu.guest_mode and vcpu.vmcs12.vm_exit_controls & VmExit.SAVE_IA32_PAT:
        vcpu.vmcs12_writes["guest_ia32_pat"] = value
    if vcpu.kvm.config.vmentry_ctrl & VmEntry.LOAD_IA32_PAT:
        vcpu.vmcs["guest_ia32_pat"] = value
    vcpu.pat = value
    return True


def _set_debugctl(vcpu: Vcpu, index: int, value: int) -> bool:
    del index
    if not vmx_is_valid_debugctl(vcpu, value):
        return False
    value &= vcpu.virtual.debugctl_supported
    if vcpu.guest_mode and vcpu.vmcs12.vm_exit_controls & VmExit.SAVE_DEBUG_CONTROLS:
        vcpu.vmcs12_writes["guest_ia32_debugctl"] = value
    vmx_guest_debugctl_write(vcpu, value)
    return True


def _set_sysenter_cs(vcpu: Vcpu, index: int, value: int) -> bool:
    del index
    value &= 0xFFFF_FFFF
    if vcpu.guest_mode:
        vcpu.vmcs12_writes["guest_sysenter_cs"] = value
    vcpu.vmcs["guest_sysenter_cs"] = value
    return True


def _set_sysenter_address(vcpu: Vcpu, index: int, value: int) -> bool:
    # Sign-extended from the width of linear addresses, never refused.
    bits = (
        vcpu.virtual.host_virt_addr_bits
        if vcpu.behaviour.host_width_canonical
        else vcpu_virt_addr_bits(vcpu)
    )
    sign = 1 << bits - 1
    value = (value & (sign << 1) - 1 ^ sign) - sign & ALL_ONES
    name = "guest_sysenter_esp" if index == msr.MSR_IA32_SYSENTER_ESP else "guest_sysenter_eip"
    if vcpu.guest_mode:
        if "long-mode" not in vcpu.virtual.features:
            value &= 0xFFFF_FFFF
        vcpu.vmcs12_writes[name] = value
    vcpu.vmcs[name] = value
    return True


def _set_bndcfgs(vcpu: Vcpu, index: int, value: int) -> bool:
    del index
    if not vcpu.kvm.mpx_supported or "mpx" not in vcpu.virtual.features:
        return False
    if is_noncanonical_msr_address(value & ~0xFFF, vcpu) or value & BndCfgs.RESERVED:
        return False
    if vcpu.guest_mode and (
        vcpu.virtual.msrs.entry_ctls_high & VmEntry.LOAD_IA32_BNDCFGS
        or vcpu.virtual.msrs.exit_ctls_high & VmExit.CLEAR_IA32_BNDCFGS
    ):
        vcpu.vmcs12_writes["guest_bndcfgs"] = value
    vcpu.vmcs["guest_bndcfgs"] = value
    return True


def kvm_set_apic_base(vcpu: Vcpu, index: int, value: int) -> bool:
    """IA32_APIC_BASE: no reserved bit, and only the steps between modes that exist."""
    del index
    reserved = vcpu.virtual.reserved_gpa_bits | 0x2FF
    if "x2apic" not in vcpu.virtual.features:
        reserved |= X2APIC_ENABLE
    old, new = vcpu.apic_base & _APIC_MODE, value & _APIC_MODE
    if value & reserved or new == X2APIC_ENABLE:
        return False
    if (old, new) in ((_X2APIC, _XAPIC), (0, _X2APIC)):
        return False
    vcpu.apic_base = value
    if old != new:
        vmx_set_virtual_apic_mode(vcpu)
    return True


def vmx_set_virtual_apic_mode(vcpu: Vcpu) -> None:
    """Virtualize L1's APIC in its new mode: in vmcs01, and in L2 only when that is left."""
    config = vcpu.kvm.config
    has_x2apic = config.cpu_based_2nd_exec_ctrl & Secondary.VIRTUALIZE_X2APIC_MODE
    if not vcpu.kvm.irqchip_in_kernel or not (vcpu.params.flexpriority or has_x2apic):
        return
    vcpu.virtual_apic_stale = vcpu.guest_mode
    if vcpu.guest_mode:
        return
    mode = vcpu.apic_base & _APIC_MODE
    vmcs = vcpu.vmcs
    vmcs["secondary_vm_exec_control"] &= ~_VIRTUAL_APIC
    if mode == _XAPIC and vcpu.params.flexpriority:
        vmcs["secondary_vm_exec_control"] |= Secondary.VIRTUALIZE_APIC_ACCESSES
    if mode == _X2APIC:
        vmcs["secondary_vm_exec_control"] |= has_x2apic


def _set_tsc(vcpu: Vcpu, index: int, value: int) -> bool:
    # The offset that results depends on the time: what the TSC is when KVM gets here.
    vcpu.tsc_written = True
    return _store(vcpu, index, value)


def _set_tsc_aux(vcpu: Vcpu, index: int, value: int) -> bool:
    return vcpu.virtual.has_tsc_aux and value >> 32 == 0 and _store(vcpu, index, value)


def _set_misc_enable(vcpu: Vcpu, index: int, value: int) -> bool:
    old = vcpu.msrs.get(index, _MISC_ENABLE_READ_ONLY)
    if (old ^ value) & _MISC_ENABLE_READ_ONLY:
        return False
    return _store(vcpu, index, value & ~(1 << 7) | old & 1 << 7)


def _set_spec_ctrl(vcpu: Vcpu, index: int, value: int) -> bool:
    # KVM tries the value on the processor.
    supported = vcpu.kvm.hardware.spec_ctrl_mask
    if "spec-ctrl" not in vcpu.virtual.features:
        return False
    # Of a processor of which nobody says what it takes it is known what none does.
    taken = _SPEC_CTRL_BITS if supported is None else supported
    return value & ~taken == 0 and _store(vcpu, index, value)


def _set_command(vcpu: Vcpu, index: int, value: int) -> bool:
    # PRED_CMD and FLUSH_CMD: the bit works where the processor below has it too.
    commands = vcpu.virtual.pred_cmd if index == 0x49 else vcpu.virtual.flush_cmd
    return commands is not None and value & ~commands == 0


def _set_hwcr(vcpu: Vcpu, index: int, value: int) -> bool:
    value &= ~0x148
    if vcpu.behaviour.hwcr_bits_together:
        return value & ~(1 << 18 | 1 << 24) == 0 and _store(vcpu, index, value)
    return value in (0, 1 << 18) and _store(vcpu, index, value)


def _set_mtrr(vcpu: Vcpu, index: int, value: int) -> bool:
    if index == 0x2FF:
        valid = value & ~0xCFF == 0 and _mtrr_type(value)
    elif index >= 0x250:
        valid = all(_mtrr_type(value >> 8 * at) for at in range(8))
    elif index & 1:
        valid = value & (vcpu.virtual.reserved_gpa_bits | 0x7FF) == 0
    else:
        valid = value & (vcpu.virtual.reserved_gpa_bits | 0xF00) == 0 and _mtrr_type(value)
    return valid and _store(vcpu, index, value)


def _mtrr_type(value: int) -> bool:
    return value & 0xF8 == 0 and MTRR_TYPES >> (value & 7) & 1 != 0


def _set_mce_bank(vcpu: Vcpu, index: int, value: int) -> bool:
    register = index & 3
    valid = value == 0 or register > 1
    if register == 0:
        # All ones but for two bits that some operating systems leave at 0.
        valid = valid or value | 0x401 == ALL_ONES
    return valid and _store(vcpu, index, value)


def _set_perf_global(vcpu: Vcpu, index: int, value: int) -> bool:
    if not vcpu.virtual.has_perf_global_ctrl:
        return False
    if index == 0x390:
        value &= ~(3 << 62)
    return kvm_valid_perf_global_ctrl(vcpu, value) and _store(vcpu, index, value)


def _set_fixed_counter_control(vcpu: Vcpu, index: int, value: int) -> bool:
    if not vcpu.virtual.has_perf_global_ctrl:
        return False
    allowed = sum(0xB << 4 * number for number in range(_fixed_counters(vcpu)))
    return value & ~allowed == 0 and _store(vcpu, index, value)


def _fixed_counters(vcpu: Vcpu) -> int:
    return (~vcpu.virtual.perf_global_ctrl_reserved >> 32 & 0xFFFF).bit_count()


def _general_counters(vcpu: Vcpu) -> int:
    return (~vcpu.virtual.perf_global_ctrl_reserved & 0xFFFF_FFFF).bit_count()


def _set_fixed_counter(vcpu: Vcpu, index: int, value: int) -> bool:
    return index - 0x309 < _fixed_counters(vcpu) and _store(vcpu, index, value)


def _set_counter(vcpu: Vcpu, index: int, value: int) -> bool:
    known = index - 0xC1 < _general_counters(vcpu)
    # The two counters of the P6 are swallowed where there is no virtual PMU.
    return (known or index < 0xC3) and _store(vcpu, index, value)


def _set_full_width_counter(vcpu: Vcpu, index: int, value: int) -> bool:
    known = vcpu.virtual.has_full_width_counters and index - 0x4C1 < _general_counters(vcpu)
    return known and value <= _PMC_WIDTH and _store(vcpu, index, value)


def _set_event_select(vcpu: Vcpu, index: int, value: int) -> bool:
    number = index - 0x186
    if number >= _general_counters(vcpu):
        return number < 2
    reserved = _EVENTSEL_RESERVED
    if "rtm" in vcpu.virtual.features:
        reserved &= ~(_HSW_IN_TX | (_HSW_IN_TX_CHECKPOINTED if number == 2 else 0))
    return value & reserved == 0 and _store(vcpu, index, value)


def _set_kvm_async_pf(vcpu: Vcpu, index: int, value: int) -> bool:
    if value & 0x30:
        return False
    return (vcpu.kvm.irqchip_in_kernel or value == 0) and _store(vcpu, index, value)


def _set_kvm_steal_time(vcpu: Vcpu, index: int, value: int) -> bool:
    return value & _STEAL_RESERVED == 0 and _store(vcpu, index, value)


def _set_kvm_pv_eoi(vcpu: Vcpu, index: int, value: int) -> bool:
    if value & 2 or (value & 1 and not vcpu.memory.is_backed(value & ~3)):
        return False
    return _store(vcpu, index, value)


def _set_one_bit(vcpu: Vcpu, index: int, value: int) -> bool:
    return value in (0, 1) and _store(vcpu, index, value)


def _set_xss(vcpu: Vcpu, index: int, value: int) -> bool:
    supported = vcpu.virtual.supported_xss
    return supported is not None and value & ~supported == 0 and _store(vcpu, index, value)


_SETTERS: Final[Mapping[int, Setter]] = MappingProxyType(
    {
        msr.MSR_EFER: set_efer,
        msr.MSR_IA32_CR_PAT: _set_pat,
        msr.MSR_IA32_DEBUGCTLMSR: _set_debugctl,
        msr.MSR_IA32_SYSENTER_CS: _set_sysenter_cs,
        msr.MSR_IA32_SYSENTER_ESP: _set_sysenter_address,
        msr.MSR_IA32_SYSENTER_EIP: _set_sysenter_address,
        msr.MSR_IA32_BNDCFGS: _set_bndcfgs,
        msr.MSR_IA32_APICBASE: kvm_set_apic_base,
        msr.MSR_IA32_TSC: _set_tsc,
        msr.MSR_TSC_AUX: _set_tsc_aux,
        msr.MSR_IA32_MISC_ENABLE: _set_misc_enable,
        msr.MSR_IA32_SPEC_CTRL: _set_spec_ctrl,
        msr.MSR_IA32_XSS: _set_xss,
        msr.MSR_STAR: _store,
        msr.MSR_SYSCALL_MASK: _store,
        msr.MSR_LSTAR: _address,
        msr.MSR_CSTAR: _address,
        msr.MSR_KERNEL_GS_BASE: _address,
        msr.MSR_CORE_PERF_GLOBAL_CTRL: _set_perf_global,
        0x11: _ignore,  # MSR_KVM_WALL_CLOCK
        0x12: _ignore,  # MSR_KVM_SYSTEM_TIME
        0x3B: _store,  # MSR_IA32_TSC_ADJUST
        0x49: _set_command,  # MSR_IA32_PRED_CMD
        0x10B: _set_command,  # MSR_IA32_FLUSH_CMD
        0x11E: _ignore,  # MSR_IA32_BBL_CR_CTL3
        0x140: _set_one_bit,  # MSR_MISC_FEATURES_ENABLES
        0x17A: _store,  # MSR_IA32_MCG_STATUS
        0x1FC: _store,  # MSR_IA32_POWER_CTL
        0x250: _set_mtrr,
        0x258: _set_mtrr,
        0x259: _set_mtrr,
        0x2FF: _set_mtrr,
        0x38D: _set_fixed_counter_control,
        0x390: _set_perf_global,
        0x6E0: _store,  # MSR_IA32_TSC_DEADLINE
        0x4B56_4D00: _ignore,  # MSR_KVM_WALL_CLOCK_NEW
        0x4B56_4D01: _ignore,  # MSR_KVM_SYSTEM_TIME_NEW
        0x4B56_4D02: _set_kvm_async_pf,
        0x4B56_4D03: _set_kvm_steal_time,
        0x4B56_4D04: _set_kvm_pv_eoi,
        0x4B56_4D05: _set_one_bit,  # MSR_KVM_POLL_CONTROL
        0x4B56_4D07: _ignore,  # MSR_KVM_ASYNC_PF_ACK
        0xC001_0015: _set_hwcr,
        0xC001_001B: _ignore,  # MSR_K7_CLK_CTL
        0xC001_001F: _ignore,  # MSR_AMD64_NB_CFG
        0xC001_0020: _ignore,  # MSR_AMD64_PATCH_LOADER
        0xC001_0058: _only_zero,  # MSR_FAM10H_MMIO_CONF_BASE
        0xC001_0117: _ignore,  # MSR_VM_HSAVE_PA
        0xC001_1022: _ignore,  # MSR_AMD64_DC_CFG
        0xC001_1023: _ignore,  # MSR_AMD64_TW_CFG
        0xC001_102A: _ignore,  # MSR_AMD64_BU_CFG2
        0xC001_102C: _ignore,  # MSR_F15H_EX_CFG
    }
)

_RANGES: Final[tuple[tuple[int, int, Setter], ...]] = (
    (0xC1, 0xC8, _set_counter),
    (0x186, 0x18D, _set_event_select),
    (0x200, 0x20F, _set_mtrr),
    (0x268, 0x26F, _set_mtrr),
    (0x309, 0x30F, _set_fixed_counter),
    (0x400, 0x400 + 4 * _MCE_BANKS - 1, _set_mce_bank),
    (0x4C1, 0x4C8, _set_full_width_counter),
    (0xC001_0000, 0xC001_0007, _ignore),
)
