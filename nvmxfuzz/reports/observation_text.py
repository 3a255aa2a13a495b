# SPDX-License-Identifier: GPL-2.0-only
"""What a target observed, for a reader."""

from __future__ import annotations

from collections.abc import Iterable

from nvmxfuzz.targets.base import Message, Observation

_STATUS = {
    "no-opinion": "no opinion",
    "not-representable": "not representable",
    "died": "died",
}


def summary(observation: Observation) -> str:
    """Return the outcomes, or why there is none, on one line."""
    if observation.status == "outcome":
        return ", ".join(map(str, observation.outcomes))
    return f"{_STATUS[observation.status]}: {observation.reason}"


def to_text(name: str, observation: Observation) -> str:
    """Return what the target `name` observed, its own messages below."""
    lines = [f"{name}: {summary(observation)}"]
    lines += _indented(observation.messages)
    if observation.msr is not None:
        lines.append(f"    MSR {observation.msr:#x}")
    return "\n".join(lines)


def end_text(seen: Observation, end: Observation) -> str:
    """Return, for below what was seen first, what came in the end; messages that are new to it."""
    begun = len(seen.messages) if end.messages[: len(seen.messages)] == seen.messages else 0
    lines = [f"in the end: {summary(end)}", *_indented(end.messages[begun:])]
    return "\n".join(f"    {line}" for line in lines)


def _indented(messages: Iterable[Message]) -> list[str]:
    return [f"    {message.text}" for message in messages]
