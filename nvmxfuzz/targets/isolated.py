# SPDX-License-Identifier: GPL-2.0-only
"""Any target in a process of its own: what kills or hangs it is an observation of the case.

The child is forked when it is needed, so that it has what this process has loaded. After a death
or a hang the next attempt gets a new one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any, Final, TypeAlias, cast

from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.targets.base import Observation, Target, died
from nvmxfuzz.targets.passage import Passage

SECONDS: Final = 10.0
"""How long an attempt may take, by default: some hundred thousand times what it does take."""

_MOST_PROFILES: Final = 64
"""Profiles that a child keeps; each is sent once as long as it is among the last ones."""

_ERRORS: Final = (
    InputError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a target raises that is not usable here, or has a defect: it is raised here again."""

_Rest: TypeAlias = tuple[Any, ...]
"""An attempt without its profile, in simple parts."""
_Answer: TypeAlias = Observation | Profile | Passage


class Isolated(Target):
    """A target that `make` makes, in a child process. `name` is that of the target."""

    def __init__(self, name: str, make: Callable[[], Target], seconds: float = SECONDS) -> None:
        self._name = name
        self._make = make
        self._seconds = seconds
        self._child: _Child | None = None

    @property
    def name(self) -> str:
        """The name of the target."""
        return self._name

    def open(self, profile: Profile) -> None:
        """Open the profile in the child. What goes wrong there, the first attempt tells."""
        self._ask("open", profile, None)

    def run(self, attempt: Attempt) -> Observation:
        """Return what comes of the attempt, or what became of the child."""
        return self._observe("run", attempt)

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _observe(self, method: str, attempt: Attempt) -> Observation:
        """Return what a method of the target makes of an attempt."""
        seen = self._ask(method, attempt.profile, _rest_of(attempt))
        assert isinstance(seen, Observation)
        return seen

    def _ask(self, method: str, profile: Profile, rest: _Rest | None) -> _Answer:
        child = self._child = self._child or _Child(self._make)
        try:
            child.connection.send((method, *child.number(profile), rest))
            if not child.connection.poll(self._seconds):
                self.close()
                return died(f"no answer within {self._seconds:g} seconds")
            answer = child.connection.recv()
        except (EOFError, OSError):
            self._child = None
            return died(child.post_mortem())
        if isinstance(answer, Observation | Profile | Passage):
            return answer
        self.close()
        raise answer


class _OffersVirtual(Isolated):
    """A KVM in a child process, which has a virtual processor as well."""

    def __init__(self, name: str, make: Callable[[], Target], seconds: float = SECONDS) -> None:
        super().__init__(name, make, seconds)
        self._virtual: dict[Profile, Profile] = {}

    def virtual(self, profile: Profile) -> Profile:
        """Return the processor that KVM offers L1; the profile itself if the child has died."""
        found = self._virtual.get(profile)
        if found is None:
            answer = self._ask("virtual", profile, None)
            found = answer if isinstance(answer, Profile) and answer != profile else profile
            if len(self._virtual) == _MOST_PROFILES:
                self._virtual.clear()
            self._virtual[profile] = found
        return found


class IsolatedKvm(_OffersVirtual):
    """A KVM in a child process: it has a processor below it as well."""

    def on_hardware(self, attempt: Attempt) -> Observation:
        """Return what L1 sees in the end, or what became of the child."""
        return self._observe("on_hardware", attempt)


class IsolatedLoop(_OffersVirtual):
    """A closed loop in a child process: attempts can be followed on their way through it."""

    def follow(self, attempt: Attempt) -> Passage:
        """Return what can be seen on the way, or what became of the child."""
        return self._passage("follow", attempt)

    def follow_dry(self, attempt: Attempt) -> Passage:
        """Return the same where there is a dry run."""
        return self._passage("follow_dry", attempt)

    def _passage(self, method: str, attempt: Attempt) -> Passage:
        seen = self._ask(method, attempt.profile, _rest_of(attempt))
        return Passage(seen) if isinstance(seen, Observation) else cast("Passage", seen)


def _rest_of(attempt: Attempt) -> _Rest:
    return (
        attempt.vmcs.__dict__,
        attempt.processor,
        attempt.memory.regions,
        attempt.instruction,
        attempt.launch_state,
    )


class _Child:
    """One child process, the pipe to it, and the profiles that it was sent."""

    def __init__(self, make: Callable[[], Target]) -> None:
        self.connection, theirs = Pipe()
        self._profiles: list[Profile] = []
        self._next = 0
        self._pid = os.fork()
        if self._pid == 0:
            self.connection.close()
            _serve(theirs, make)
        theirs.close()

    def number(self, profile: Profile) -> tuple[int, Profile | None]:
        """Return the number of a profile, and the profile if the child has yet to be sent it."""
        for number, known in enumerate(self._profiles):
            if known is profile:
                return number, None
        number = self._next
        self._next = (number + 1) % _MOST_PROFILES
        self._profiles[number : number + 1] = [profile]
        return number, profile

    def end(self) -> None:
        """End the child, whatever it is at."""
        self.connection.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def post_mortem(self) -> str:
        """Return how the child ended, which hung up on its own, as a sentence."""
        self.connection.close()
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if code < 0:
            return f"the process was killed by {signal.Signals(-code).name}"
        return f"the process ended with status {code}"


def _serve(connection: Connection, make: Callable[[], Target]) -> None:
    """Answer requests until the parent hangs up; never return."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = 1
    try:
        _answer(connection, make())
    except EOFError:
        status = 0
    except _ERRORS as error:
        connection.send(error)
    finally:
        # The parent's own affairs, open files and handlers among them, are not ours to end.
        os._exit(status)


def _answer(connection: Connection, target: Target) -> None:
    profiles: dict[int, Profile] = {}
    nothing = Observation("no-opinion", reason="opened")
    while True:
        method, number, new, rest = connection.recv()
        profile = profiles[number] = new or profiles[number]
        ask = getattr(target, method)
        if rest is None:
            connection.send(ask(profile) or nothing)
            continue
        fields, processor, regions, instruction, launch_state = rest
        vmcs, memory = Vmcs(fields), Memory(regions)
        connection.send(ask(Attempt(profile, vmcs, processor, memory, instruction, launch_state)))
