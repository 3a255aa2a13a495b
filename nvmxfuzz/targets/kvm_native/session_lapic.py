# SPDX-License-Identifier: GPL-2.0-only
"""The steps of a session that are about the local APIC: interrupts, and its registers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from nvmxfuzz.inputs.session_steps import LAPIC as REGISTERS
from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.oracles.session.witness import StepResult
from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native.session_userspace import signal
from nvmxfuzz.targets.kvm_native.session_vcpu import SessionVcpu


def interrupt(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """KVM_SIGNAL_MSI, fixed delivery; "refused" if the APIC does not take it."""
    return signal(vcpu, step.number("vector"))


def set_lapic(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """KVM_SET_LAPIC."""
    page = ctypes.create_string_buffer(io.LAPIC_SIZE)
    error = vcpu.call(io.KVM_GET_LAPIC, ctypes.addressof(page))
    if error:
        return StepResult(error)
    at = REGISTERS[step.chosen("register")]
    ctypes.memmove(ctypes.addressof(page) + at, step.number("value").to_bytes(4, "little"), 4)
    return StepResult(vcpu.call(io.KVM_SET_LAPIC, ctypes.addressof(page)))


LAPIC_STEPS: Final[Mapping[str, Callable[[SessionVcpu, SessionStep], StepResult]]] = (
    MappingProxyType({"interrupt": interrupt, "set-lapic": set_lapic})
)
