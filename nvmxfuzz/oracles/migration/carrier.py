# SPDX-License-Identifier: GPL-2.0-only
"""Carrying a VM from one KVM to another: its CPUID, its VMX capability MSRs, its nested state.

A `Side` is a kernel that can be loaded on a world: the model of it (`migration_model.ModelSide`)
or the real KVM (`nvmxfuzz.targets.kvm_native.migrating.side`). The two sides of a `Carrier` are
different objects, also where they are the same kernel.

    carrier = Carrier(source, destination)
    if carrier.load(world_of_source, world_of_destination):    # both loaded, with nested VMX
        carried = carrier.carry(Way(carrier.common_cpuid()))   # the MSRs; see `Carried`
        before, after = carrier.enter(attempt)                 # L1's VM entry, there and here

`carry` leaves the vCPU of the source as the VM had it, and that of the destination as userspace
has restored it, whatever was refused. `enter` may be called once after each `carry`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias

from nvmxfuzz.inputs.case import Order
from nvmxfuzz.kvm import msr_vcpu as vcpus
from nvmxfuzz.kvm.entry_run import FAIL_ENTRY, INTERNAL_ERROR, TRIPLE_FAULT, VM_BUGGED
from nvmxfuzz.kvm.guest_cpuid import GuestCpuid
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.oracles.restore.offer import Offer, offer
from nvmxfuzz.oracles.restore.offer_names import features, names_of
from nvmxfuzz.oracles.restore.witness import VMX_MSRS, ModelMsrs, MsrWitness, MsrWorld

Values: TypeAlias = tuple[tuple[int, int], ...]
"""MSRs with their values, in the order in which they are written."""

ENTERED: Final = "entered"
_ENDS: Final = frozenset({INTERNAL_ERROR, TRIPLE_FAULT, FAIL_ENTRY, VM_BUGGED})
"""What a VM entry comes to that is the VM's end."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What VM entry by L1 comes to: "entered", or how it failed and at which check of KVM.

    `check` is "" where no check failed; it is a name of the KVM model, also of the real KVM.
    """

    outcome: str
    check: str = ""

    @property
    def entered(self) -> bool:
        """Whether L2 runs."""
        return self.outcome == ENTERED


@dataclass(frozen=True, slots=True)
class Saved:
    """What KVM_GET_NESTED_STATE gives, and L1's memory and registers as the attempt has them.

    `image` is struct kvm_nested_state; b"" from the model, which does not save what L2 changed:
    the vmcs12 is then that of the attempt.
    """

    attempt: Attempt
    in_l2: bool
    image: bytes = b""


class Side(MsrWitness, Protocol):
    """A kernel on one end of a migration."""

    def enter(self, attempt: Attempt) -> Entry:
        """L1 is as in the attempt, and executes it; its profile is not looked at."""

    def save(self, attempt: Attempt, in_l2: bool) -> Saved:
        """KVM_GET_NESTED_STATE, after `enter` of that attempt with that result."""

    def resume(self, saved: Saved) -> Entry:
        """KVM_SET_NESTED_STATE: entered, "errno N", or "returns N" where it has a greater value.

        L1's memory is there before.
        """


@dataclass(frozen=True, slots=True)
class Way:
    """How userspace runs and carries the VM.

    `writes` is what it has written on the source before: a VM with fewer capabilities. `order` is
    that of KVM_GET_MSR_INDEX_LIST, or by index.
    """

    cpuid: GuestCpuid
    writes: Values = ()
    order: Order = "listed"


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one MSR: its value of the source, written on the destination.

    `reads` is what it has in the end. `check` says why it was refused, in the model's words.
    """

    index: int
    value: int
    accepted: bool
    reads: int
    check: str = ""

    @property
    def changed(self) -> bool:
        """Whether it was accepted, and reads otherwise."""
        return self.accepted and self.reads != self.value


@dataclass(frozen=True, slots=True)
class Carried:
    """What a migration of the MSRs came to.

    `source` is what the VM had, `fresh` what the destination gives one with the same CPUID, and
    `after` what the VM has there. `limit` is what the destination's system MSRs have.
    """

    way: Way
    source: Offer
    limit: Offer
    fresh: Offer
    after: Offer
    fates: tuple[Fate, ...]

    @property
    def refused(self) -> tuple[Fate, ...]:
        """The MSRs whose value the destination does not take."""
        return tuple(fate for fate in self.fates if not fate.accepted)

    @property
    def complete(self) -> bool:
        """Whether every value was taken: else userspace gives up."""
        return all(fate.accepted for fate in self.fates)

    @property
    def same(self) -> bool:
        """Whether L1 reads the same as before."""
        return self.source == self.after

    @property
    def kept(self) -> frozenset[str]:
        """What the VM was offered and still is, by name (`offer_names`)."""
        return features(self.source) & features(self.after)

    @property
    def gained(self) -> frozenset[str]:
        """What the VM is offered and was not."""
        return _more(self.after, self.source)

    @property
    def lost(self) -> frozenset[str]:
        """What the VM was offered and no longer is."""
        return _more(self.source, self.after)

    def reasons(self, fate: Fate) -> tuple[str, ...]:
        """Return what of a refused value the destination lacks, by name; the check if nothing."""
        wanted = names_of(fate.index, fate.value)
        beyond = wanted - names_of(fate.index, self.limit[fate.index])
        missing = beyond or wanted - names_of(fate.index, self.fresh[fate.index])
        return tuple(sorted(missing)) or (fate.check,)


def _more(one: Offer, other: Offer) -> frozenset[str]:
    """Return what one set of MSRs offers and another does not; mostly they are the same."""
    return frozenset() if one == other else features(one) - features(other)


class Carrier:
    """Two sides, and the worlds that they are loaded on."""

    def __init__(self, source: Side, destination: Side) -> None:
        """The two have to be different objects."""
        if source is destination:
            raise ValueError("a VM is carried between two objects: make another one of that kernel")
        self.source = source
        self.destination = destination
        self._explains = ModelMsrs(destination.kernel)
        self._explained: MsrWorld | None = None

    def load(self, source: MsrWorld, destination: MsrWorld) -> bool:
        """Load both; tell whether KVM is there on both sides, with nested VMX."""
        told = self.source.load(source), self.destination.load(destination)
        self._explained = None
        return all(loaded.errno == 0 and loaded.system for loaded in told)

    def common_cpuid(self) -> GuestCpuid:
        """Return what both sides support: what userspace gives a VM that is to be carried."""
        one, other = self.source.loaded.supported, self.destination.loaded.supported
        versions = [each for each in (one.pmu_version, other.pmu_version) if each is not None]
        version = min(versions) if len(versions) == 2 else None
        return GuestCpuid(one.features & other.features, version)

    def carry(self, way: Way) -> Carried:
        """Start a VM on the source, and carry its MSRs to the destination."""
        source = self._start(self.source, way.cpuid, way.writes)
        fresh = self._start(self.destination, way.cpuid, ())
        values = self._in_order(source, way.order)
        refused = dict(self._restore(values))
        after = offer(self.destination.read()[1:])
        fates = tuple(
            Fate(index, value, index not in refused, after[index], refused.get(index, ""))
            for index, value in values
        )
        return Carried(way, source, self._limit(), fresh, after, fates)

    def enter(self, attempt: Attempt) -> tuple[Entry, Entry, Entry]:
        """Let L1 enter L2 on the source; carry the nested state; let it enter there.

        What comes back is the entry on the source, what KVM_SET_NESTED_STATE said, and the entry
        on the destination, by VMRESUME if the first one launched the VMCS. A VM that the first
        entry ends is not carried.
        """
        before = self.source.enter(attempt)
        if before.outcome in _ENDS:
            return before, before, before
        resumed = self.destination.resume(self.source.save(attempt, before.entered))
        return before, resumed, self.destination.enter(_again(attempt, before.entered))

    def _start(self, side: Side, cpuid: GuestCpuid, writes: Values) -> Offer:
        side.renew()
        side.set_cpuid(cpuid)
        if writes:
            side.set_msrs(writes)
        return offer(side.read()[1:])

    def _limit(self) -> Offer:
        return offer(self.destination.loaded.system)

    def _in_order(self, source: Offer, order: Order) -> Values:
        indices = self.source.loaded.indices
        if order != "listed":
            indices = tuple(sorted(indices, reverse=order == "descending"))
        return tuple((index, source[index]) for index in indices)

    def _restore(self, values: Values) -> Iterator[tuple[int, str]]:
        """Write the values, and yield those that are refused with the reason."""
        rest = values
        while rest:
            taken = self.destination.set_msrs(rest)
            if taken >= len(rest):
                return
            index, value = rest[max(taken, 0)]
            yield index, self._why(index, value)
            rest = rest[max(taken, 0) + 1 :]

    def _why(self, index: int, value: int) -> str:
        """Ask the model, as a new vCPU with all that the destination's has now."""
        world = self.destination.world
        if self._explained is not world:
            self._explains.load(world)
            self._explained = world
        vcpu = self._explains.vcpu
        vcpu.vmx_allowed = True
        for each, now in zip(VMX_MSRS, self.destination.read()[1:], strict=False):
            vcpus.do_set_msr(vcpu, each, now)
        return vcpus.do_set_msr(vcpu, index, value).check


def _again(attempt: Attempt, launched: bool) -> Attempt:
    if not launched:
        return attempt
    return replace(attempt, instruction="vmresume", launch_state="launched")
