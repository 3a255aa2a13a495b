# SPDX-License-Identifier: GPL-2.0-only
"""What a campaign is silent about because it is known: as findings, like any others.

Whoever asks whether a finding is still there, or in which kernels it is, needs these too. Of VM
entry, what KVM leaves to the processor by design stays excused; its mistakes do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, load_profile
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.targets.registry import Entry, target_named

if TYPE_CHECKING:
    from nvmxfuzz.oracles.kvm.loop import Loop
    from nvmxfuzz.oracles.kvm.tables import KvmTables
    from nvmxfuzz.oracles.kvm.witness import Kvm
    from nvmxfuzz.oracles.oracle import Oracle
    from nvmxfuzz.targets.base import Target

KnownToo: TypeAlias = Callable[[Any], Iterator[Finding]]
"""Yields every finding in a case, whether it is known or not."""


def known_too_of(harness: Harness, target: str | None) -> KnownToo:
    """Return that for a harness and its target; where nothing is known it yields nothing."""
    if harness.kind == "vm_entry" and target is not None:
        entry = target_named(target)
        return _of_entries(entry) if entry.is_kvm or entry.is_loop else _nothing
    if harness.kind == "session":
        return lambda case: _of_session(harness.run(case))
    if harness.kind == "capability_restore":
        return lambda case: _of_restore(harness.run(case))
    if harness.kind == "migration":
        return lambda case: _of_migration(harness.run(case))
    return _nothing


def _nothing(_case: object) -> Iterator[Finding]:
    yield from ()


def _of_entries(entry: Entry) -> KnownToo:
    oracles = _loop_oracles(entry) if entry.is_loop else _kvm_oracles(entry)

    def found(case: Any) -> Iterator[Finding]:  # noqa: ANN401 # as every oracle takes it
        for oracle in oracles:
            finding = oracle.check(case, vm_entry)
            if finding is not None:
                yield finding

    return found


def _kvm_oracles(entry: Entry) -> tuple[Oracle[Any, Any], ...]:
    from nvmxfuzz.oracles.kvm.entry import kvm_oracles

    always, others = kvm_oracles(cast("Kvm", _opened(entry)), _by_design(entry.name))
    return always + others


def _loop_oracles(entry: Entry) -> tuple[Oracle[Any, Any], ...]:
    from nvmxfuzz.oracles.kvm.known_loop import changes_of
    from nvmxfuzz.oracles.kvm.loop import loop_oracles

    kernel = entry.name.partition("+")[0]
    by_design = [each for each in changes_of(kernel) if not each.page]
    always, others = loop_oracles(cast("Loop", _opened(entry)), by_design, _by_design(kernel))
    return always + others


def _opened(entry: Entry) -> Target:
    """Return a target with its kernel loaded: the GiB that it takes is not the cases' fault."""
    target = entry.make()
    target.open(load_profile(DEFAULT_PROFILE))
    return target


def _by_design(target: str) -> KvmTables:
    from nvmxfuzz.oracles.kvm.known import entries_of
    from nvmxfuzz.oracles.kvm.tables import tables_from

    return tables_from(each for each in entries_of(target) if not each.page)


def _of_session(played: Any) -> Iterator[Finding]:  # noqa: ANN401 # what the harness' run returns
    from nvmxfuzz.oracles.session.oracles import BREACHES

    for name, (_, breaches) in BREACHES.items():
        for site, said in breaches(played):
            yield Finding(name, (name,), (f"kvm-{played.kernel}", "promise"), site, said)


def _of_restore(lived: Any) -> Iterator[Finding]:  # noqa: ANN401 # likewise
    from nvmxfuzz.oracles.restore.capability_restore import BREACHES

    if lived.witness.module is None:
        return
    for name, breaches in BREACHES.items():
        for site, said in breaches(lived.steps, lived.witness):
            yield Finding(name, (name,), (f"kvm {lived.witness.kernel}", "promise"), site, said)


def _of_migration(tried: Any) -> Iterator[Finding]:  # noqa: ANN401 # likewise
    from nvmxfuzz.oracles.migration.oracles import BREACHES

    if tried is None:
        return
    source, destination = tried.kernels
    for name, breaches in BREACHES.items():
        for site, said in breaches(tried):
            targets = f"kvm {source}", f"kvm {destination}"
            yield Finding(name, (name,), targets, site, said)
