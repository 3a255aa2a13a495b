# SPDX-License-Identifier: GPL-2.0-only
"""A case of any harness as a test: nvmxfuzz replays it."""

from __future__ import annotations

from nvmxfuzz.inputs.expectation import Vector
from nvmxfuzz.inputs.text import dump_text
from nvmxfuzz.triage.export.environment import environment, one_line, symbol


def to_pytest(vector: Vector, name: str, target: str | None) -> str:
    """Return a test file that holds as soon as the case shows nothing wrong on `target`."""
    case = dump_text(vector)
    if "'''" in case:
        # Three quotes can stand in a note only.
        case = case.replace("'''", "'' '")
    return (
        environment()
        .get_template("replay_test.py.j2")
        .render(name=one_line(name), symbol=symbol(name), case=case, target=target)
    )
