# SPDX-License-Identifier: GPL-2.0-only
"""The store as an object: open it, write what a campaign saw, read findings back.

Each method that writes is one transaction, so that a process that is killed at any moment leaves
nothing half-written. Whatever SQLite cannot do becomes an InputError that names the file.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from nvmxfuzz.campaign.store.opening import open_database
from nvmxfuzz.errors import InputError
from nvmxfuzz.oracles.finding import Finding

Verdict = Literal["n/a", "held", "broken", "unknown"]

WORKER_LIVES = "worker-lives"
"""The oracle of those findings that ended a worker, or hung it."""

_FINDING = """
    SELECT harness, identity, oracle, rules, targets, site, message, data, case_text,
           minimised_text, reproduced,
           (SELECT coalesce(sum(count), 0) FROM sighting WHERE finding = finding.id)
    FROM finding
"""


@dataclass(frozen=True, slots=True)
class StoredFinding:
    """A finding with the input that shows it; see `schema.sql` for the parts.

    `harness` is what `plan.referenced_harness` finds, `count` how often all campaigns together saw
    it.
    """

    harness: str
    finding: Finding
    data: bytes
    case_text: str
    minimised_text: str | None
    reproduced: bool | None
    count: int

    @property
    def identity(self) -> str:
        """The identity of the finding."""
        return self.finding.identity

    @property
    def text(self) -> str:
        """The smallest case that shows it, as TOML.

        Empty if its input is no case at all, or if it would end the process that runs it.
        """
        if self.finding.oracle == WORKER_LIVES:
            return ""
        return self.minimised_text or self.case_text


class Store:
    """A store that is open; use it in a `with` statement, or `close` it."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open the file, making it if need be; InputError if it is no store or cannot be used."""
        self.path = path
        self._connection = open_database(path, read_only=read_only)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def begin_campaign(self, harness: str, engine: str, seed: int, started: int) -> int:
        """Note that a campaign begins, at `started` seconds since 1970; return its number."""
        with self._writing() as connection:
            cursor = connection.execute(
                "INSERT INTO campaign (harness, engine, seed, started) VALUES (?, ?, ?, ?)",
                (harness, engine, seed, started),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def update_campaign(
        self,
        campaign: int,
        executions: int,
        seconds: float,
        state: str,
    ) -> None:
        """Note how far a campaign is."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE campaign SET executions = ?, seconds = ?, state = ? WHERE id = ?",
                (executions, seconds, state, campaign),
            )

    def add_verdicts(
        self, campaign: int, harness: str, verdicts: Iterable[tuple[str, Verdict]]
    ) -> None:
        """Note which rules were seen with which verdict; the first campaign to see it stays."""
        with self._writing() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO verdict VALUES (?, ?, ?, ?)",
                [(harness, rule, verdict, campaign) for rule, verdict in verdicts],
            )

    def add_finding(
        self, campaign: int, harness: str, finding: Finding, data: bytes, case_text: str
    ) -> bool:
        """Keep a finding and one sighting of it; return True if the store did not have it yet."""
        with self._writing() as connection:
            cursor = connection.execute(
                "INSERT OR IGNORE INTO finding (harness, identity, oracle, rules, targets, site,"
                " message, data, case_text, campaign) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    harness,
                    finding.identity,
                    finding.oracle,
                    json.dumps(finding.rules),
                    json.dumps(finding.targets),
                    finding.site,
                    finding.message,
                    data,
                    case_text,
                    campaign,
                ),
            )
            _count(connection, campaign, harness, {finding.identity: 1})
        return cursor.rowcount == 1

    def add_triage(
        self, harness: str, identity: str, *, reproduced: bool, minimised_text: str | None
    ) -> None:
        """Keep what a second run and the minimiser made of a finding."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE finding SET reproduced = ?, minimised_text = ?"
                " WHERE harness = ? AND identity = ?",
                (reproduced, minimised_text, harness, identity),
            )

    def count_sightings(self, campaign: int, harness: str, sightings: Mapping[str, int]) -> None:
        """Set how often a campaign saw each finding, by identity."""
        with self._writing() as connection:
            _count(connection, campaign, harness, sightings)

    def findings(self) -> tuple[StoredFinding, ...]:
        """Return every finding, in the order they were first seen."""
        with self._reading() as connection:
            rows = connection.execute(_FINDING + "ORDER BY id").fetchall()
            return tuple(_stored(row) for row in rows)

    def finding(self, identity: str) -> StoredFinding:
        """Return the finding whose identity is that, or is the only one that begins so."""
        return self.findings_named(identity)[0]

    def findings_named(self, identity: str) -> tuple[StoredFinding, ...]:
        """Return what `finding` does, once for each harness that has found it."""
        with self._reading() as connection:
            rows = connection.execute(
                _FINDING + "WHERE substr(identity, 1, length(:start)) = :start ORDER BY id",
                {"start": identity},
            ).fetchall()
            found = tuple(_stored(row) for row in rows)
        names = list(dict.fromkeys(each.identity for each in found))
        if not found:
            raise InputError(
                f"{self.path} has no finding {identity[:80]!r}: nvmxfuzz replay {self.path} "
                "lists those it has"
            )
        if len(names) > 1:
            raise InputError(
                f"{identity[:80]!r} may be one of {', '.join(names[:4])}: write it out"
            )
        return found

    def verdicts_seen(self) -> set[tuple[str, str]]:
        """Return which rules (or other points) any campaign saw with which verdict."""
        with self._reading() as connection:
            rows = connection.execute("SELECT rule, verdict FROM verdict").fetchall()
            return {(_text(rule), _text(verdict)) for rule, verdict in rows}

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._explained("written to"), self._connection:
            yield self._connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._explained("read"):
            yield self._connection

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeError) as error:
            raise InputError(
                f"the store {self.path} could not be {what} ({error}): "
                "see to it, or name another one with --store"
            ) from error
        except (TypeError, ValueError) as error:
            raise InputError(f"the store {self.path} is damaged ({error}): name another one") from (
                error
            )


def open_store(path: Path, *, create: bool = True) -> Store:
    """Return the store in a file, ready for a campaign; without `create`, only to be read."""
    return Store(path, read_only=not create)


def _count(
    connection: sqlite3.Connection, campaign: int, harness: str, sightings: Mapping[str, int]
) -> None:
    connection.executemany(
        "INSERT INTO sighting SELECT ?, id, ? FROM finding WHERE harness = ? AND identity = ?"
        " ON CONFLICT DO UPDATE SET count = max(count, excluded.count)",
        [(campaign, count, harness, identity) for identity, count in sightings.items()],
    )


def _stored(row: Sequence[object]) -> StoredFinding:
    """Return the finding in a row; ValueError or TypeError if the row is damaged."""
    harness, _, oracle, rules, targets, site, message, data, case_text, small, again, count = row
    one, other = _names(targets)
    if not isinstance(data, bytes) or not isinstance(count, int):
        raise TypeError("a finding without its input")
    return StoredFinding(
        harness=_text(harness),
        finding=Finding(_text(oracle), _names(rules), (one, other), _text(site), _text(message)),
        data=data,
        case_text=_text(case_text),
        minimised_text=None if small is None else _text(small),
        reproduced=None if again is None else bool(again),
        count=count,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text where a text belongs")
    return value


def _names(value: object) -> tuple[str, ...]:
    names = json.loads(_text(value))
    if not isinstance(names, list):
        raise TypeError("no list where a list of names belongs")
    return tuple(map(_text, names))
