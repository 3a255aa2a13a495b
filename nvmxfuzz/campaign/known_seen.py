# SPDX-License-Identifier: GPL-2.0-only
"""Which known differences and breaches a case shows: what a campaign is silent about, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from nvmxfuzz.campaign.harness import Harness

if TYPE_CHECKING:
    from nvmxfuzz.oracles.known_breach import KnownBreach
    from nvmxfuzz.oracles.kvm.loop import Loop
    from nvmxfuzz.oracles.kvm.witness import Kvm
    from nvmxfuzz.targets.base import Target

Known: TypeAlias = Callable[[Any, Any], tuple[str, ...]]
"""Returns the names for a case and what the harness' witness has returned for it."""


def known_of_kvm(kvm: Kvm, harness: Harness) -> Known:
    """Return that for VM entries on a KVM."""
    from nvmxfuzz.oracles.kvm.entry import compare
    from nvmxfuzz.oracles.kvm.witness import on_virtual

    def known(case: Any, judgement: Any) -> tuple[str, ...]:  # noqa: ANN401 - see Known
        virtual = on_virtual(case.attempt, kvm)
        mine: Any = judgement if virtual is case.attempt else harness.run(virtual)
        return compare(mine, case.attempt, kvm).known

    return known


def known_of_loop(loop: Loop, harness: Harness) -> Known:
    """Return that for VM entries on a KVM with a processor below it."""
    from nvmxfuzz.oracles.kvm.loop import OnceFollowed

    followed = OnceFollowed(loop)

    def known(case: Any, judgement: Any) -> tuple[str, ...]:  # noqa: ANN401 - see Known
        attempt = case.attempt
        virtual = followed.virtual(attempt)
        mine: Any = judgement if virtual is attempt else harness.run(virtual)
        return followed.compare(mine, attempt, followed.follow(attempt)).known

    return known


def known_of_processor(target: Target) -> Known:
    """Return that for VM entries on Bochs."""
    from nvmxfuzz.oracles.bochs.agreement import compare

    def known(case: Any, judgement: Any) -> tuple[str, ...]:  # noqa: ANN401 - see Known
        return compare(judgement, target.run(case.attempt), case.attempt).known

    return known


def known_of_world(harness: Harness) -> Known | None:
    """Return that for what has steps: None where nothing is known to be broken."""
    return {
        "session": _of_session,
        "capability_restore": _of_restore,
        "migration": _of_migration,
    }.get(harness.kind)


def _names(entries: Iterable[KnownBreach[Any] | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.name for entry in entries if entry is not None))


def _of_session(_case: object, played: Any) -> tuple[str, ...]:  # noqa: ANN401 - see Known
    from nvmxfuzz.oracles.session.known import known
    from nvmxfuzz.oracles.session.oracles import BREACHES

    return _names(
        known(name, site, played.kernel)
        for name, (_, breaches) in BREACHES.items()
        for site, _ in breaches(played)
    )


def _of_restore(_case: object, lived: Any) -> tuple[str, ...]:  # noqa: ANN401 - see Known
    from nvmxfuzz.oracles.restore.capability_restore import BREACHES
    from nvmxfuzz.oracles.restore.known import known

    if lived.witness.module is None:
        return ()
    return _names(
        known(name, site, lived.witness.kernel)
        for name, breaches in BREACHES.items()
        for site, _ in breaches(lived.steps, lived.witness)
    )


def _of_migration(_case: object, tried: Any) -> tuple[str, ...]:  # noqa: ANN401 - see Known
    from nvmxfuzz.oracles.migration.known import known
    from nvmxfuzz.oracles.migration.oracles import BREACHES

    if tried is None:
        return ()
    return _names(
        known(name, site, tried.kernels)
        for name, breaches in BREACHES.items()
        for site, _ in breaches(tried)
    )
