# SPDX-License-Identifier: GPL-2.0-only
"""What happens in a campaign, as frozen values.

The runner yields them; store, console and reports listen. A worker process sends the same events
over its pipe, one JSON object a line.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from nvmxfuzz.oracles.finding import Finding

EndReason = Literal["time", "runs", "idle", "seen", "interrupted", "error"]
"""Why a campaign is over: `idle` is no new behaviour for long, `seen` every rule both ways."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A process was started as a worker, to do job number `job` of the plan with `seed`."""

    worker: int
    job: int
    seed: int
    pid: int


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

    def __sub__(self, other: Seen) -> Seen:
        return Seen(
            self.na & ~other.na,
            self.held & ~other.held,
            self.broken & ~other.broken,
            self.unknown & ~other.unknown,
        )

    def __bool__(self) -> bool:
        return bool(self.na | self.held | self.broken | self.unknown)

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

    `sightings` counts how often each finding was seen, by identity; `known` how often each known
    difference, by name, among the inputs that were looked at closely. `conditions` are those of
    KVM that fired for the first time since the last report. `edges` of `all_edges` in KVM's code
    were executed, where it counts them. Of `rerun` inputs that were run again, `same` came to the
    same behaviour. `resident` is the memory it occupies, in bytes. `entries` are the VM entries of
    L1's, where one input can bring about many.
    """

    worker: int
    executions: int
    seen: Seen
    sightings: tuple[tuple[str, int], ...]
    known: tuple[tuple[str, int], ...] = ()
    conditions: tuple[str, ...] = ()
    edges: int = 0
    all_edges: int = 0
    rerun: int = 0
    same: int = 0
    resident: int = 0
    entries: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """A worker made an input that is worth keeping: it showed something new to it.

    `parent` is the SHA-256 of the input that it was made from, in hexadecimal, "" if there is none
    or it is not known. `new` are the verdicts that the worker saw for the first time. `is_fresh`
    is for the parent to say: whether the corpus did not have the input.
    """

    worker: int
    data: bytes
    parent: str = ""
    new: Seen = Seen()
    is_fresh: bool = True


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
class Tick:
    """Nothing has happened for a moment: time to look after what else there is."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The campaign is over."""

    reason: EndReason
    executions: int
    seconds: float


WorkerEvent: TypeAlias = Started | Progress | Kept | Found | Notice | Ended
Event: TypeAlias = WorkerEvent | Placed | Died | Tick | Finished


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
        case "Kept":
            data = bytes.fromhex(fields["data"])
            return Kept(worker, data, fields["parent"], _seen(fields["new"]))
        case "Progress":
            return _progress(fields)
    raise ValueError(f"no event is called {fields['event']!r}")


def _progress(fields: dict[str, Any]) -> Progress:
    del fields["event"]
    for name in ("sightings", "known"):
        fields[name] = tuple((what, count) for what, count in fields[name])
    fields["seen"], fields["conditions"] = _seen(fields["seen"]), tuple(fields["conditions"])
    return Progress(**fields)


def _seen(masks: dict[str, str]) -> Seen:
    return Seen(**{key: int(mask, 16) for key, mask in masks.items()})


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
