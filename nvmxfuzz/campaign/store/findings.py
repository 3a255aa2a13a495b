# SPDX-License-Identifier: GPL-2.0-only
"""The part of a store that keeps findings, how often they were seen, what triage made of them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Final, get_args

from nvmxfuzz.campaign.store import rows
from nvmxfuzz.campaign.store.database import Database
from nvmxfuzz.campaign.store.values import Status, StoredFinding
from nvmxfuzz.errors import InputError
from nvmxfuzz.oracles.finding import Finding

MOST_FINDINGS: Final = 20_000
"""So many are read of one store; a worker reports 1000 at most."""

_STATUSES: Final[tuple[Status, ...]] = get_args(Status)

_FINDING: Final = """
    SELECT harness, identity, oracle, rules, targets, site, message, data, case_text,
           minimised_text, reproduced, reruns, same, first_bad, status, campaign, seconds, target,
           (SELECT coalesce(sum(count), 0) FROM sighting WHERE finding = finding.id)
    FROM finding
"""


class Findings(Database):
    """Findings and sightings."""

    def add_finding(
        self,
        campaign: int,
        harness: str,
        finding: Finding,
        data: bytes,
        case_text: str,
        *,
        target: str = "",
        seconds: float | None = None,
    ) -> bool:
        """Keep a finding and one sighting of it; return True if the store did not have it yet."""
        with self._writing() as connection:
            cursor = connection.execute(
                "INSERT OR IGNORE INTO finding (harness, target, identity, oracle, rules, targets,"
                " site, message, data, case_text, campaign, seconds)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(harness, target, finding.identity, finding.oracle),
                    *(json.dumps(finding.rules), json.dumps(finding.targets)),
                    *(finding.site, finding.message, data, case_text, campaign, seconds),
                ),
            )
            _count(connection, campaign, harness, {finding.identity: 1})
        return cursor.rowcount == 1

    def add_triage(
        self, harness: str, identity: str, *, reproduced: bool, minimised_text: str | None
    ) -> None:
        """Keep what a second run and the minimiser made of a finding."""
        self._set(
            harness, identity, "reproduced = ?, minimised_text = ?", reproduced, minimised_text
        )

    def add_reruns(self, harness: str, identity: str, reruns: int, same: int) -> None:
        """Keep how many of some runs in fresh processes showed a finding."""
        self._set(harness, identity, "reruns = ?, same = ?", reruns, same)

    def set_first_bad(self, harness: str, identity: str, kernel: str) -> None:
        """Keep which kernel is the first that shows a finding."""
        self._set(harness, identity, "first_bad = ?", kernel)

    def set_status(self, harness: str, identity: str, status: Status) -> None:
        """Keep what a replay made of a finding."""
        self._set(harness, identity, "status = ?", status)

    def count_sightings(self, campaign: int, harness: str, sightings: Mapping[str, int]) -> None:
        """Set how often a campaign saw each finding, by identity."""
        with self._writing() as connection:
            _count(connection, campaign, harness, sightings)

    def findings(self) -> tuple[StoredFinding, ...]:
        """Return every finding, in the order they were first seen; InputError for far too many."""
        with self._reading() as connection:
            found = connection.execute(_FINDING + "ORDER BY id LIMIT ?", (MOST_FINDINGS + 1,))
            stored = tuple(_stored(row) for row in found)
        if len(stored) > MOST_FINDINGS:
            raise InputError(
                f"the store {self.path} has more than {MOST_FINDINGS} findings: name one of them"
            )
        return stored

    def finding(self, identity: str) -> StoredFinding:
        """Return the finding whose identity is that, or is the only one that begins so."""
        return self.findings_named(identity)[0]

    def findings_named(self, identity: str) -> tuple[StoredFinding, ...]:
        """Return what `finding` does, once for each harness that has found it."""
        with self._reading() as connection:
            found = connection.execute(
                _FINDING
                + "WHERE substr(identity, 1, length(:start)) = :start ORDER BY id LIMIT :most",
                {"start": identity, "most": MOST_FINDINGS},
            )
            stored = tuple(_stored(row) for row in found)
        names = list(dict.fromkeys(each.identity for each in stored))
        if not stored:
            raise InputError(
                f"{self.path} has no finding {identity[:80]!r}: nvmxfuzz findings {self.path} "
                "lists those it has"
            )
        if len(names) > 1:
            raise InputError(
                f"{identity[:80]!r} may be one of {', '.join(names[:4])}: write it out"
            )
        return stored

    def sightings(self, campaign: int) -> Mapping[tuple[str, str], int]:
        """Return by harness and identity how often a campaign saw each finding."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT harness, identity, count FROM sighting JOIN finding"
                " ON finding.id = sighting.finding WHERE sighting.campaign = ? ORDER BY finding.id"
                " LIMIT ?",
                (campaign, MOST_FINDINGS),
            )
            return {
                (rows.text(harness), rows.text(identity)): rows.whole(count)
                for harness, identity, count in found
            }

    def count_findings(self) -> Mapping[str, int]:
        """Return by oracle how many findings there are, of the first `MOST_FINDINGS`."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT oracle, count(*) FROM (SELECT oracle FROM finding LIMIT ?)"
                " GROUP BY oracle ORDER BY oracle",
                (MOST_FINDINGS,),
            )
            return {rows.text(oracle): rows.whole(count) for oracle, count in found}

    def last_finding(self, campaign: int) -> float | None:
        """Return when a campaign has seen a finding that was new to the store, in its seconds."""
        with self._reading() as connection:
            (seconds,) = connection.execute(
                "SELECT max(seconds) FROM (SELECT campaign, seconds FROM finding LIMIT ?)"
                " WHERE campaign = ?",
                (MOST_FINDINGS, campaign),
            ).fetchone()
            return rows.optional_real(seconds)

    def count_flaky(self) -> int:
        """Return how many findings are flaky, of the first `MOST_FINDINGS`."""
        with self._reading() as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM (SELECT reruns, same, reproduced FROM finding LIMIT ?)"
                " WHERE iif(reruns > 0, same < reruns, reproduced = 0)",
                (MOST_FINDINGS,),
            ).fetchone()
            return rows.whole(count)

    def _set(self, harness: str, identity: str, columns: str, *values: object) -> None:
        with self._writing() as connection:
            connection.execute(
                f"UPDATE finding SET {columns} WHERE harness = ? AND identity = ?",
                (*values, harness, identity),
            )


def _count(
    connection: sqlite3.Connection, campaign: int, harness: str, sightings: Mapping[str, int]
) -> None:
    connection.executemany(
        "INSERT INTO sighting SELECT ?, id, ? FROM finding WHERE harness = ? AND identity = ?"
        " ON CONFLICT DO UPDATE SET count = max(count, excluded.count)",
        [(campaign, count, harness, identity) for identity, count in sightings.items()],
    )


def _stored(row: tuple[object, ...]) -> StoredFinding:
    """Return the finding in a row; ValueError or TypeError if the row is damaged."""
    harness, _, oracle, listed, targets, site, message, data, case_text, *triage = row
    small, again, reruns, same, first_bad, status, campaign, seconds, target, count = triage
    one, other = rows.names(targets)
    return StoredFinding(
        harness=rows.text(harness),
        finding=Finding(
            *(rows.text(oracle), rows.names(listed), (one, other)),
            *(rows.text(site), rows.text(message)),
        ),
        data=rows.blob(data),
        case_text=rows.text(case_text),
        minimised_text=rows.optional_text(small),
        reproduced=None if again is None else bool(again),
        count=rows.whole(count),
        reruns=rows.optional_whole(reruns),
        same=rows.optional_whole(same),
        first_bad=rows.optional_text(first_bad),
        status=None if status is None else rows.choice(status, _STATUSES),
        campaign=rows.whole(campaign),
        seconds=rows.optional_real(seconds),
        target=rows.text(target),
    )
