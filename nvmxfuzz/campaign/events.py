# SPDX-License-Identifier: GPL-2.0-only
"""What happens in a campaign, as frozen values.

The runner yields them; store, console and reports listen. A worker process sends the same events
over its pipe, one JSON object a line.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from nvmxfuzz.oracles.finding import Finding

EndReason = Literal["time", "runs", "interrupted", "error"]


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has set itself up and is about to execute its first input."""

    worker: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Which points (rules) were seen with which verdict: bit n stands for point n."""

    na: int = 0
    held: int = 0
    broken: int = 0
    unknown: int = 0

    def __or__(self, other: Seen) -> Seen:
        return Seen(
            self.na | other.na,
            self.held | other.held,
            self.broken | other.broken,
            self.unknown | other.unknown,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a worker stands, since it was started.

    `sightings` counts how often each finding was seen, by identity.
    """

    worker: int
    executions: int
    seen: Seen
    sightings: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """A worker saw a finding for the first time; `data` is the encoded input."""

    worker: int
    finding: Finding
    data: bytes


@dataclass(frozen=True, slots=True)
class Notice:
    """A worker has something to say that a person should know: one sentence."""

    worker: int
    text: str


@dataclass(frozen=True, slots=True)
class Died:
    """A worker ended by itself or hung, on input number `executions`, which is `data`.

    `reason` is a short word without numbers that differ from run to run: "SIGKILL", "exit 77",
    "hang". `detail` is the last line it printed, or the error that Atheris says ended it. It is
    restarted.
    """

    worker: int
    executions: int
    reason: str
    detail: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker has come to its limit and has reported everything."""

    worker: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The campaign is over."""

    reason: EndReason
    executions: int
    seconds: float


WorkerEvent: TypeAlias = Started | Progress | Found | Notice | Ended
Event: TypeAlias = WorkerEvent | Died | Finished


def to_line(event: WorkerEvent) -> bytes:
    """Return a worker's event as one line of JSON; masks and inputs are hexadecimal."""
    fields: dict[str, object] = {"event": type(event).__name__}
    for name in event.__slots__:
        value = getattr(event, name)
        if isinstance(value, Seen):
            fields[name] = {key: f"{mask:x}" for key, mask in asdict(value).items()}
        elif isinstance(value, Finding):
            fields[name] = asdict(value)
        else:
            fields[name] = value.hex() if isinstance(value, bytes) else value
    return json.dumps(fields).encode() + b"\n"


def from_line(line: bytes) -> WorkerEvent:
    """Return the event that `to_line` wrote."""
    fields = json.loads(line)
    worker = fields["worker"]
    match fields["event"]:
        case "Started":
            return Started(worker)
        case "Ended":
            return Ended(worker)
        case "Notice":
            return Notice(worker, fields["text"])
        case "Found":
            return Found(worker, _finding(fields["finding"]), bytes.fromhex(fields["data"]))
        case "Progress":
            return Progress(
                worker,
                fields["executions"],
                Seen(**{key: int(mask, 16) for key, mask in fields["seen"].items()}),
                tuple((identity, count) for identity, count in fields["sightings"]),
            )
    raise ValueError(f"no event is called {fields['event']!r}")


def _finding(fields: dict[str, object]) -> Finding:
    match fields:
        case {
            "oracle": str(oracle),
            "rules": list(rules),
            "targets": [str(one), str(other)],
            "site": str(site),
            "message": str(message),
        }:
            return Finding(oracle, tuple(map(str, rules)), (one, other), site, message)
    raise ValueError("a finding lacks a field")
