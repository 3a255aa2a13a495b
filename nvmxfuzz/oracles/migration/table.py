# SPDX-License-Identifier: GPL-2.0-only
"""The capability MSRs of a VM that is carried to another KVM: kept, gained, lost, refused.

What L1 is offered in a default VM of the source is read as userspace does, and written to a vCPU
of the destination that has the same CPUID, MSR by MSR in the order of KVM_GET_MSR_INDEX_LIST.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.guest_cpuid import GuestCpuid
from nvmxfuzz.kvm.msr_vcpu import do_set_msr
from nvmxfuzz.oracles.restore.bit_names import (
    CONTROL_TABLES,
    NAMED_MSRS,
    REGISTER_TABLES,
    Capability,
    capabilities,
)
from nvmxfuzz.oracles.restore.offer import FORMS, NAMES
from nvmxfuzz.oracles.restore.witness import VMX_MSRS, ModelMsrs, MsrWitness, MsrWorld

Fate = Literal["kept", "gained", "lost", "refused"]
"""The VM has it on both sides; only a VM that is started on the destination has it; the VM has it
no more though nothing was refused; the value of the MSR with it is refused."""

FATES: Final[tuple[Fate, ...]] = get_args(Fate)

Write = Literal["taken", "refused", "not written"]
"""What became of writing an MSR; "not written": userspace is not told to save it."""

Values = Mapping[int, int]
Written = Mapping[int, str | None]
"""MSR -> None if its value was taken, or the check that refused it, "" if nobody knows which."""


@dataclass(frozen=True, slots=True)
class BitFate:
    """What became of one capability."""

    capability: Capability
    fate: Fate


@dataclass(frozen=True, slots=True)
class MsrFate:
    """What became of one MSR, 64-bit values; None where it cannot be read.

    `fresh` is what a VM has that is started on the destination, `carried` what this VM has there.
    `check` names the check that refused the value, "" where none did or nobody knows.
    """

    index: int
    source: int | None
    fresh: int | None
    carried: int | None
    write: Write
    check: str
    bits: tuple[BitFate, ...]

    @property
    def name(self) -> str:
        """The SDM's name."""
        return NAMES[self.index]


@dataclass(frozen=True, slots=True)
class Offering:
    """A KVM as it was loaded, and what it offers L1 of a default VM there."""

    kernel: str
    world: MsrWorld
    cpuid: GuestCpuid
    offered: Values
    """Index -> value; empty without `nested`."""
    indices: tuple[int, ...]
    """KVM_GET_MSR_INDEX_LIST, as far as VMX goes."""
    system: Values
    """What /dev/kvm tells."""


@dataclass(frozen=True, slots=True)
class MigrationTable:
    """A VM between two KVMs; `msrs` are ascending by index.

    `clearing` has for each MSR whose value is refused the nearest value that is taken, None where
    there is none.
    """

    source: Offering
    destination: Offering
    msrs: tuple[MsrFate, ...]
    clearing: Mapping[int, int | None]

    @property
    def refused(self) -> tuple[MsrFate, ...]:
        """The MSRs whose values are refused: without them the VM does not arrive."""
        return tuple(each for each in self.msrs if each.write == "refused")

    @property
    def totals(self) -> dict[Fate, int]:
        """How many capabilities have each fate."""
        counted = Counter(bit.fate for each in self.msrs for bit in each.bits)
        return {fate: counted[fate] for fate in FATES}

    def of(self, fate: Fate) -> tuple[Capability, ...]:
        """Return the capabilities with that fate."""
        return tuple(b.capability for each in self.msrs for b in each.bits if b.fate == fate)


def offering(witness: MsrWitness, world: MsrWorld) -> Offering:
    """Load KVM, start a default VM and read its MSRs; InputError where KVM does not load."""
    loaded = witness.load(world)
    if loaded.errno:
        error = errno.errorcode.get(-loaded.errno, str(loaded.errno))
        raise InputError(
            f"KVM of {witness.kernel} does not load on this processor (-{error}): see nvmxfuzz "
            "config, and take another processor or other parameters"
        )
    witness.set_cpuid(loaded.supported)
    system = _by_index(loaded.system)
    offered = _by_index(witness.read()[1:])
    return Offering(witness.kernel, world, loaded.supported, offered, loaded.indices, system)


def _by_index(values: tuple[int, ...]) -> Values:
    return MappingProxyType(dict(zip(VMX_MSRS, values, strict=False)))


def migration_table(source: Offering, witness: MsrWitness, world: MsrWorld) -> MigrationTable:
    """Carry the VM to `witness`, loaded on `world`; every MSR is tried, also behind a refused one.

    The checks are named by the model of that kernel, where it refuses the value too.
    """
    destination = offering(witness, world)
    witness.renew()
    witness.set_cpuid(source.cpuid)
    written = _write(source, witness, world)
    carried = _by_index(witness.read()[1:])
    clearing = _clearing(source, destination, witness, written)
    fates = (_fate(index, source, destination, carried, written) for index in NAMED_MSRS)
    return MigrationTable(source, destination, tuple(fates), MappingProxyType(clearing))


def _write(source: Offering, witness: MsrWitness, world: MsrWorld) -> Written:
    model = ModelMsrs(witness.kernel)
    model.load(world)
    model.set_cpuid(source.cpuid)
    written: dict[int, str | None] = {}
    for index in source.indices:
        if index in source.offered:
            value = source.offered[index]
            result = do_set_msr(model.vcpu, index, value)
            taken = witness.set_msrs(((index, value),)) == 1
            written[index] = None if taken else result.check
    return written


def _fate(
    index: int,
    source: Offering,
    destination: Offering,
    carried: Values,
    written: Written,
) -> MsrFate:
    check = written.get(index)
    write: Write = "taken" if index in written else "not written"
    if check is not None:
        write = "refused"
    had, fresh, has = (
        values.get(index) for values in (source.offered, destination.offered, carried)
    )
    bits = []
    for each in capabilities(index, *(value for value in (had, fresh, has) if value is not None)):
        fate = _fate_of(each, (had, fresh, has), write)
        if fate is not None:
            bits.append(BitFate(each, fate))
    return MsrFate(index, had, fresh, has, write, check or "", tuple(bits))


def _fate_of(
    capability: Capability, values: tuple[int | None, int | None, int | None], write: Write
) -> Fate | None:
    """Return the fate; None for what neither side offers, and for what goes without saying."""
    if capability.kind == "may-be-0" and None in values:
        return None
    had, fresh, has = (value is not None and capability.is_offered(value) for value in values)
    if had and has:
        return "kept" if capability.named and not _trivial(capability) else None
    if had:
        return "refused" if write == "refused" else "lost"
    return "gained" if fresh else None


def _trivial(capability: Capability) -> bool:
    """Tell whether it is a bit that may be 0 as nearly every one may: one beyond default1."""
    if capability.kind != "may-be-0":
        return False
    if capability.index in REGISTER_TABLES:
        return True
    forms = FORMS.get(capability.index)
    return forms is None or not capability.mask & forms[1]


def _clearing(
    source: Offering, destination: Offering, witness: MsrWitness, written: Written
) -> dict[int, int | None]:
    """Find what `vmx_restore_*` takes: within what the system has, or the vCPU (5.18)."""
    found: dict[int, int | None] = {}
    for index, check in written.items():
        if check is None:
            continue
        limits = (destination.system, _by_index(witness.read()[1:]))
        tries = [conform(index, source.offered[index], each[index]) for each in limits if each]
        found[index] = next((v for v in tries if witness.set_msrs(((index, v),)) == 1), None)
    return found


def conform(index: int, value: int, limit: int) -> int:
    """Return `value` without what `limit` does not offer: the "accept and clear" of a restore."""
    kept = value
    for each in capabilities(index, value, limit):
        if each.kind == "number":
            # One limit stands for all: who clears bits of a number makes another one of it.
            kept = kept & ~each.mask | limit & each.mask
        elif each.is_offered(value) and not each.is_offered(limit):
            kept = kept | each.mask if each.kind == "may-be-0" else kept & ~each.mask
    if index in CONTROL_TABLES:
        kept |= limit & 0xFFFF_FFFF
    return kept


def values_after(table: MigrationTable, refused: Values) -> Values:
    """Return what L1 reads at the destination, with these values of MSRs that KVM refuses."""
    has = {each.index: each.carried for each in table.msrs if each.carried is not None}
    return MappingProxyType({**has, **refused})
