# SPDX-License-Identifier: GPL-2.0-only
"""What a target observed, for a reader."""

from __future__ import annotations

from nvmxfuzz.targets.base import Observation

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
    lines += [f"    {message.text}" for message in observation.messages]
    if observation.msr is not None:
        lines.append(f"    MSR {observation.msr:#x}")
    return "\n".join(lines)
