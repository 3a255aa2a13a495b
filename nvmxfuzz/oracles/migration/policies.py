# SPDX-License-Identifier: GPL-2.0-only
"""What a restore could do with a capability that the destination does not have, and who notices.

KVM refuses. The alternatives are to accept the value and keep it, or to accept it and clear what is
not there: a "revoke list". Each is simulated: what L1 reads then, and which of its VM entries that
entered on the source enter no more. Entries are judged by the model of KVM on both sides, and what
it runs by the rules of the processor below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from nvmxfuzz.cpu.vm_entry import vm_entry as judge
from nvmxfuzz.kvm.entry_behaviour import entry_behaviour
from nvmxfuzz.kvm.hardware import Hardware
from nvmxfuzz.kvm.hardware_setup import LoadedKvm, load_kvm_intel
from nvmxfuzz.kvm.nested_enter import vm_entry
from nvmxfuzz.kvm.nested_kvm import entry_request, kvm_of
from nvmxfuzz.kvm.source import find_kernel
from nvmxfuzz.kvm.vcpu import Kvm
from nvmxfuzz.kvm.virtual_processor import default_vcpu, profile_of
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import UNBACKED
from nvmxfuzz.machine.outcome import ENTERED, Outcome
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.oracles.migration.table import MigrationTable, Offering, Values, values_after
from nvmxfuzz.oracles.migration.users import Use, plain_users, user_of
from nvmxfuzz.oracles.restore.bit_names import NAMED_MSRS, Capability, capabilities
from nvmxfuzz.targets.kvm_native.judged import likeliest

Policy = Literal["refuse", "keep", "clear"]
POLICIES: Final[tuple[Policy, ...]] = get_args(Policy)


@dataclass(frozen=True, slots=True)
class Judged:
    """How one VM entry by L1 ended: an outcome, or how the VM died; and the check that failed."""

    ended: str
    check: str = ""

    @property
    def entered(self) -> bool:
        """Whether L2 was entered."""
        return self.ended == str(ENTERED)


@dataclass(frozen=True, slots=True)
class FailingEntry:
    """A VM entry that entered on the source and does not on the destination.

    `uses` is the capability that it was built to use, None for one that uses nothing in particular.
    """

    base: str
    uses: Capability | None
    after: Judged


@dataclass(frozen=True, slots=True)
class Consequence:
    """What L1 sees of a policy. A VM that does not arrive sees nothing: all else is empty."""

    policy: Policy
    arrives: bool
    reads: Values
    """Index -> value of what L1 reads afterwards."""
    vanished: tuple[Capability, ...]
    """What L1 was offered before and is offered no more."""
    unbacked: tuple[Capability, ...]
    """What L1 is offered though this KVM does not have it."""
    tried: int
    """How many VM entries that entered before were tried."""
    failing: tuple[FailingEntry, ...]
    unused: tuple[Capability, ...]
    """Revoked capabilities that no VM entry used before: none was found that entered."""


Judging = Callable[[Attempt], Judged]


class RulesBelow(Hardware):
    """The rules of the SDM as the processor that runs vmcs02."""

    def enter(self, attempt: Attempt) -> Outcome:
        """Return the likeliest of the permitted outcomes."""
        return likeliest(judge(attempt).permitted)


def l1_processor(offering: Offering, profile: Profile) -> Profile:
    """Return the processor that L1 of a default VM has, with the MSRs that were read of it."""
    vcpu = default_vcpu(_module(offering), offering.cpuid)
    return replace(profile_of(vcpu, profile), msrs=offering.offered)


def _module(offering: Offering) -> LoadedKvm:
    module = load_kvm_intel(
        offering.world.host, find_kernel(offering.kernel), offering.world.params
    ).module
    assert module is not None, "the model does not load where the witness did"
    return module


def _kvm(offering: Offering, profile: Profile, virtual: Profile) -> Kvm:
    """Return the model of that KVM on `profile`, with a vCPU that is `virtual` to L1."""
    behaviour = entry_behaviour(offering.kernel)
    kvm = kvm_of(_module(offering), behaviour, profile, virtual)
    return replace(kvm, irqchip_in_kernel=True, unwritten=UNBACKED)


def judging(kvm: Kvm) -> Judging:
    """Return how `kvm` and the processor below it judge a VM entry by L1."""
    below = RulesBelow()

    def judged(attempt: Attempt) -> Judged:
        entry = vm_entry(kvm, entry_request(attempt), below)
        return Judged(entry.died or str(entry.outcome), entry.check)

    return judged


@dataclass(frozen=True, slots=True)
class Entries:
    """The VM entries of L1 that the policies are tried on; all of them entered on the source."""

    plain: tuple[tuple[str, Attempt], ...]
    users: tuple[Use, ...]
    unused: tuple[Capability, ...]
    """Revoked capabilities for which there is none."""


def entries_before(revoked: tuple[Capability, ...], virtual: Profile, before: Judging) -> Entries:
    """Build VM entries on the processor that L1 had, and keep those that entered."""
    users: list[Use] = []
    unused: list[Capability] = []
    for capability in revoked:
        use = user_of(capability, virtual)
        if use is not None and before(use.attempt).entered:
            users.append(use)
        else:
            unused.append(capability)
    plain = tuple(each for each in plain_users(virtual) if before(each[1]).entered)
    return Entries(plain, tuple(users), tuple(unused))


def consequences(
    table: MigrationTable,
    source: Profile,
    destination: Profile,
    policies: tuple[Policy, ...] = POLICIES,
) -> tuple[Consequence, ...]:
    """Return what L1 sees of each policy; the profiles are the processors below the two KVMs."""
    virtual = l1_processor(table.source, source)
    before = judging(_kvm(table.source, source, virtual))
    entries = entries_before(_revoked(table), virtual, before)
    return tuple(_consequence(each, table, virtual, destination, entries) for each in policies)


def _revoked(table: MigrationTable) -> tuple[Capability, ...]:
    return (*table.of("refused"), *table.of("lost"))


def _consequence(
    policy: Policy, table: MigrationTable, virtual: Profile, destination: Profile, entries: Entries
) -> Consequence:
    reads = reads_after(policy, table)
    if reads is None:
        return Consequence(policy, False, {}, (), (), 0, (), ())
    after = judging(_kvm(table.destination, destination, replace(virtual, msrs=reads)))
    source, system = table.source.offered, table.destination.system
    return Consequence(
        policy,
        True,
        reads,
        tuple(_offered_only(source, reads)),
        tuple(each for each in _offered_only(reads, system) if each in _revoked(table)),
        len(entries.plain) + len(entries.users),
        tuple(_failing(entries, after)),
        entries.unused,
    )


def reads_after(policy: Policy, table: MigrationTable) -> Values | None:
    """Return what L1 reads under a policy; None if the VM does not arrive."""
    if not table.refused:
        return values_after(table, {})
    if policy == "refuse":
        return None
    if policy == "keep":
        values = {each.index: each.source for each in table.refused if each.source is not None}
        return values_after(table, values)
    cleared = {index: value for index, value in table.clearing.items() if value is not None}
    return values_after(table, cleared) if len(cleared) == len(table.clearing) else None


def _offered_only(one: Values, other: Values) -> Iterator[Capability]:
    """Yield what `one` offers and `other` does not."""
    for index in sorted(one.keys() & set(NAMED_MSRS)):
        beside = other.get(index, 0)
        for each in capabilities(index, one[index], beside):
            if each.is_offered(one[index]) and not each.is_offered(beside):
                yield each


def _failing(entries: Entries, after: Judging) -> Iterator[FailingEntry]:
    for use in entries.users:
        judged = after(use.attempt)
        if not judged.entered:
            yield FailingEntry(use.base, use.capability, judged)
    for name, attempt in entries.plain:
        judged = after(attempt)
        if not judged.entered:
            yield FailingEntry(name, None, judged)
