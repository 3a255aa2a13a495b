# SPDX-License-Identifier: GPL-2.0-only
"""The processor that KVM offers L1: a profile made of what a vCPU says of itself.

The capability MSRs and CPUID are read by ioctl. Which bits of an MSR can be set is found out the
way a hypervisor in L1 would: by WRMSR, which faults where a bit is reserved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.features import FEATURES
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.kvm_native.cpuid import feature_places
from nvmxfuzz.targets.kvm_native.l1 import OUT
from nvmxfuzz.targets.kvm_native.port import Answer, Answering, Exit, PortEntry
from nvmxfuzz.targets.kvm_native.vcpu import Vcpu, offered

_ADDRESS_WIDTHS: Final = (0x8000_0008, 0)
_COUNTERS: Final = (0xA, 0)
_GP_PENDING: Final = 0x8000_0B0D
"""VM-entry interruption information of #GP with an error code."""

_MASKS: Final = {
    "debugctl_mask": msr.MSR_IA32_DEBUGCTLMSR,
    "perf_global_ctrl_mask": msr.MSR_CORE_PERF_GLOBAL_CTRL,
}
"""The masks of a profile that WRMSR can find out, where L1 has the MSR at all."""

_BEHAVIOUR: Final = frozenset({"nmi-requires-no-sti-blocking"})
"""What CPUID does not tell: KVM passes on what the processor below does."""

Leaves = Mapping[tuple[int, int], tuple[int, int, int, int]]


def virtual_profile(vcpu: Vcpu, host: Profile, name: str) -> Profile:
    """Return what L1 finds on `vcpu`, on a processor like `host`. It runs: renew it afterwards."""
    leaves = leaves_of(vcpu)
    widths = leaves.get(_ADDRESS_WIDTHS, (0x3024, 0, 0, 0))[0]
    features = features_in(leaves) | (host.features & _BEHAVIOUR)
    return Profile(
        name=name,
        note=f"What KVM offers a hypervisor in a guest on {host.name}: no hardware.",
        family=host.family,
        model=host.model,
        stepping=host.stepping,
        maxphyaddr=widths & 0xFF,
        linear_address_bits=widths >> 8 & 0xFF,
        msrs=offered(vcpu),
        features=features,
        **{key: _settable(vcpu, index) for key, index in _MASKS.items()},
    )


def leaves_of(vcpu: Vcpu) -> Leaves:
    """Return the CPUID of a vCPU, by leaf and subleaf."""
    return {
        (each.function, each.index): (each.eax, each.ebx, each.ecx, each.edx)
        for each in vcpu.get_cpuid()
    }


def features_in(leaves: Leaves) -> frozenset[str]:
    """Return the features that CPUID tells of."""
    found = {
        feature.name
        for feature in FEATURES
        if (places := feature_places(feature.name))
        and all(
            leaves.get((place.leaf, place.subleaf), (0, 0, 0, 0))[place.register] >> place.bit & 1
            for place in places
        )
    }
    if leaves.get(_COUNTERS, (0, 0, 0, 0))[0] & 0xFF > 1:
        found.add("perf-global-ctrl")
    return frozenset(found)


def _settable(vcpu: Vcpu, index: int) -> int | None:
    """Return the bits of an MSR that WRMSR takes, None where even 0 faults."""
    if not _takes(vcpu, index, 0):
        return None
    return sum(1 << bit for bit in range(64) if _takes(vcpu, index, 1 << bit))


def _takes(vcpu: Vcpu, index: int, value: int) -> bool:
    """Tell whether WRMSR by L1 goes without #GP."""
    injected: list[int] = []

    def answer(entry: PortEntry) -> Answer:
        if entry.number:
            injected.append(entry.read("vm_entry_intr_info_field"))
            return OUT
        halves = {"rcx": index, "rax": value & 0xFFFF_FFFF, "rdx": value >> 32}
        return Exit(ExitReason.MSR_WRITE, length=2, registers=halves)

    vcpu.run(Answering(answer))
    return _GP_PENDING not in injected
