# SPDX-License-Identifier: GPL-2.0-only
"""The steps of a session in which L1 takes KVM for Hyper-V, and enters with an enlightened VMCS."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from nvmxfuzz.arch import evmcs
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.oracles.session.witness import PLACE_ADDRESSES, StepResult
from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.port import Exit
from nvmxfuzz.targets.kvm_native.session_end import end_of
from nvmxfuzz.targets.kvm_native.session_exits import script
from nvmxfuzz.targets.kvm_native.session_vcpu import SessionVcpu

_ASSIST_PAGES: Final = 0x3_A000
"""Guest-physical address of the VP assist page of the first vCPU."""
_PAGE: Final = 0x1000
_ENLIGHTEN: Final = 40
"""Offset in it: whether to enter with an enlightened VMCS, and 8 bytes behind it which one."""
_VP_ASSIST_PAGE: Final = 0x4000_0073
_LENGTH: Final = 2
_WORD: Final = (1 << 32) - 1

_HYPERVISOR: Final = range(0x4000_0000, 0x4000_0100)
"""CPUID leaves in which KVM tells who it is."""
_INTERFACE: Final = s.CpuidEntry(function=0x4000_0001, eax=0x3123_7648)
_FEATURES: Final = s.CpuidEntry(function=0x4000_0003, eax=_WORD, ebx=_WORD)
_DIRECT_FLUSH_AND_MSR_BITMAP: Final = 1 << 17 | 1 << 19
_NESTED: Final = s.CpuidEntry(function=0x4000_000A, eax=_DIRECT_FLUSH_AND_MSR_BITMAP | 0x101)
_MOST_CPUID: Final = 256


def enlighten(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """KVM_SET_CPUID2 with Hyper-V's leaves, and KVM_ENABLE_CAP of the enlightened VMCS."""
    table = s.counted(s.CpuidEntry, (), _MOST_CPUID)
    vcpu.call(io.KVM_GET_CPUID2, ctypes.byref(table))
    # Linux 6.1 does not say how many it has written: what is all zero is none of them.
    given = (each for each in table.items[: table.count] if each.function or each.eax)
    kept = [each for each in given if each.function not in _HYPERVISOR]
    changed = s.counted(s.CpuidEntry, (*kept, _INTERFACE, _FEATURES, _NESTED))
    vcpu.readable = {}
    error = vcpu.call(io.KVM_SET_CPUID2, ctypes.byref(changed))
    if error or step.chosen("evmcs") != "enabled":
        return StepResult(error)
    version = ctypes.c_uint16()
    cap = s.EnableCap(io.KVM_CAP_HYPERV_ENLIGHTENED_VMCS)
    cap.args[0] = ctypes.addressof(version)
    return StepResult(vcpu.set(io.KVM_ENABLE_CAP, cap))


def assist_page(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """L1 writes its VP assist page, and where it is into Hyper-V's MSR."""
    page = _ASSIST_PAGES + vcpu.number * _PAGE
    chosen = step.chosen("enlighten")
    region = PLACE_ADDRESSES[step.chosen("region")]
    was_l2 = vcpu.in_l2()
    registers = {"rcx": _VP_ASSIST_PAGE, "rax": page | (chosen != "disabled"), "rdx": 0}
    written = Exit(ExitReason.MSR_WRITE, length=_LENGTH, registers=registers)
    result = end_of(vcpu, was_l2, vcpu.run(script(written)), told=True)
    # KVM clears the page when it is enabled.
    vcpu.vm.write(page + _ENLIGHTEN, struct.pack("<QQ", chosen == "on", region))
    return result


def prepare_enlightened(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """L1 writes an enlightened VMCS, which takes no VMWRITE."""
    # What KVM has to write there, it does before L1 goes on.
    error, _ = vcpu.run()
    if error:
        return StepResult(error)
    attempt = vcpu.vm.bases.attempt(step.chosen("base"))
    for address, data in attempt.memory.regions:
        vcpu.vm.write(address, data)
    image = bytearray(evmcs.SIZE)
    struct.pack_into("<I", image, 0, evmcs.VERSION)
    struct.pack_into("<I", image, evmcs.CLEAN_FIELDS, step.number("clean"))
    values = attempt.vmcs.items()
    for name, offset in evmcs.OFFSETS.items():
        if name in values:
            struct.pack_into(_CODES[FIELD_BY_NAME[name].width], image, offset, values[name])
    written = vcpu.vm.write(PLACE_ADDRESSES[step.chosen("region")], bytes(image))
    return StepResult(outcome="" if written else "unbacked")


_CODES: Final[Mapping[int | str, str]] = MappingProxyType(
    {16: "<H", 32: "<I", 64: "<Q", "natural": "<Q"}
)
"""By the width of a field."""

EVMCS_STEPS: Final[Mapping[str, Callable[[SessionVcpu, SessionStep], StepResult]]] = (
    MappingProxyType(
        {
            "enlighten": enlighten,
            "assist-page": assist_page,
            "prepare-enlightened": prepare_enlightened,
        }
    )
)
