# SPDX-License-Identifier: GPL-2.0-only
"""What a VM entry of a session may come to: the rules, with what KVM is known to do otherwise.

The processor that would run vmcs02 is no part of a session, so that only KVM's software is held to
them, and of these to what is seen: memory is not.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Final, Literal

from nvmxfuzz.cpu.reads import inputs_by_rule
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.inputs.world import World
from nvmxfuzz.kvm.guest_cpuid import GuestCpuid
from nvmxfuzz.kvm.virtual_processor import default_vcpu, profile_of
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.oracles.kvm.known import tables_of
from nvmxfuzz.oracles.kvm.l1 import unmet
from nvmxfuzz.oracles.kvm.tables import KvmTables
from nvmxfuzz.oracles.restore.witness import ModelMsrs
from nvmxfuzz.oracles.restore.worlds import msr_world
from nvmxfuzz.oracles.session.state import State

_MOV_SS: Final = 1


def refusing_rules(step: SessionStep, state: State, world: World) -> tuple[str, ...]:
    """Return the rules that refuse VMLAUNCH or VMRESUME in L1, as far as can be seen.

    What decides a rule that reads memory is not seen: such rules are left out, and those alone.
    """
    attempt = attempt_of(step, state, world)
    if attempt is None or unmet(attempt):
        return ()
    judgement = _tables(world.kernel).software.judge(attempt)
    unseen = _reading_memory()
    return tuple(name for name in judgement.broken_names if name not in unseen)


def attempt_of(step: SessionStep, state: State, world: World) -> Attempt | None:
    """Return the VM entry that a step is, as far as it can be seen."""
    profile = _profile(world)
    if profile is None:
        return None
    fields = {name: value for name, value in state.vmcs12.items() if name in _FIELDS}
    instruction: Literal["vmlaunch", "vmresume"] = (
        "vmlaunch" if step.kind == "vmlaunch" else "vmresume"
    )
    return Attempt(
        _with_msrs(profile, tuple(sorted(state.capabilities.items()))),
        Vmcs(fields),
        _processor(state),
        instruction=instruction,
        launch_state="launched" if state.vmcs12.get("launch_state", 0) else "clear",
    )


_FIELDS: Final = frozenset(Vmcs().items())


def _processor(state: State) -> Processor:
    words = state.sregs
    return Processor(
        cr0=words["cr0"],
        cr3=words["cr3"],
        cr4=words["cr4"],
        efer=words["efer"],
        rflags=state.regs["rflags"],
        cpl=words["ss.dpl"],
        cs_l=words["cs.l"] != 0,
        blocking_by_mov_ss=state.events.get("interrupt.shadow", 0) & _MOV_SS != 0,
        vmxon_pointer=state.nested["vmxon_pa"],
        current_vmcs=state.current,
    )


@cache
def _reading_memory() -> frozenset[str]:
    return frozenset(name for name, read in inputs_by_rule(CHAPTER).items() if "memory" in read)


@cache
def _tables(kernel: str) -> KvmTables:
    return tables_of(f"kvm-{kernel}")


@lru_cache(maxsize=64)
def _profile(world: World) -> Profile | None:
    """Return the processor that L1 has in a world; None if KVM is not loaded there."""
    model = ModelMsrs(world.kernel)
    model.load(msr_world(world))
    if model.module is None:
        return None
    cpuid: GuestCpuid = model.module.supported_cpuid
    return profile_of(default_vcpu(model.module, cpuid), world.profile)


@lru_cache(maxsize=64)
def _with_msrs(profile: Profile, msrs: tuple[tuple[int, int], ...]) -> Profile:
    return Profile.from_mapping(
        {**profile.to_mapping(), "msrs": {f"{index:#x}": value for index, value in msrs}},
        profile.name,
    )
