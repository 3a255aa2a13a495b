# SPDX-License-Identifier: GPL-2.0-only
"""Bochs as a target: a CPU for each model that attempts ask for, a path for each profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Final, Protocol, TypeAlias

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.bases import base, default_base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry, fail_valid
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.targets.at_hand import AtHand
from nvmxfuzz.targets.base import Observation, Target, not_representable
from nvmxfuzz.targets.bochs import patches
from nvmxfuzz.targets.bochs.complete import CompleteEngine, CompletePath
from nvmxfuzz.targets.bochs.cpu import Cpu
from nvmxfuzz.targets.bochs.fast import FastEngine, FastPath
from nvmxfuzz.targets.bochs.models import MODELS, model_for, refusal
from nvmxfuzz.targets.bochs.offered import Offered
from nvmxfuzz.targets.bochs.wheel import installed

NAME: Final = "bochs"
COMPLETE_NAME: Final = "bochs-complete"
_MOST_PROFILES: Final = 64
"""Profiles kept ready. Cases may bring profiles of their own, any number of them."""


class Path(Protocol):
    """Attempts on one profile, by one of the two ways."""

    def run(self, attempt: Attempt) -> Observation:
        """Return what comes of the attempt."""


Way: TypeAlias = Callable[[Profile, str], Path]
"""(profile, model): makes the path of a profile on a CPU of that model."""


class _OnBochs(Target):
    """What both ways share: which model stands for which profile."""

    def __init__(self, name: str, way: Way) -> None:
        self._name = name
        self._way = way
        self._paths: dict[int, tuple[Profile, Path | str]] = {}

    @property
    def name(self) -> str:
        """The name of the target."""
        return self._name

    def open(self, profile: Profile) -> None:
        """Make the CPU of the profile's model, if there is one."""
        self._path(profile)

    def run(self, attempt: Attempt) -> Observation:
        """Return what comes of the attempt, or why Bochs cannot stand for its machine."""
        path = self._path(attempt.profile)
        if isinstance(path, str):
            return not_representable(path)
        return path.run(attempt)

    def close(self) -> None:
        """Forget the profiles. The CPUs stay: a library that is loaded cannot be given back."""
        self._paths.clear()

    def _path(self, profile: Profile) -> Path | str:
        # By identity: comparing profiles costs as much as an attempt does.
        known = self._paths.get(id(profile))
        if known is not None and known[0] is profile:
            return known[1]
        if len(self._paths) >= _MOST_PROFILES:
            self._paths.clear()
        model = model_for(profile)
        path = refusal(profile) if model is None else self._way(profile, model)
        self._paths[id(profile)] = profile, path
        return path


class Bochs(_OnBochs):
    """Bochs by its fast path, in this process."""

    def __init__(self) -> None:
        super().__init__(NAME, lambda profile, model: FastPath(fast_engine(model), profile, model))

    def at_hand(self, attempt: Attempt) -> AtHand | None:
        """Return Bochs as a function of this process: see `AtHand`."""
        path = self._path(attempt.profile)
        return path.at_hand(attempt) if isinstance(path, FastPath) else None

    def alone(self, host: Profile, offered: Profile) -> Offered | None:
        """Return the processor `offered` by a hypervisor on `host`, None if no model is that."""
        model = model_for(host)
        return None if model is None else Offered(model, offered)


class BochsComplete(_OnBochs):
    """Bochs by its complete path, in this process."""

    def __init__(self) -> None:
        super().__init__(
            COMPLETE_NAME,
            lambda profile, model: CompletePath(complete_engine(model), profile, model),
        )


@cache
def fast_engine(model: str) -> FastEngine:
    """Return the CPU of `model` for the fast path: one in a process."""
    engine = FastEngine(Cpu(installed(), MODELS[model], patches.FAST))
    profile = load_profile(model)
    _try_out(FastPath(engine, profile, model), profile)
    return engine


@cache
def complete_engine(model: str) -> CompleteEngine:
    """Return the CPU of `model` for the complete path: one in a process."""
    profile = load_profile(model)
    cpu = Cpu(installed(), MODELS[model], patches.COMPLETE)
    engine = CompleteEngine(cpu, wide="long-mode" in profile.features)
    _try_out(CompletePath(engine, profile, model), profile)
    return engine


def _try_out(path: Path, profile: Profile) -> None:
    """See that states whose outcomes no one doubts come out right."""
    attempt = base(default_base(profile), profile)
    states: tuple[tuple[dict[str, int], Outcome], ...] = (
        ({}, ENTERED),
        ({"pin_based_vm_exec_control": 0}, fail_valid(7)),
        ({"host_tr_selector": 0}, fail_valid(8)),
        ({"guest_rflags": 0}, exit_on_entry(33)),
        ({"vmcs_link_pointer": 1}, exit_on_entry(33, 4)),
    )
    for edits, expected in states:
        seen = path.run(replace(attempt, vmcs=attempt.vmcs.replace(edits)))
        if seen.outcome != expected:
            said = seen.outcome or seen.reason
            raise InputError(
                f"the target bochs does not work on this computer: {expected} came out as {said}; "
                "use another target"
            )
