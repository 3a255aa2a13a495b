# SPDX-License-Identifier: GPL-2.0-only
"""The corpus on an instance of KVM, part by part: to see what of KVM's code it reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from types import MappingProxyType
from typing import Final

from nvmxfuzz.inputs.case import Case, EntryCase, MigrationCase, RestoreCase, SessionCase
from nvmxfuzz.inputs.random_session import random_session
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.oracles.migration.carrier import Side
from nvmxfuzz.oracles.migration.cases import Migrator, model_side
from nvmxfuzz.oracles.restore.case import prepared
from nvmxfuzz.oracles.restore.kvm_restore import real_oracles
from nvmxfuzz.oracles.session.play import Stage
from nvmxfuzz.targets.kvm_native.build.objects import find_object
from nvmxfuzz.targets.kvm_native.check_runs import CheckRuns
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.migrating import KvmSide
from nvmxfuzz.targets.kvm_native.msrs import KvmMsrs
from nvmxfuzz.targets.kvm_native.session import KvmSessions
from nvmxfuzz.targets.kvm_native.session_vcpu import SessionVm

SETTINGS: Final[tuple[Mapping[str, int], ...]] = (
    MappingProxyType({}),
    MappingProxyType({"nested_early_check": 1}),
    MappingProxyType({"enable_shadow_vmcs": 0}),
    MappingProxyType({"ept": 0}),
)
"""Parameters of the modules that the VM entries are run with."""

_WORLDS: Final = (
    ("skylake-x", ()),
    ("everything", ()),
    ("skylake-x", (("unrestricted_guest", 0),)),
    ("everything", (("ept", 0),)),
)
"""Where random sessions take place, in turns."""


def _load(kernel: str) -> Library:
    return Library.of(find_object(kernel, "gcov"))


def entries(kernel: str, cases: Sequence[Case]) -> None:
    """VM entries, on the processor of the case and on those that KVM offers L1."""
    library = _load(kernel)
    for parameters in SETTINGS:
        runs = CheckRuns(kernel, parameters, lambda: library)
        for case in cases:
            if isinstance(case, EntryCase):
                list(runs.of_case(case))
        runs.close()


def sessions(kernel: str, cases: Iterable[Case]) -> None:
    """Sessions, on this kernel whatever theirs is; behind the last one userspace goes away."""
    witness = KvmSessions(_load(kernel), kernel)
    stage = Stage(witness)
    for case in cases:
        if isinstance(case, SessionCase):
            stage.play(replace(case.world, kernel=kernel), case.steps)
    if witness.vm is not None:
        _leave(witness.vm)


def _leave(vm: SessionVm) -> None:
    """Close the vCPUs and the VM, and unload KVM."""
    for file in (*(vcpu.file for vcpu in vm.vcpus), vm.file):
        vm.library.call("nvmx_close", file)
    vm.library.call("nvmx_rmmod")


def restores(kernel: str, cases: Sequence[Case]) -> None:
    """What userspace restores of the capability MSRs."""
    always, others = real_oracles(KvmMsrs(_load(kernel), kernel))
    for case in cases:
        if isinstance(case, RestoreCase):
            moved = replace(case, world=replace(case.world, kernel=kernel))
            for oracle in (*always, *others):
                oracle.check(moved, prepared)


def migrations(kernel: str, cases: Sequence[Case]) -> None:
    """Migrations that have this kernel at one end; the other one is the model."""
    sides = [KvmSide(_load(kernel), kernel) for _ in range(2)]

    def make(world: World, number: int) -> Side:
        return sides[number] if world.kernel == kernel else model_side(world, number)

    migrator = Migrator(make)
    for case in cases:
        if isinstance(case, MigrationCase):
            migrator.run(case)


PARTS: Final[Mapping[str, Callable[[str, Sequence[Case]], None]]] = MappingProxyType(
    {
        "entries": entries,
        "sessions": sessions,
        "restores": restores,
        "migrations": migrations,
    }
)
"""By name; each takes the kernel and all cases of the corpus, and takes its own of them."""


def random_sessions(kernel: str, count: int, seed: int) -> None:
    """Play as many random sessions of a seed."""
    stage = Stage(KvmSessions(_load(kernel), kernel))
    source = Random(seed)
    for number, (name, parameters) in enumerate(_WORLDS):
        world = replace(world_on(name, kernel), parameters=parameters)
        for _ in range(count // len(_WORLDS) + (number < count % len(_WORLDS))):
            stage.play(world, random_session(source))
