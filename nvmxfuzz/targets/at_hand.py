# SPDX-License-Identifier: GPL-2.0-only
"""VM entry as a function of this process: for a caller in C that has a VMCS, and wants a verdict.

What it does is the processor of one attempt, with the memory of that attempt: any VMCS can be
handed to it, by an image, as long as `stamp` says that the memory is still there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile


@dataclass(frozen=True, slots=True)
class Place:
    """Where a field lies in an image: offset and size in bytes, rotated left by bits, of 32."""

    encoding: int
    at: int
    size: int
    rotated: int = 0


@dataclass(frozen=True, slots=True)
class Ends:
    """What the function leaves behind: `address` is that of a struct nvmx_end of shim/nvmx.h.

    `returned`, `entered`, `exited` and `faulted` are kinds of ends; what comes of any other kind,
    the target itself has to say. So it has where a line of the log is of another level than
    `harmless`.
    """

    address: int
    returned: int
    entered: int
    exited: int
    harmless: int
    faulted: int


@dataclass(frozen=True, slots=True, eq=False)
class AtHand:
    """The function (state, image, instruction), and what it is to be called with, by address.

    `error` is where a VMfail leaves its number, 0 for VMfailInvalid. `forget` is to be called
    before the target is asked about the same. All of it is valid as long as this object lives.
    """

    enter: int
    state: int
    instructions: tuple[int, int]
    """VMLAUNCH and VMRESUME."""
    places: tuple[Place, ...]
    size: int
    """Of an image, in bytes. What is at no place is 0."""
    launch_state: int
    """Offset of the launch state in an image, 32 bits: 0 clear, 1 launched."""
    ends: Ends
    error: int
    stamp: ctypes.c_uint64
    forget: Callable[[], None]
    owner: object


@runtime_checkable
class HasAtHand(Protocol):
    """A target that has such a function."""

    def at_hand(self, attempt: Attempt) -> AtHand | None:
        """Return the function behind the attempt, which was the last one to run; None: none."""


class Alone(Protocol):
    """A processor that executes what L1 does, with no hypervisor in between."""

    def at_hand(self, attempt: Attempt) -> AtHand | None:
        """Return it as a function with the memory of the attempt; None: it cannot stand for it."""

    def image(self, attempt: Attempt) -> bytes:
        """Return the image of the attempt's VMCS."""


@runtime_checkable
class ActsAlone(Protocol):
    """A target that can also be the processor which a hypervisor on it offers."""

    def alone(self, host: Profile, offered: Profile) -> Alone | None:
        """Return the processor `offered` on `host`, None if there is none that is near it."""
