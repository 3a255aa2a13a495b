# SPDX-License-Identifier: GPL-2.0-only
"""What a worker process is told when it is started, as one JSON value in its environment.

An environment variable and no arguments: libFuzzer reads the arguments, and passes on to children
of its own only those it knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

VARIABLE = "NVMXFUZZ_WORKER"
EngineName = Literal["atheris", "hypothesis", "random"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)


@dataclass(frozen=True, slots=True)
class Settings:
    """The part of a campaign that one worker does.

    `runs` is how many inputs to execute and `seconds` how long to work; None is no limit.
    `folder` holds `inputs/` (encoded seeds, and what libFuzzer keeps). `last_input` is the file
    that the current input is kept in, `events` the file descriptor to write events to.
    With `replay`, the worker executes each file of `inputs/` once instead of fuzzing.
    `target` names a second witness beside the harness' own. `journal` is a file for what must not
    be lost with the parent, "" for none. `shared` tells that others put inputs into the folder
    while the worker runs. With `growth` it ends when it has grown by so many bytes, to be followed
    by another one; 0 is no limit.
    """

    worker: int
    engine: EngineName
    seed: int
    runs: int | None
    seconds: float | None
    folder: str
    last_input: str
    events: int
    memory: int
    replay: bool = False
    target: str | None = None
    journal: str = ""
    shared: bool = False
    growth: int = 0

    def environment(self) -> dict[str, str]:
        """Return the environment variable that carries the settings."""
        return {VARIABLE: json.dumps(asdict(self))}


def settings_from(environment: Mapping[str, str]) -> Settings | None:
    """Return the settings in an environment; None if the process was started by hand."""
    text = environment.get(VARIABLE)
    return None if text is None else Settings(**json.loads(text))
