# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of a VM that is carried from one KVM to another.

An oracle gets what a migration came to (`migration_tries.Tried`), and reports the first breach
that `known` does not know. A breach is a site and a sentence, as in
`capability_restore`; a site is the same for the same cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from nvmxfuzz.kvm.source import KERNELS
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.migration.carrier import Carried
from nvmxfuzz.oracles.migration.entry import lacks
from nvmxfuzz.oracles.migration.known import known
from nvmxfuzz.oracles.migration.tries import Tried, Usable
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.restore.offer import NAMES, Found
from nvmxfuzz.oracles.restore.offer_names import names_of

Breaches = Callable[[Tried], Iterator[Found]]
Run = Callable[[Any], Tried | None]


def backward(tried: Tried) -> Iterator[Found]:
    """What an older kernel hands out a newer one takes on the same hardware, and offers as well."""
    here, there = tried.worlds
    older, newer = (KERNELS.index(kernel) for kernel in tried.kernels)
    if older > newer or here.host != there.host or here.params != there.params:
        return
    carried = tried.carried
    refused = "refused on Hyper-V" if there.host.on_hyperv_evmcs else "refused"
    for fate in carried.refused:
        for reason in carried.reasons(fate):
            yield f"{refused} {reason}", f"{NAMES[fate.index]} {fate.value:#x}: {fate.check}"
    for fate in carried.fates:
        if fate.changed:
            said = f"{fate.value:#x} is taken, and reads {fate.reads:#x}"
            yield f"changed {NAMES[fate.index]}", said
    if carried.complete:
        yield from _changed(carried)


def _changed(carried: Carried) -> Iterator[Found]:
    for verb, names in (("lost", carried.lost), ("gained", carried.gained)):
        for name in sorted(names):
            yield f"{verb} {name}", f"{name} is {verb} though every MSR was taken"
    for index, value in carried.source.items():
        after = carried.after[index]
        if value != after and names_of(index, value) == names_of(index, after):
            yield f"changed {NAMES[index]}", f"{value:#x} is {after:#x} after the migration"


def no_new_vmfail(tried: Tried) -> Iterator[Found]:
    """A vmcs12 that entered before enters after, if the destination took every MSR."""
    if not tried.carried.complete:
        return
    here, there = (load_profile(world.profile) for world in tried.worlds)
    fewer = " and ".join(lacks(here, there))
    prefix = f"with fewer {fewer}, " if fewer else ""
    for before, resumed, after in tried.passages:
        if not before.entered:
            continue
        if resumed.outcome.startswith("returns"):
            said = f"KVM_SET_NESTED_STATE {resumed.outcome}, which userspace takes for success"
            yield f"resume {resumed.outcome}", said
        elif not resumed.entered:
            said = f"L2 ran, and KVM_SET_NESTED_STATE says {resumed.outcome}"
            yield f"{prefix}resume {resumed.check or resumed.outcome}", said
        if not after.entered:
            said = f"VM entry, which went before, comes to {after.outcome}"
            yield f"{prefix}entry {after.check or after.outcome}", said


def usable(tried: Tried) -> Iterator[Found]:
    """Some VMCS satisfies what L1 is offered, and enters L2: on the source and where it goes."""
    for place, found in zip(("source", "destination"), tried.usable, strict=True):
        for what in _unusable(found):
            yield f"{place}: {what}", f"{what} in what L1 is offered on the {place}"


def _unusable(found: Usable) -> Iterator[str]:
    yield from found.contradictions
    if not found.permitted:
        yield "no VMCS is found that the rules permit"
    if found.entry is not None and not found.entry.entered:
        yield f"KVM refuses what the rules permit: {found.entry.check or found.entry.outcome}"


BREACHES: Final[dict[str, Breaches]] = {
    "migration.backward": backward,
    "migration.no-new-vmfail": no_new_vmfail,
    "nested.usable": usable,
}
"""Every breach that a migration shows, those that are known too."""


def _oracle(name: str, breaches: Breaches) -> Oracle[Any, Run]:
    def check(case: Any, run: Run) -> Finding | None:  # noqa: ANN401 # whatever the run takes
        tried = run(case)
        if tried is None:
            return None
        for site, message in breaches(tried):
            if known(name, site, tried.kernels) is None:
                targets = tuple(f"kvm {kernel}" for kernel in tried.kernels)
                return Finding(name, (name,), (targets[0], targets[1]), site, message)
        return None

    check.__doc__ = breaches.__doc__
    return Oracle(name, "a VM with nested VMX that is migrated", check)


ORACLES: Final = tuple(_oracle(name, breaches) for name, breaches in BREACHES.items())
