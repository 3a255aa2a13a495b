# SPDX-License-Identifier: GPL-2.0-only
"""The part of a store that is the corpus: inputs, and the behaviours they showed first."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import islice
from typing import Final, get_args

from nvmxfuzz.campaign.store import rows
from nvmxfuzz.campaign.store.database import Database
from nvmxfuzz.campaign.store.values import (
    Behaviour,
    Origin,
    Provenance,
    SeenBehaviour,
    StoredInput,
    Verdict,
)

MOST_INPUTS: Final = 1_000_000
"""So many of one harness are read; what a campaign keeps is some thousands."""

MOST_BEHAVIOURS: Final = 1_000_000
_CHUNK: Final = 256

_ORIGINS: Final[tuple[Origin, ...]] = get_args(Origin)
_VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)


class Inputs(Database):
    """Inputs and behaviours."""

    def keep_input(
        self,
        harness: str,
        target: str,
        data: bytes,
        provenance: Provenance,
        behaviours: Iterable[Behaviour] = (),
    ) -> bool:
        """Keep an input and what it was the first to show; return whether it is a new one.

        One that is there already stays as it is. Of behaviours that were seen without an input it
        becomes the input.
        """
        with self._writing() as connection:
            digest = sha256(data).digest()
            parent = _number(connection, harness, target, bytes.fromhex(provenance.parent))
            cursor = connection.execute(
                "INSERT OR IGNORE INTO input (harness, target, digest, data, origin, name, parent,"
                " campaign, worker, seconds) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(harness, target, digest, data, provenance.origin, provenance.name),
                    *(parent, provenance.campaign, provenance.worker, provenance.seconds),
                ),
            )
            number = _number(connection, harness, target, digest)
            first = (number, provenance.campaign, provenance.seconds)
            _note(connection, (harness, target), behaviours, first)
        return cursor.rowcount == 1

    def note_behaviours(
        self,
        harness: str,
        target: str,
        behaviours: Iterable[Behaviour],
        *,
        campaign: int | None = None,
        seconds: float | None = None,
    ) -> None:
        """Note behaviours whose inputs are not known; who saw one first stays with it."""
        with self._writing() as connection:
            _note(connection, (harness, target), behaviours, (None, campaign, seconds))

    def forget_input(self, harness: str, target: str, data: bytes) -> None:
        """Give an input to no worker any more: it is deadly."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE input SET deadly = 1 WHERE harness = ? AND target = ? AND digest = ?",
                (harness, target, sha256(data).digest()),
            )

    def drop_inputs(self, numbers: Iterable[int]) -> None:
        """Take inputs out of the corpus; what they showed stays noted, without an input."""
        with self._writing() as connection:
            connection.executemany("DELETE FROM input WHERE id = ?", ((each,) for each in numbers))

    def credit(
        self, number: int, harness: str, target: str, behaviours: Iterable[Behaviour]
    ) -> None:
        """Name an input as one that shows behaviours, where none is named."""
        with self._writing() as connection:
            _note(connection, (harness, target), behaviours, (number, None, None))

    def count_inputs(self) -> Mapping[tuple[str, str], int]:
        """Return by harness and target how many inputs there are, of the first `MOST_INPUTS`."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT harness, target, count(*) FROM (SELECT harness, target FROM input LIMIT ?)"
                " GROUP BY harness, target ORDER BY harness, target",
                (MOST_INPUTS,),
            )
            return {
                (rows.text(harness), rows.text(target)): rows.whole(count)
                for harness, target, count in found
            }

    def inputs(self, harness: str, target: str = "") -> Iterator[StoredInput]:
        """Yield the corpus of a harness on a target in the order it came, at most `MOST_INPUTS`.

        Without those that are deadly. A few at a time are in memory; the store may be written
        meanwhile.
        """
        last = -1
        for _ in range(0, MOST_INPUTS, _CHUNK):
            with self._reading() as connection:
                found = [
                    _input(row)
                    for row in connection.execute(
                        "SELECT id, harness, target, data, origin, name, (SELECT hex(digest) FROM"
                        " input AS other WHERE other.id = input.parent), campaign, worker, seconds"
                        " FROM input WHERE harness = ? AND target = ? AND id > ? AND NOT deadly"
                        " ORDER BY id LIMIT ?",
                        (harness, target, last, _CHUNK),
                    )
                ]
            if not found:
                return
            yield from found
            last = found[-1].number

    def behaviours(
        self, harness: str | None = None, target: str | None = None
    ) -> Iterator[SeenBehaviour]:
        """Yield what a harness, or any, was seen to do on a target, or any, in order of names."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT harness, target, point, verdict, input, campaign, seconds FROM behaviour"
                " WHERE (?1 IS NULL OR harness = ?1) AND (?2 IS NULL OR target = ?2)"
                " ORDER BY harness, target, point, verdict",
                (harness, target),
            )
            yield from map(_behaviour, islice(found, MOST_BEHAVIOURS))

    def count_behaviours(self) -> Mapping[tuple[str, str], Mapping[str, int]]:
        """Return by harness and target, then by verdict, how many behaviours were seen.

        Of the first `MOST_BEHAVIOURS`.
        """
        counts: dict[tuple[str, str], dict[str, int]] = {}
        with self._reading() as connection:
            found = connection.execute(
                "SELECT harness, target, verdict, count(*) FROM (SELECT harness, target, verdict"
                " FROM behaviour LIMIT ?) GROUP BY harness, target, verdict"
                " ORDER BY harness, target, verdict",
                (MOST_BEHAVIOURS,),
            )
            for harness, target, verdict, count in found:
                where = counts.setdefault((rows.text(harness), rows.text(target)), {})
                where[rows.choice(verdict, _VERDICTS)] = rows.whole(count)
        return counts

    def last_new(self, campaign: int) -> float | None:
        """Return when a campaign has seen a behaviour that was new to the store, in its seconds."""
        with self._reading() as connection:
            (seconds,) = connection.execute(
                "SELECT max(seconds) FROM (SELECT campaign, seconds FROM behaviour LIMIT ?)"
                " WHERE campaign = ?",
                (MOST_BEHAVIOURS, campaign),
            ).fetchone()
            return rows.optional_real(seconds)

    def verdicts_seen(self) -> set[tuple[str, str]]:
        """Return which rules (or other points) of harnesses were seen with which verdict."""
        return {
            (each.behaviour.point, each.behaviour.verdict)
            for each in self.behaviours()
            if each.behaviour.verdict not in ("sole", "fired")
        }


def _note(
    connection: sqlite3.Connection,
    where: tuple[str, str],
    behaviours: Iterable[Behaviour],
    first: tuple[int | None, int | None, float | None],
) -> None:
    connection.executemany(
        "INSERT INTO behaviour VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET input = excluded.input WHERE input IS NULL AND excluded.input IS NOT NULL",
        ((*where, each.point, each.verdict, *first) for each in behaviours),
    )


def _number(connection: sqlite3.Connection, harness: str, target: str, digest: bytes) -> int | None:
    row = connection.execute(
        "SELECT id FROM input WHERE harness = ? AND target = ? AND digest = ?",
        (harness, target, digest),
    ).fetchone()
    return None if row is None else rows.whole(row[0])


def _input(row: tuple[object, ...]) -> StoredInput:
    number, harness, target, data, origin, name, parent, campaign, worker, seconds = row
    return StoredInput(
        number=rows.whole(number),
        harness=rows.text(harness),
        target=rows.text(target),
        data=rows.blob(data),
        provenance=Provenance(
            origin=rows.choice(origin, _ORIGINS),
            name=rows.text(name),
            parent="" if parent is None else rows.text(parent).lower(),
            campaign=rows.optional_whole(campaign),
            worker=rows.optional_whole(worker),
            seconds=rows.optional_real(seconds),
        ),
    )


def _behaviour(row: tuple[object, ...]) -> SeenBehaviour:
    harness, target, point, verdict, number, campaign, seconds = row
    return SeenBehaviour(
        harness=rows.text(harness),
        target=rows.text(target),
        behaviour=Behaviour(rows.text(point), rows.choice(verdict, _VERDICTS)),
        input=rows.optional_whole(number),
        campaign=rows.optional_whole(campaign),
        seconds=rows.optional_real(seconds),
    )
