# SPDX-License-Identifier: GPL-2.0-only
"""The points of the harness for migrations: what may become of each MSR, and of VM entry."""

from __future__ import annotations

from collections.abc import Iterator

from nvmxfuzz.campaign.config_sites import SiteVerdicts
from nvmxfuzz.inputs.case import MigrationCase
from nvmxfuzz.kvm.msr_behaviour import EMULATED_VMX_MSRS
from nvmxfuzz.oracles.migration.carrier import Entry
from nvmxfuzz.oracles.migration.tries import Tried
from nvmxfuzz.oracles.restore.offer import NAMES

_STAGES = ("before", "resumed", "after")
_ENDS = ("entered", "VMfail", "VM exit", "fault", "error", "other")
_NOT_LOADED = "KVM does not load"

SITES = (
    _NOT_LOADED,
    *(f"{NAMES[index]} {fate}" for index in EMULATED_VMX_MSRS for fate in ("refused", "changed")),
    *("offers the same", "offers more", "offers less"),
    *(f"{stage}: {end}" for stage in _STAGES for end in _ENDS),
    *("no VMCS is usable before", "no VMCS is usable after"),
)
"""What can be said of a migration."""

_INDEX = {site: number for number, site in enumerate(SITES)}
_ALL = (1 << len(SITES)) - 1


def migration_verdicts(_case: MigrationCase, tried: Tried | None) -> SiteVerdicts:
    """Return which sites a migration shows."""
    if tried is None:
        return SiteVerdicts(1 << _INDEX[_NOT_LOADED], (_INDEX[_NOT_LOADED],))
    return SiteVerdicts(_ALL & ~1, tuple({_INDEX[site]: None for site in _sites(tried)}))


def _sites(tried: Tried) -> Iterator[str]:
    carried = tried.carried
    for fate in carried.fates:
        if not fate.accepted:
            yield f"{NAMES[fate.index]} refused"
        elif fate.changed:
            yield f"{NAMES[fate.index]} changed"
    if carried.same:
        yield "offers the same"
    else:
        if carried.gained:
            yield "offers more"
        if carried.lost:
            yield "offers less"
    for passage in tried.passages:
        for stage, entry in zip(_STAGES, passage, strict=True):
            yield f"{stage}: {_end(entry)}"
    for when, found in zip(("before", "after"), tried.usable, strict=True):
        if found.contradictions or not found.permitted or (found.entry and not found.entry.entered):
            yield f"no VMCS is usable {when}"


def _end(entry: Entry) -> str:
    kinds = {"fail": "VMfail", "exit": "VM exit", "faul": "fault", "errn": "error"}
    return "entered" if entry.entered else kinds.get(entry.outcome[:4], "other")
