# SPDX-License-Identifier: GPL-2.0-only
"""The real KVM as a target of VM entry: L1 executes VMLAUNCH or VMRESUME on it.

An attempt is L1's. Its profile is a processor with KVM on it, or one that KVM of this kernel gave
L1 ("kvm-6.12-skylake-x"), which means KVM on the processor that is named last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Final

from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names
from nvmxfuzz.targets.base import Message, Observation, Target, died, not_representable
from nvmxfuzz.targets.kvm_native.build.objects import demand_sound, find_object, usable
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.nested_counters import nested_counters
from nvmxfuzz.targets.kvm_native.results import Stopped
from nvmxfuzz.targets.kvm_native.seat import Seat, messages_of
from nvmxfuzz.targets.kvm_native.vcpu import sentence_of
from nvmxfuzz.targets.passage import Passage
from nvmxfuzz.targets.python_model import PythonModel

FAMILY: Final = "kvm"
PLAIN: Final = "plain"
COVERAGE: Final = "coverage"
"""Variants of the object."""
_MOST_SEATS: Final = 7
"""Processors that are kept ready. Each has a snapshot of some 6 MiB, for a moment a second one;
there can be 64, and two targets may share one object."""

_MOST_OFFERED: Final = 64


class KvmTarget(Target):
    """KVM of one kernel. `run` is its software alone; `on_hardware` has a processor below it.

    Without `hardware`, the rules are that processor.
    """

    def __init__(
        self,
        kernel: str,
        hardware: Target | None = None,
        variant: str = PLAIN,
        parameters: Mapping[str, int] | None = None,
        load: Callable[[], Library] | None = None,
    ) -> None:
        """`parameters` are those of the modules; `load` gives the object, where it is shared."""
        self._kernel = kernel
        self._hardware = hardware or PythonModel()
        self._parameters = dict(parameters or {})
        self._loaded = load or loader(kernel, variant)
        self._seats: dict[Profile, Seat | Observation] = {}
        # Comparing profiles costs more than a run: the last ones are known by identity.
        self._last: tuple[Profile, Seat | Observation] | None = None
        self._offered: dict[int, tuple[Profile, Profile]] = {}

    @property
    def name(self) -> str:
        """The name of the target."""
        return f"{FAMILY}-{self._kernel}"

    def open(self, profile: Profile) -> None:
        """Load the object, and KVM on the processor that the profile means."""
        self._seat(profile)

    def run(self, attempt: Attempt) -> Observation:
        """Return what KVM's software makes of VM entry; "entered": it would run vmcs02."""
        seat = self._seat(attempt.profile)
        if isinstance(seat, Observation):
            return seat
        return _unharmed(seat, seat.enter, attempt)

    def on_hardware(self, attempt: Attempt) -> Observation:
        """Return what L1 sees in the end, where a processor executes what KVM would run."""
        seat = self._seat(attempt.profile)
        if isinstance(seat, Observation):
            return seat
        return _unharmed(seat, seat.enter_on, attempt)

    def follow(self, attempt: Attempt) -> Passage:
        """Return the same as `on_hardware`, with all that can be seen on the way there."""
        seat = self._seat(attempt.profile)
        if isinstance(seat, Observation):
            return Passage(seat)
        said: tuple[Message, ...] = ()
        try:
            passage = seat.follow(attempt)
            said = passage.observation.messages
            seat.check_heap()
        except Stopped as stopped:
            return Passage(_stopped(stopped, said))
        return passage

    def virtual(self, profile: Profile) -> Profile:
        """Return the processor that KVM offers L1; `profile` itself if that is it.

        Where KVM does not load on the processor, it is the profile as well.
        """
        key = id(profile)
        found = self._offered.get(key)
        if found is None:
            if len(self._offered) == _MOST_OFFERED:
                self._offered.clear()
            # The profile is kept with it, so that no other one gets its identity.
            found = self._offered[key] = profile, self._virtual(profile)
        return found[1]

    def counters(self) -> tuple[int, int, int]:
        """Return where KVM counts what it executes: see `Library.counters`."""
        return self._loaded().counters()

    def nested_counters(self) -> range:
        """Return which of the counters are in nested.c."""
        return nested_counters(self._loaded(), self._kernel)

    def seat(self, profile: Profile) -> Seat | None:
        """Return KVM on the processor that a profile means, None if there is none."""
        seat = self._seat(profile)
        return seat if isinstance(seat, Seat) else None

    def close(self) -> None:
        """Give back what the processors took. The object itself cannot be unloaded."""
        for seat in self._seats.values():
            if isinstance(seat, Seat):
                seat.leave()
        self._seats.clear()
        self._last = None
        self._offered.clear()

    def _virtual(self, profile: Profile) -> Profile:
        seat = self._seat(profile)
        if isinstance(seat, Observation):
            return profile
        # The note of a profile is for its reader.
        return profile if replace(seat.virtual, note=profile.note) == profile else seat.virtual

    def _seat(self, profile: Profile) -> Seat | Observation:
        """Return KVM on the processor that a profile means, or what comes of each attempt there."""
        if self._last is not None and profile is self._last[0]:
            return self._last[1]
        found = self._seats.get(profile)
        if found is None:
            if len(self._seats) == _MOST_SEATS:
                self._give_up_oldest()
            found = self._seats[profile] = self._take_seat(self.host(profile))
        self._last = profile, found
        return found

    def _give_up_oldest(self) -> None:
        oldest = self._seats.pop(next(iter(self._seats)))
        if isinstance(oldest, Seat):
            oldest.leave()
        self._last = None

    def host(self, profile: Profile) -> Profile:
        """Return the processor that a profile means: the one KVM runs on."""
        host = profile.name.removeprefix(f"{self.name}-")
        given = host != profile.name and host in profile_names()
        return load_profile(host) if given else profile

    def _take_seat(self, host: Profile) -> Seat | Observation:
        try:
            name = f"{self.name}-{host.name}"
            return Seat(self._loaded(), host, name, self._hardware, self._parameters)
        except IoctlError as refused:
            if refused.name != "insmod":
                return not_representable(f"KVM makes no vCPU on {host.name}: {refused}")
            log = self._loaded().result().log
            said = f' ("{log[-1].strip()}")' if log else ""
            return not_representable(f"KVM does not load on {host.name}: {refused}{said}")
        except Stopped as stopped:
            # No L1 gets as far as its VM entry there.
            return _stopped(stopped, ())


def _unharmed(seat: Seat, enter: Callable[[Attempt], Observation], attempt: Attempt) -> Observation:
    """Return what an attempt came to, which is that it died if KVM's memory is damaged then."""
    said: tuple[Message, ...] = ()
    try:
        seen = enter(attempt)
        said = seen.messages
        seat.check_heap()
    except Stopped as stopped:
        return _stopped(stopped, said)
    return seen


def _stopped(stopped: Stopped, said: tuple[Message, ...]) -> Observation:
    return died(sentence_of(stopped), said + messages_of(stopped.result))


def loader(kernel: str, variant: str = PLAIN) -> Callable[[], Library]:
    """Return a function that loads KVM of a kernel when it is called first."""

    @cache
    def load() -> Library:
        return Library.of(find_object(kernel, variant))

    return load


def with_coverage(name: str) -> KvmTarget | None:
    """Return the target of that name that counts what KVM executes, None if it is not built.

    InputError if it is damaged: a campaign without its counters would be another one.
    """
    kernel = name.removeprefix(f"{FAMILY}-")
    return KvmTarget(kernel, variant=COVERAGE) if has_coverage(kernel) else None


def has_coverage(kernel: str) -> bool:
    """Tell whether KVM of a kernel is built so that it counts; InputError if that is damaged."""
    if usable(kernel, COVERAGE):
        return False
    demand_sound(kernel, COVERAGE)
    return True


def available(kernel: str) -> str:
    """Return "" if KVM of a kernel is built, else what to do, as a sentence."""
    return usable(kernel)


KVM_6_1: Final = partial(KvmTarget, "6.1")
KVM_6_12: Final = partial(KvmTarget, "6.12")
HAS_6_1: Final = partial(available, "6.1")
HAS_6_12: Final = partial(available, "6.12")
