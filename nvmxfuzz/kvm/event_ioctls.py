# SPDX-License-Identifier: GPL-2.0-only
"""The ioctls by which userspace reads and writes events and the MP state of a vCPU: x86.c.

KVM_GET_VCPU_EVENTS makes pending what has arrived, KVM_GET_MP_STATE takes an INIT or SIPI.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from nvmxfuzz.arch.events import Interruptibility, Vector
from nvmxfuzz.kvm.inject_events import process_nmi, process_smi_and_nmi
from nvmxfuzz.kvm.nested_vmexit import vmx_leave_nested
from nvmxfuzz.kvm.smm import interrupt_shadow
from nvmxfuzz.kvm.vcpu_events import QueuedException, QueuedInterrupt, is_soft
from nvmxfuzz.kvm.vcpu_reset import init_sipi_allowed, kvm_apic_accept_events
from nvmxfuzz.kvm.vcpu_vmx import MP_INIT_RECEIVED, MP_SIPI_RECEIVED, VcpuVmx

_NMI: Final = int(Interruptibility.BLOCKING_BY_NMI)
_MOST_EXCEPTIONS: Final = 31
_NMI_PENDING: Final = 1
_SIPI_VECTOR: Final = 2
_SHADOW: Final = 4
_SMM: Final = 8
_PAYLOAD: Final = 16
_TRIPLE_FAULT: Final = 32
TOLD: Final = _NMI_PENDING | _SHADOW | _SMM | _PAYLOAD | _TRIPLE_FAULT
"""Flags that KVM_GET_VCPU_EVENTS sets."""
EXTRA_FLAGS: Final[Mapping[str, int]] = MappingProxyType({"sipi_vector": _SIPI_VECTOR})
"""Parts that are taken with a flag only that is not among them."""


def kvm_get_mp_state(vmx: VcpuVmx) -> int:
    """KVM_GET_MP_STATE."""
    kvm_apic_accept_events(vmx)
    return vmx.mp_state


def kvm_get_vcpu_events(vmx: VcpuVmx) -> dict[str, int]:
    """KVM_GET_VCPU_EVENTS, by the names of its parts."""
    process_smi_and_nmi(vmx)
    events = vmx.events
    queued = events.exception
    if events.exception_vmexit.pending and not queued.pending and not queued.injected:
        queued = events.exception_vmexit
    told = not is_soft(queued.vector)
    masked = vmx.vcpu.vmcs["guest_interruptibility_info"] & _NMI
    counts = vmx.vcpu.behaviour.counts_nmis
    return {
        "exception.injected": int(queued.injected and told),
        "exception.pending": int(queued.pending and told),
        "exception.nr": queued.vector,
        "exception.has_error_code": int(queued.has_error_code),
        "exception.error_code": queued.error_code,
        "exception_has_payload": int(queued.has_payload),
        "exception_payload": queued.payload,
        "interrupt.injected": int(events.interrupt.injected and not events.interrupt.soft),
        "interrupt.nr": events.interrupt.vector,
        "interrupt.soft": 0,
        "interrupt.shadow": interrupt_shadow(vmx),
        "nmi.injected": int(events.nmi_injected),
        "nmi.pending": events.nmi_pending if counts else int(events.nmi_pending != 0),
        "nmi.masked": int(masked != 0),
        "sipi_vector": 0,
        "flags": TOLD,
        "smi.smm": int(vmx.in_smm),
        "smi.pending": int(events.smi_pending),
        "smi.smm_inside_nmi": int(vmx.smm_inside_nmi),
        "smi.latched_init": int(events.init_pending),
        "triple_fault_pending": int(events.triple_fault),
    }


def kvm_set_vcpu_events(vmx: VcpuVmx, new: dict[str, int]) -> int:
    """KVM_SET_VCPU_EVENTS, by the names of its parts, "flags" among them."""
    flags, events = new["flags"], vmx.events
    if flags & ~(TOLD | _SIPI_VECTOR):
        return -errno.EINVAL
    pending = new["exception.pending"] if flags & _PAYLOAD else 0
    injected = new["exception.injected"] if not pending else 0
    payload = pending and flags & _PAYLOAD and new["exception_has_payload"]
    vector = new["exception.nr"]
    if (pending or injected) and (vector > _MOST_EXCEPTIONS or vector == Vector.NMI):
        return -errno.EINVAL
    smm = flags & _SMM and (new["smi.smm"] or new["smi.pending"])
    if smm and vmx.mp_state == MP_INIT_RECEIVED:
        return -errno.EINVAL
    process_nmi(vmx)
    events.exception_from_userspace = pending != 0
    events.exception_vmexit.pending = False
    events.exception = QueuedException(
        pending != 0,
        injected != 0,
        vector,
        new["exception.has_error_code"] != 0,
        new["exception.error_code"],
        payload != 0,
        new["exception_payload"],
    )
    events.interrupt = QueuedInterrupt(
        new["interrupt.injected"] != 0, new["interrupt.nr"], new["interrupt.soft"] != 0
    )
    if flags & _SHADOW:
        _set_shadow(vmx.vcpu.vmcs, new["interrupt.shadow"])
    _set_nmis(vmx, new)
    if flags & _SIPI_VECTOR:
        events.sipi_vector = new["sipi_vector"]
    if flags & _SMM:
        _set_smm(vmx, new)
    if flags & _TRIPLE_FAULT:
        events.triple_fault = new["triple_fault_pending"] != 0
    return 0


def _set_nmis(vmx: VcpuVmx, new: dict[str, int]) -> None:
    events, vmcs = vmx.events, vmx.vcpu.vmcs
    events.nmi_injected = new["nmi.injected"] != 0
    if new["flags"] & _NMI_PENDING:
        if vmx.vcpu.behaviour.counts_nmis:
            events.nmi_pending, events.nmi_queued = 0, new["nmi.pending"]
            events.nmi_request |= new["nmi.pending"] != 0
        else:
            events.nmi_pending = new["nmi.pending"]
    vmcs["guest_interruptibility_info"] &= ~_NMI
    if new["nmi.masked"]:
        vmcs["guest_interruptibility_info"] |= _NMI


def _set_smm(vmx: VcpuVmx, new: dict[str, int]) -> None:
    if int(vmx.in_smm) != new["smi.smm"]:
        vmx_leave_nested(vmx)
        vmx.in_smm = new["smi.smm"] != 0
        if not vmx.in_smm:
            vmx.smm_inside_nmi = vmx.pdptrs_from_userspace = False
    vmx.events.smi_pending = new["smi.pending"] != 0
    if new["smi.smm"]:
        vmx.smm_inside_nmi = new["smi.smm_inside_nmi"] != 0
    vmx.events.init_pending = new["smi.latched_init"] != 0


def _set_shadow(vmcs: dict[str, int], shadow: int) -> None:
    info = vmcs["guest_interruptibility_info"] & ~3
    if shadow & 1:
        info |= 2
    elif shadow & 2:
        info |= 1
    vmcs["guest_interruptibility_info"] = info


def kvm_set_mp_state(vmx: VcpuVmx, state: int) -> int:
    """KVM_SET_MP_STATE, on a vCPU whose local APIC is in the kernel."""
    if state in (MP_SIPI_RECEIVED, MP_INIT_RECEIVED):
        if not init_sipi_allowed(vmx) or vmx.events.smi_pending:
            return -errno.EINVAL
        if state == MP_SIPI_RECEIVED:
            vmx.mp_state, vmx.events.sipi_pending = MP_INIT_RECEIVED, True
            return 0
    vmx.mp_state = state
    return 0


def kvm_inject_nmi(vmx: VcpuVmx) -> None:
    """KVM_NMI."""
    vmx.events.nmi_queued += 1
    vmx.events.nmi_request = True


def accept_init(vmx: VcpuVmx) -> bool:
    """__apic_accept_irq() of an INIT; a SIPI that has not been seen yet is lost."""
    vmx.events.init_pending, vmx.events.sipi_pending = True, False
    return True


def accept_sipi(vmx: VcpuVmx, vector: int) -> bool:
    """The same of a SIPI."""
    vmx.events.sipi_pending, vmx.events.sipi_vector = True, vector
    return True
