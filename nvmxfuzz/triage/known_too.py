# SPDX-License-Identifier: GPL-2.0-only
"""What a campaign is silent about because it is known: as findings, like any others.

Whoever asks whether a finding is still there, or in which kernels it is, needs these too. Of VM
entry, what KVM leaves to the processor by design stays excused; its mistakes do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, load_profile
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.targets.registry import Entry, target_named

if TYPE_CHECKING:
    from nvmxfuzz.machine.attempt import Attempt
    from nvmxfuzz.oracles.kvm.loop import Loop
    from nvmxfuzz.oracles.kvm.tables import KvmTables
    from nvmxfuzz.oracles.kvm.witness import Kvm
    from nvmxfuzz.oracles.oracle import Oracle
    from nvmxfuzz.targets.base import Observation, Target


@dataclass(frozen=True, slots=True)
class KnownToo:
    """Functions of a case: every finding in it, known or not, and why it cannot stand for it.

    `unrepresented` is "" where the witness can stand for the case.
    """

    findings: Callable[[Any], Iterator[Finding]]
    unrepresented: Callable[[Any], str]


_NOTHING: Final = KnownToo(lambda _case: iter(()), lambda _case: "")
_REFUSES: Final = "KVM does not load on the processor of the case, or has no nested VMX there"


def known_too_of(harness: Harness, target: str | None) -> KnownToo:
    """Return that for a harness and its target; where nothing is known it finds nothing."""
    run: Callable[..., Any] = harness.run
    if harness.kind == "vm_entry" and target is not None:
        entry = target_named(target)
        if entry.is_loop:
            return _of_loop(entry)
        return _of_kvm(entry) if entry.is_kvm else _NOTHING
    if harness.kind == "session":
        return KnownToo(
            lambda case: _of_session(run(case)),
            lambda case: _refusal_of(run(case)),
        )
    if harness.kind == "capability_restore":
        return KnownToo(
            lambda case: _of_restore(run(case)),
            lambda case: _REFUSES if run(case).witness.module is None else "",
        )
    if harness.kind == "migration":
        return KnownToo(
            lambda case: _of_migration(run(case)),
            lambda case: _REFUSES if run(case) is None else "",
        )
    return _NOTHING


def _of_kvm(entry: Entry) -> KnownToo:
    from nvmxfuzz.oracles.kvm.entry import kvm_oracles
    from nvmxfuzz.oracles.kvm.witness import Once

    once = Once(cast("Kvm", _opened(entry)))
    always, others = kvm_oracles(once, _by_design(entry.name))
    return _of_oracles(always + others, once.run)


def _of_loop(entry: Entry) -> KnownToo:
    from nvmxfuzz.oracles.kvm.known_loop import changes_of
    from nvmxfuzz.oracles.kvm.loop import OnceFollowed, loop_oracles

    kernel = entry.name.partition("+")[0]
    loop = cast("Loop", _opened(entry))
    by_design = [each for each in changes_of(kernel) if not each.page]
    always, others = loop_oracles(loop, by_design, _by_design(kernel))
    return _of_oracles(always + others, OnceFollowed(loop).run)


def _of_oracles(
    oracles: tuple[Oracle[Any, Any], ...], run: Callable[[Attempt], Observation]
) -> KnownToo:
    def findings(case: Any) -> Iterator[Finding]:  # noqa: ANN401 # as every oracle takes it
        for oracle in oracles:
            finding = oracle.check(case, vm_entry)
            if finding is not None:
                yield finding

    def unrepresented(case: Any) -> str:  # noqa: ANN401 # likewise
        seen = run(case.attempt)
        return seen.reason if seen.status == "not-representable" else ""

    return KnownToo(findings, unrepresented)


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


def _refusal_of(played: Any) -> str:  # noqa: ANN401 # likewise
    kernel = played.case.world.kernel
    if kernel != played.kernel:
        return f"the case is of Linux {kernel}, and this is {played.kernel}"
    return str(played.stage.refusal(played.case.world))


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
