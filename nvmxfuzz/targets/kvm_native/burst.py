# SPDX-License-Identifier: GPL-2.0-only
"""Bursts: the neighbours of an attempt on real KVM with a processor below it, without Python.

A neighbour is the attempt with one to three fields of vmcs12 edited. C draws the edits, runs each
neighbour as a single attempt runs, and holds what L1 sees against a processor that executes vmcs12
itself (shim/runtime/burst.c). What is new or different comes back as records, which make an input
of it. Whoever gets that runs and judges it as any other one: here nothing is found or believed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.inputs.bases import base, default_base
from nvmxfuzz.inputs.interesting import interesting
from nvmxfuzz.inputs.layout import Slot, layout
from nvmxfuzz.inputs.open_end import record
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.capabilities import Capabilities
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.at_hand import ActsAlone, Alone, AtHand, Place
from nvmxfuzz.targets.kvm_native import native
from nvmxfuzz.targets.kvm_native.below_in_c import function_of
from nvmxfuzz.targets.kvm_native.seat import Seat
from nvmxfuzz.targets.kvm_native.target import KvmTarget
from nvmxfuzz.targets.kvm_native.vmcs12 import Vmcs12Layout

IS_NEW: Final = 1
IS_DIFFERENT: Final = 2
IS_HARM: Final = 4
IS_EDGE: Final = 8
IS_SAMPLE: Final = 16
"""Bits of enum nvmx_reason."""

MOST: Final = 64
"""Neighbours in one burst."""
RECORDS: Final = native.EDITS * 10
"""Bytes of the records of a neighbour, at most."""

_KNOWN: Final = 1 << 16
"""Kinds of neighbours that are told apart: 1 MiB."""
_NOWHERE: Final = 0xFFFF
_AGAIN: Final = 4
"""How many times the controls stand behind the other fields."""
_Forget: Final = ctypes.PYFUNCTYPE(None)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One that is told of: the records behind the attempt's input that make it, and why.

    `kvm` and `alone` are how the entry ended there: enum nvmx_ended, a number, a qualification.
    """

    records: bytes
    reasons: int
    kvm: tuple[int, int, int]
    alone: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Written:
    """Where the input stands that is executed, for who finds it there if the process dies.

    `data` and `size` are addresses; behind the first `head` bytes there is room for `RECORDS`.
    """

    data: int
    size: int
    head: int


class Bursts:
    """The bursts on KVM with a target below it.

    Each processor has an instance of KVM of its own, beside the one that single attempts run on:
    a restore then copies nothing for the sake of other processors, and counters that a fuzzer
    reads count single attempts alone.
    """

    def __init__(self, hardware: ActsAlone, make: Callable[[], KvmTarget]) -> None:
        """`make` returns an instance of KVM that nobody else uses."""
        self._hardware = hardware
        self._make = make
        self._seen = _Seen()
        self._seats: dict[str, _OnSeat | None] = {}

    @property
    def totals(self) -> tuple[int, int, int]:
        """Return how many VM entries of L1's were run, how many compared, and not the same.

        An entry can be compared where both processors had an outcome of it.
        """
        entries, compared, different = self._seen.totals
        return entries, compared, different

    def is_ready(self, profile: Profile) -> bool:
        """Tell whether `prepare` has seen a profile of that name."""
        return profile.name in self._seats

    def prepare(self, profile: Profile) -> None:
        """Load KVM for bursts on a profile that goes by its name."""
        kvm = self._make()
        seat = kvm.seat(profile)
        alone = seat and self._hardware.alone(seat.host, seat.virtual)
        made = _OnSeat(kvm, seat, alone, self._seen) if seat and alone else None
        self._seats[profile.name] = made

    def around(
        self, attempt: Attempt, written: Written, order: tuple[int, int]
    ) -> tuple[Neighbour, ...]:
        """Run neighbours of an attempt; `order` is a seed of 64 bits, and how many there are.

        There are none where KVM or the processor alone cannot be shown the attempt.
        """
        on_seat = self._seats[attempt.profile.name]
        return () if on_seat is None else tuple(on_seat.run(attempt, written, order))


class _Seen:
    """What all bursts have in common: what was seen, and where it is told."""

    def __init__(self) -> None:
        self.known = (native.Known * _KNOWN)()
        self.told = (native.Told * MOST)()
        self.edges = (ctypes.c_uint8 * 0)()
        self.totals = [0, 0, 0]

    def edges_of(self, number: int) -> int:
        """Return where it is noted which of so many counters were seen; all objects are alike."""
        if len(self.edges) < number:
            self.edges = (ctypes.c_uint8 * number)()
        return ctypes.addressof(self.edges)


class _OnSeat:
    """The bursts on one seat."""

    def __init__(self, kvm: KvmTarget, seat: Seat, alone: Alone, seen: _Seen) -> None:
        self._kvm, self._seat, self._alone, self._seen = kvm, seat, alone, seen
        self._library, nested = seat.library, kvm.nested_counters()
        self._at_hand: AtHand | None = None
        self._fields: _Fields | None = None
        self._forget = _Forget(self._forget_missing)
        self._burst = native.Burst(
            vmcs12_size=seat.layout.size,
            forget=ctypes.cast(self._forget, ctypes.c_void_p).value,
            known=ctypes.addressof(seen.known),
            knowns=_KNOWN,
            told=ctypes.addressof(seen.told),
            edges=seen.edges_of(kvm.counters()[2]),
            first_edge=nested.start,
            last_edge=nested.stop,
        )

    def run(
        self, attempt: Attempt, written: Written, order: tuple[int, int]
    ) -> Iterator[Neighbour]:
        at_hand = None if self._seat.beyond(attempt) else self._alone.at_hand(attempt)
        if at_hand is None:
            return
        self._name(at_hand)
        burst, stand = self._burst, self._seat.stand(attempt)
        burst.loop, burst.l1 = ctypes.addressof(stand.loop), ctypes.addressof(stand.l1)
        image, own_image = ctypes.c_char_p(stand.image), ctypes.c_char_p(self._alone.image(attempt))
        burst.vmcs12, burst.image = _address(image), _address(own_image)
        data = [ctypes.c_char_p(each) for _, each in stand.memory]
        pieces = (native.Piece * len(data))(*self._pieces(stand.memory, data))
        burst.piece, burst.pieces = ctypes.addressof(pieces), len(pieces)
        burst.snapshot, burst.launch = stand.snapshot, attempt.instruction == "vmlaunch"
        burst.seed, burst.count = order[0], min(order[1], MOST)
        burst.input, burst.input_size, burst.input_head = written.data, written.size, written.head
        self._library.run_burst(burst)
        yield from self._told()

    def _name(self, at_hand: AtHand) -> None:
        """Have the processor, and the fields of it."""
        if at_hand is self._at_hand:
            return
        places, burst = at_hand.places, self._burst
        if self._fields is None or self._fields.places is not places:
            fields = self._fields = _Fields(self._seat.layout, places, self._seat.virtual)
            burst.field, burst.fields = ctypes.addressof(fields.table), len(fields.table)
            burst.value = ctypes.addressof(fields.values)
        burst.alone = function_of(at_hand)
        self._at_hand = at_hand

    def _pieces(
        self, memory: tuple[tuple[int, bytes], ...], data: list[ctypes.c_char_p]
    ) -> Iterator[native.Piece]:
        at = self._seat.memory.host_address
        for (start, content), kept in zip(memory, data, strict=True):
            yield native.Piece(at(start, len(content)), _address(kept), len(content))

    def _forget_missing(self) -> None:
        if self._at_hand is not None:
            self._at_hand.forget()

    def _told(self) -> Iterator[Neighbour]:
        """Take what the last burst has left."""
        burst, fields, seen = self._burst, self._fields, self._seen
        assert fields is not None
        for place, name in enumerate(("entries", "compared", "different")):
            seen.totals[place] += getattr(burst, name)
            setattr(burst, name, 0)
        for told in seen.told[: burst.tolds]:
            records = b"".join(fields.record(each) for each in told.edit[: told.edits])
            ends = (_ended(told.kvm), _ended(told.alone))
            yield Neighbour(records, told.reasons, *ends)


class _Fields:
    """The fields of vmcs12 that are edited: all that VM entry reads, with values to try.

    Controls come up more often than others, mostly as in the plain entry but for one of them: what
    each of them lets KVM look at is an edit of another field away.
    """

    def __init__(self, vmcs12: Vmcs12Layout, places: tuple[Place, ...], profile: Profile) -> None:
        self.places = places
        self._vmcs12, self._places = vmcs12, {place.encoding: place for place in places}
        self._sizes: list[tuple[int, int]] = []
        self._values: list[int] = []
        self._rows: list[native.Field] = []
        table = layout("vm_entry")
        fields = [
            slot
            for slot in table.slots
            if slot.name in vmcs12.offsets and FIELD_BY_NAME[slot.name].type != "exit-info"
        ]
        for slot in fields:
            self._add(table.index[slot.name], slot, interesting(slot, profile))
        plain = base(default_base(profile), profile).vmcs.items()
        for _ in range(_AGAIN):
            for name, allowed in _controls(profile.caps):
                tries = [plain[name] ^ 1 << bit for bit in range(32) if allowed >> bit & 1]
                if tries:
                    self._add(table.index[name], table.by_name[name], tries)
        self.table = (native.Field * len(self._rows))(*self._rows)
        self.values = (ctypes.c_uint64 * len(self._values))(*self._values)

    def _add(self, number: int, slot: Slot, tries: Sequence[int]) -> None:
        own = self._places.get(FIELD_BY_NAME[slot.name].encoding)
        at, rotated = (own.at, own.rotated) if own else (_NOWHERE, 0)
        place = number, self._vmcs12.offsets[slot.name], at, slot.size, rotated
        self._rows.append(native.Field(*place, len(self._values), len(tries)))
        self._values += tries
        self._sizes.append((number, slot.size))

    def record(self, edit: native.Edit) -> bytes:
        """Return the record of an edit."""
        number, size = self._sizes[edit.field]
        return record(number, size, edit.value)


def _controls(caps: Capabilities) -> Iterator[tuple[str, int]]:
    """Yield the fields of controls, and which of these can be 0 and 1."""
    yield "pin_based_vm_exec_control", caps.pin_may & ~caps.pin_must
    yield "cpu_based_vm_exec_control", caps.primary_may & ~caps.primary_must
    yield "secondary_vm_exec_control", caps.secondary_may & ~caps.secondary_must
    yield "vm_exit_controls", caps.exit_may & ~caps.exit_must
    yield "vm_entry_controls", caps.entry_may & ~caps.entry_must


def _ended(outcome: native.Outcome) -> tuple[int, int, int]:
    return outcome.kind, outcome.number, outcome.qualification


def _address(data: ctypes.c_char_p) -> int:
    """Return where the bytes lie that a c_char_p was made of, which keeps them."""
    return ctypes.cast(data, ctypes.c_void_p).value or 0
