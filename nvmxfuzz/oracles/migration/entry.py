# SPDX-License-Identifier: GPL-2.0-only
"""L1 in a VM that is carried: the processor that it finds, and VMCSs that enter L2 on it.

A VMCS is a base, with some or all of the controls that are offered, repaired: what a hypervisor
comes to that does as the capability MSRs say. Whether there is one at all is asked here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Final

from nvmxfuzz.arch.registers import Cr0, Cr4
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base, base_names
from nvmxfuzz.inputs.repair import dependencies as table
from nvmxfuzz.inputs.repair import repair
from nvmxfuzz.inputs.repair.controls import demanded, supported
from nvmxfuzz.kvm.guest_cpuid import GuestCpuid
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.oracles.restore.offer import Offer
from nvmxfuzz.oracles.restore.witness import MsrWorld

_WORDS: Final = (("pcid", "PCID"), ("sgx", "SGX"), ("mpx", "MPX"), ("lam", "LAM"), ("nx", "NX"))
"""Features in the words of `arch.features` and of `guest_cpuid`. L1 does not use LA57."""

_HANDED_ON: Final = frozenset({"long-mode", "rtm", "spec-ctrl", "bus-lock-detect"})
"""Features that L1 has where the processor has them, whatever the `GuestCpuid`."""
_ALWAYS: Final = frozenset({"x2apic"})
_NARROW: Final = 48
_COUNTERS: Final = 0x7_0000_00FF
"""Of IA32_PERF_GLOBAL_CTRL, what a vCPU can have: eight counters, and three that are fixed."""
USUAL_COUNTERS: Final = 0x7_0000_000F
"""What the targets' processors have where a profile does not tell: four counters and three."""

_CONTROLS: Final = (
    ("pin_based_vm_exec_control", "pin_may"),
    ("cpu_based_vm_exec_control", "primary_may"),
    ("secondary_vm_exec_control", "secondary_may"),
    ("vm_exit_controls", "exit_may"),
    ("vm_entry_controls", "entry_may"),
)
"""A field with controls -> the capability that says which may be 1."""

Choose = Callable[[int], int]
"""Takes the controls of a word that may be 1, and returns those that are to be."""


def processor_of_l1(world: MsrWorld, cpuid: GuestCpuid, values: Offer) -> Profile:
    """Return the processor that L1 finds in a VM with that CPUID and these capability MSRs."""
    host = load_profile(world.profile)
    features = {word for word, name in _WORDS if name in cpuid.features} | _ALWAYS
    features |= host.features & _HANDED_ON
    counters = host.perf_global_ctrl_mask
    if (cpuid.pmu_version or 0) > 1:
        features.add("perf-global-ctrl")
    else:
        counters = None
    return replace(
        host,
        name="l1",
        note="",
        linear_address_bits=_NARROW,
        msrs=values,
        features=frozenset(features),
        debugctl_mask=None,
        perf_global_ctrl_mask=None if counters is None else counters & _COUNTERS,
        rtit_ctl_mask=None,
        lbr_ctl_mask=None,
        spec_ctrl_mask=None,
    )


def lacks(here: Profile, there: Profile) -> Iterator[str]:
    """Yield what L1 loses on another processor though no capability MSR or CPUID tells."""
    if here.maxphyaddr > there.maxphyaddr:
        yield "address bits"
    if here.features & _HANDED_ON - there.features or _counters(here) & ~_counters(there):
        yield "features"


def _counters(profile: Profile) -> int:
    mask = profile.perf_global_ctrl_mask
    return USUAL_COUNTERS if mask is None else mask & _COUNTERS


def contradictions(profile: Profile) -> Iterator[str]:
    """Yield why no VMCS can satisfy the capabilities, each in a few words; nothing is no proof."""
    caps = profile.caps
    must, may = demanded(caps), supported(caps)
    if must & ~may:
        yield "a control must be 1 and may not"
    elif table.unmet(must, may & ~table.SMM_CONTROLS):
        yield "a control must be 1 and what it needs may not"
    if (Cr0.PE | Cr0.PG | caps.cr0_fixed0) & ~caps.cr0_fixed1:
        yield "no value of CR0 is legal"
    if (Cr4.VMXE | caps.cr4_fixed0) & ~caps.cr4_fixed1:
        yield "no value of CR4 is legal"


def nothing(_may: int) -> int:
    """Choose no control beside those that must be 1."""
    return 0


def everything(may: int) -> int:
    """Choose every control that may be 1."""
    return may


def some(source: Random) -> Choose:
    """Return a choice of controls at random."""
    return lambda may: may & source.getrandbits(32)


def attempt_on(profile: Profile, name: str, choose: Choose) -> Attempt:
    """Return a VM entry of L1 on the base `name`, with the controls chosen, repaired."""
    start = base(name, profile)
    vmcs = start.vmcs
    chosen = {
        field: getattr(vmcs, field) | choose(getattr(profile.caps, may)) for field, may in _CONTROLS
    }
    return repair(replace(start, vmcs=vmcs.replace(chosen)))


def satisfying(profile: Profile) -> Attempt | None:
    """Return a VM entry that the rules permit on a processor, None if none is found."""
    for name in base_names(profile):
        for choose in (nothing, everything):
            attempt = attempt_on(profile, name, choose)
            if ENTERED in vm_entry(attempt).permitted:
                return attempt
    return None
