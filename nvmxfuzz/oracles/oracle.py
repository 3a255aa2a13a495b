# SPDX-License-Identifier: GPL-2.0-only
"""What an oracle is: a name, a sentence, where it comes from, and a check that may find something.

The witness is handed to the check, so that a test can hand it a faulty one and see it fire.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from nvmxfuzz.oracles.finding import Finding

C = TypeVar("C")
W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Oracle(Generic[C, W]):
    """A promise over cases of type `C`, checked by means of a witness of type `W`."""

    name: str
    source: str
    check: Callable[[C, W], Finding | None]

    @property
    def sentence(self) -> str:
        """What must hold: the docstring of the check."""
        return " ".join(inspect.cleandoc(self.check.__doc__ or "").split())
