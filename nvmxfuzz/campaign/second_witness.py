# SPDX-License-Identifier: GPL-2.0-only
"""A harness with a second witness: every input runs on a target as well, and the two must agree."""

from __future__ import annotations

from dataclasses import replace

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.errors import InputError


def with_target(harness: Harness, target: str | None, *, isolated: bool) -> Harness:
    """Return the harness with the oracle that compares its witness to the target of that name.

    `isolated` puts the target into a process of its own, whose death is an observation. None, and
    the rules themselves, change nothing. InputError if there is no such target, if it is not
    usable here, or if the harness is not about VM entry.
    """
    if target is None:
        return harness
    from nvmxfuzz.oracles.agreement import agreement
    from nvmxfuzz.targets import python_model
    from nvmxfuzz.targets.registry import target_named

    entry = target_named(target)
    if harness.kind != "vm_entry":
        raise InputError(f"target {target} executes VM entries: use it with the harness vm_entry")
    if target == python_model.NAME:
        return harness
    made = entry.make_isolated() if isolated else entry.make()
    return replace(harness, always=(*harness.always, agreement(made.run)))
