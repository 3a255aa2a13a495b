# SPDX-License-Identifier: GPL-2.0-only
"""A harness with a second witness: every input runs on a target as well, and the two must agree."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from nvmxfuzz.campaign.harness import Harness, Neighbours
from nvmxfuzz.campaign.known_seen import (
    known_of_kvm,
    known_of_loop,
    known_of_processor,
    known_of_world,
)
from nvmxfuzz.campaign.variety import Variety
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import CaseKind, MigrationCase, WorldCase
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, profile_names

if TYPE_CHECKING:
    from nvmxfuzz.oracles.kvm.loop import Loop
    from nvmxfuzz.oracles.kvm.witness import Kvm, Once
    from nvmxfuzz.oracles.oracle import Oracle
    from nvmxfuzz.targets.base import Target
    from nvmxfuzz.targets.kvm_native.loop import KvmLoop
    from nvmxfuzz.targets.kvm_native.target import KvmTarget


def with_target(
    harness: Harness, target: str | None, *, isolated: bool, covered: bool = False
) -> Harness:
    """Return the harness with the oracles that compare its witness to the target of that name.

    `isolated` puts the target into a process of its own, whose death is an observation. `covered`
    asks for a KVM that counts what it executes, if it is built; with `isolated` only whether that
    is damaged. No target, and the rules themselves, change nothing. InputError if there is no such
    target, if it is not usable here, or if it does not do what the harness is about.
    """
    if (known := known_of_world(harness)) is not None:
        harness = replace(harness, known=known)
    if target is None:
        return harness
    if harness.kind == "capability_config":
        return _with_real_config(harness, target)
    if harness.kind == "capability_restore":
        return _with_real_msrs(harness, target)
    if harness.kind == "migration":
        return _with_real_migrations(harness, target)
    if harness.kind == "session":
        from nvmxfuzz.campaign.session_targets import on_sessions

        return on_sessions(harness, target, covered=covered and not isolated)
    from nvmxfuzz.targets import python_model
    from nvmxfuzz.targets.registry import target_named

    entry = target_named(target)
    if target == python_model.NAME:
        return harness
    if entry.kernel and covered:
        counting = _with_coverage(harness, target, is_loop=entry.is_loop)
        if counting is not None and not isolated:
            return counting
    if entry.kernel:
        from nvmxfuzz.targets.kvm_native.build.objects import demand_sound

        # Else each worker would end for it.
        demand_sound(entry.kernel)
    made = entry.make_isolated() if isolated else entry.make()
    if entry.is_loop:
        return _with_loop(harness, made)
    if not entry.is_kvm:
        return _with_processor(harness, made)
    once, watched = _watched(harness, cast("Kvm", made))
    return _with_kvm(watched, once)


def unsteered(harness: Harness, target: str | None) -> str:
    """Return why KVM's own coverage does not steer a campaign that it could; "" if it does."""
    if target is None or harness.kind not in ("vm_entry", "session"):
        return ""
    from nvmxfuzz.targets.kvm_native.build.objects import usable
    from nvmxfuzz.targets.kvm_native.target import COVERAGE
    from nvmxfuzz.targets.registry import target_named

    kernel = target_named(target).kernel
    reason = usable(kernel, COVERAGE) if kernel else ""
    return f"{target} is not steered by its own coverage: {reason}" if reason else ""


def screened(harness: Harness, kvm: Kvm) -> Harness:
    """Return the harness with a KVM that runs first, and decides what the rules judge."""
    from nvmxfuzz.campaign.screening import Screening
    from nvmxfuzz.oracles.kvm.witness import Once

    once = kvm if isinstance(kvm, Once) else Once(kvm)
    return replace(_with_kvm(harness, once), due=Screening(once.run).is_due)


def _with_coverage(harness: Harness, target: str, *, is_loop: bool) -> Harness | None:
    from nvmxfuzz.targets.kvm_native.loop import loop_with_coverage
    from nvmxfuzz.targets.kvm_native.target import with_coverage

    if is_loop:
        loop = loop_with_coverage(target)
        return _counting(_with_loop(harness, loop), loop) if loop else None
    kvm = with_coverage(target)
    if kvm is None:
        return None
    once, watched = _watched(harness, kvm)
    return _counting(screened(watched, once), kvm)


def _counting(harness: Harness, counts: KvmTarget | KvmLoop) -> Harness:
    return replace(harness, counters=counts.counters, nested_counters=counts.nested_counters)


def compares(target: str | None, kind: CaseKind) -> bool:
    """Tell whether cases of a kind can be compared with a target: those of VM entry with any."""
    from nvmxfuzz.targets.registry import target_named

    if target is None or kind == "vm_entry":
        return kind == "vm_entry"
    if kind == "session":
        from nvmxfuzz.campaign.session_targets import SESSION_TARGETS

        if target in SESSION_TARGETS:
            return True
    return target_named(target).is_kvm


def _with_real_config(harness: Harness, target: str) -> Harness:
    # In this process, also where others are isolated: all its calls are guarded.
    from nvmxfuzz.oracles.config.kvm_config import agreement
    from nvmxfuzz.targets.kvm_native.config import config_witness

    return replace(harness, always=(*harness.always, agreement(config_witness(target))))


def _with_real_msrs(harness: Harness, target: str) -> Harness:
    # In this process too, and on the kernel of the target alone.
    from nvmxfuzz.oracles.restore.kvm_restore import real_oracles
    from nvmxfuzz.targets.kvm_native.msrs import msr_witness

    kernel = _real_kernel(target, harness.name)
    always, others = real_oracles(msr_witness(kernel))
    return replace(
        harness,
        always=(*harness.always, *always),
        oracles=(*harness.oracles, *others),
        home=partial(on_kernel, kernel),
    )


def _real_kernel(target: str, harness: str) -> str:
    """Return the kernel of a target that is the real KVM and nothing else."""
    from nvmxfuzz.targets.kvm_native.config import KERNEL_OF
    from nvmxfuzz.targets.registry import target_named

    target_named(target)
    if target not in KERNEL_OF:
        raise InputError(
            f"target {target} has no vCPU that userspace could make ioctls of: the targets of "
            f"{harness} are {', '.join(KERNEL_OF)}"
        )
    return KERNEL_OF[target]


def on_kernel(kernel: str, case: WorldCase) -> WorldCase:
    """Return a case of one world on that kernel, or a migration that has it at one end."""
    if not isinstance(case, MigrationCase) and case.world.kernel != kernel:
        return replace(case, world=replace(case.world, kernel=kernel))
    if isinstance(case, MigrationCase) and kernel not in (
        case.source.kernel,
        case.destination.kernel,
    ):
        return replace(case, destination=replace(case.destination, kernel=kernel))
    return case


def _with_real_migrations(harness: Harness, target: str) -> Harness:
    # In this process too; the other kernel is the real one as well, if it is built.
    from nvmxfuzz.oracles.migration.cases import agreement
    from nvmxfuzz.targets.kvm_native.migrating import migrator

    kernel = _real_kernel(target, harness.name)
    return replace(
        harness,
        always=(*harness.always, agreement(migrator(kernel), kernel)),
        home=partial(on_kernel, kernel),
    )


def _with_processor(harness: Harness, target: Target) -> Harness:
    from nvmxfuzz.oracles.bochs.agreement import agreement

    return replace(
        harness,
        always=(*harness.always, agreement(target.run)),
        again=lambda case: target.run(case.attempt),
        known=known_of_processor(target),
    )


def _watched(harness: Harness, kvm: Kvm) -> tuple[Once, Harness]:
    """Return a KVM that runs an attempt once, and the harness that tells what it does."""
    from nvmxfuzz.campaign.noting import Noting
    from nvmxfuzz.oracles.kvm.witness import Once

    noting = Noting(kvm)
    once = Once(noting)
    return once, replace(
        harness,
        # What has just run would not run again.
        again=lambda case: Once(noting).run(case.attempt),
        known=known_of_kvm(once, harness),
        conditions=lambda: noting.fired,
    )


def _with_kvm(harness: Harness, kvm: Kvm) -> Harness:
    from nvmxfuzz.oracles.kvm.entry import kvm_oracles

    always, others = kvm_oracles(kvm)
    others += _with_model(kvm.name)
    return replace(
        harness,
        always=(*harness.always, *always),
        oracles=(*harness.oracles, *others),
        profiles=_profiles_of(kvm.name) or harness.profiles,
        another=Variety().is_new,
    )


def _with_model(target: str) -> tuple[Oracle[Any, Any], ...]:
    """Return the oracle that holds KVM of a kernel against the model of it, if there is one.

    In this process, also where the target is isolated: all its calls are guarded.
    """
    from nvmxfuzz.kvm.entry_behaviour import ENTRY_KERNELS

    kernel = target.removeprefix("kvm-")
    if kernel not in ENTRY_KERNELS:
        return ()
    from nvmxfuzz.oracles.kvm.model import agreement
    from nvmxfuzz.targets.kvm_native.agreement.witness import entry_witness

    return (agreement(entry_witness(kernel)),)


def _with_loop(harness: Harness, target: Target) -> Harness:
    from nvmxfuzz.oracles.kvm.loop import OnceFollowed, loop_oracles

    loop = cast("Loop", target)
    always, others = loop_oracles(loop)
    profiles = _profiles_of(target.name.partition("+")[0]) or harness.profiles
    return replace(
        harness,
        neighbours=_neighbours(target, profiles),
        again=lambda case: OnceFollowed(loop).run(case.attempt),
        known=known_of_loop(loop, harness),
        always=(*harness.always, *always),
        oracles=(*harness.oracles, *others),
        profiles=profiles,
        another=Variety().is_new,
    )


def _neighbours(target: Target, profiles: tuple[str, ...]) -> Neighbours | None:
    """Return the bursts on a loop; None if it is in another process, or its hardware is Python."""
    from nvmxfuzz.targets.kvm_native.loop import KvmLoop

    if not isinstance(target, KvmLoop) or (bursts := target.bursts()) is None:
        return None
    from nvmxfuzz.campaign import neighbours

    return neighbours.Neighbours(bursts, profiles)


def _profiles_of(kvm: str) -> tuple[str, ...]:
    """Return the profiles that a KVM, or the model of one, offers L1; the usual processor first."""
    kernel = kvm.removeprefix("kvm-").removeprefix("model-")
    own = (name for name in profile_names() if name.startswith(f"kvm-{kernel}-"))
    return tuple(sorted(own, key=lambda name: (not name.endswith(f"-{DEFAULT_PROFILE}"), name)))
