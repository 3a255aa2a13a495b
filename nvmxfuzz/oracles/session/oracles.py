# SPDX-License-Identifier: GPL-2.0-only
"""The oracles over sessions. Each reports the first breach that `known` does not know."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from nvmxfuzz.inputs.case import SessionCase
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.restore.offer import Found
from nvmxfuzz.oracles.session import again, effects, harm, idle, ioctls, reads_back, seen
from nvmxfuzz.oracles.session.known import known
from nvmxfuzz.oracles.session.play import Played, Run

Breaches: TypeAlias = Callable[[Played], Iterator[Found]]

_SDM: Final = "SDM: VMX Instructions"
_SEED: Final = "KVM: L2 with invalid state ends in a triple fault, and is not emulated"
_PENDING: Final = "KVM: what KVM_GET reads is what the guest runs with"
_IOCTLS: Final = "KVM: user space migrates a VM, and may call ioctls in any order"

_LINE: Final = re.compile(r"\.c:\d+")

BREACHES: Final[dict[str, tuple[str, Breaches]]] = {
    "session.no-warn": ("KVM: no guest may reach a WARN or a BUG", harm.no_warn),
    "session.l2-never-emulated": (_SEED, seen.never_emulated),
    "session.triple-fault": (_SEED, seen.triple_fault),
    "session.ioctl-accepts": (_SEED, ioctls.ioctl_accepts),
    "session.nested-state-reads-back": (_IOCTLS, reads_back.nested_state_reads_back),
    "session.nested-state-current": (_IOCTLS, reads_back.nested_state_current),
    "session.instruction-errors": (_SDM, seen.instruction_errors),
    "session.instruction-effects": (_SDM, effects.instruction_effects),
    "session.entry-rejects-invalid": ("SDM: VM Entries", seen.entry_rejects_invalid),
    "session.run-changes-nothing": (_PENDING, idle.run_changes_nothing),
    "session.order": (_IOCTLS, again.order),
    "session.smm-round-trip": ("SDM: Default Treatment of RSM", again.smm_round_trip),
    "session.nested-state-round-trip": (_IOCTLS, again.nested_state_round_trip),
    "session.two-modes-agree": ("SDM: Restrictions on VMX Operation", again.two_modes_agree),
}
"""Every breach that a session shows, those that are known too."""


def breaches(played: Played) -> tuple[str, ...]:
    """Return the breaches of a session, known or not, each once: "ORACLE: SITE".

    Lines of the kernel's source, which move, are left out.
    """
    found = (f"{name}: {site}" for name, (_, each) in BREACHES.items() for site, _ in each(played))
    return tuple(dict.fromkeys(_LINE.sub(".c", breach) for breach in found))


def _oracle(name: str) -> Oracle[SessionCase, Run]:
    source, each = BREACHES[name]

    def check(case: SessionCase, run: Run) -> Finding | None:
        played = run(case)
        kernel = played.kernel
        for site, message in each(played):
            if known(name, site, kernel) is None:
                return Finding(name, (name,), (played.witness, "promise"), site, message)
        return None

    check.__doc__ = each.__doc__
    return Oracle(name, source, check)


_CHEAP: Final = (
    *("session.no-warn", "session.l2-never-emulated"),
    *("session.triple-fault", "session.ioctl-accepts", "session.nested-state-reads-back"),
    *("session.nested-state-current", "session.instruction-errors"),
    "session.instruction-effects",
)
_REPLAYING: Final = (
    *("session.order", "session.smm-round-trip"),
    *("session.nested-state-round-trip", "session.two-modes-agree"),
)
ALWAYS: Final = tuple(map(_oracle, _CHEAP))
"""The oracles that cost little once a session has been played."""
OTHERS: Final = tuple(_oracle(name) for name in BREACHES if name not in _CHEAP)
"""The oracles that judge each instruction of it, or play other sessions."""
SEEN: Final = tuple(_oracle(name) for name in BREACHES if name not in _REPLAYING)
"""The oracles that only look at what was seen, and may be asked while a session goes on."""
REPLAYING: Final = tuple(map(_oracle, _REPLAYING))
"""The oracles that play other sessions, and compare."""
