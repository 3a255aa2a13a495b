# SPDX-License-Identifier: GPL-2.0-only
"""libFuzzer, through Atheris, steered by verdicts.

The rules are not instrumented: `campaign.feedback` says why. Only where that is not available is
the bytecode of the witnesses instrumented, the way Atheris documents.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import atheris

from nvmxfuzz.campaign.feedback import (
    Counters,
    FeedbackUnavailableError,
    VerdictFeedback,
    load_mutators,
    register,
)
from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.inputs_folder import NAME
from nvmxfuzz.campaign.session import Session
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.inputs.mutate import cross_over, mutator

MAX_SIZE = 4096

_NO_TIMEOUT = 1_000_000
"""Seconds. Atheris takes 0 for a limit: the alarm of each second ends what began in the last."""

_INSTRUMENTED = ("nvmxfuzz.cpu.", "nvmxfuzz.kvm.")


class FindingError(Exception):
    """Raised in a target that runs alone, where a crash is the only way to report a finding."""


def run(session: Session) -> None:
    """Feed the session from libFuzzer; ends the process, as libFuzzer would."""
    from nvmxfuzz.campaign.worker import leave

    session.feedback = _feedback(session.harness, session.notice)

    def test_one_input(data: bytes) -> None:
        session.execute(data)
        if session.finished:
            leave(session)

    inputs = Path(session.settings.folder, NAME)
    # The campaign bounds time, memory and the time of one input; libFuzzer's limits are off.
    flags = [
        f"-seed={session.settings.seed % (2**32 - 1) + 1}",
        f"-max_len={MAX_SIZE}",
        "-len_control=0",
        f"-timeout={_NO_TIMEOUT}",
        "-rss_limit_mb=0",
        "-handle_term=0",
        "-handle_int=0",
        "-handle_segv=0",
        "-handle_bus=0",
        "-handle_abrt=0",
        "-handle_ill=0",
        "-handle_fpe=0",
        "-use_cmp=0",
        "-print_funcs=0",
        "-verbosity=0",
        # Each second it looks for what other workers have kept.
        f"-reload={int(session.settings.shared)}",
        f"-artifact_prefix={session.settings.folder}/",
        str(inputs),
    ]
    _fuzz(session.harness, [sys.argv[0], *flags], test_one_input, _Lineage(session))


class _Lineage:
    """Tells a session what the next input was made from.

    libFuzzer mutates an input several times over: its parent is what the first of them began with.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._made = b""

    def offering(self, mutate: Callable[..., bytes]) -> Callable[..., bytes]:
        """Return a mutator that makes an input of what the session has met elsewhere, if it has.

        So libFuzzer gets to know that, and keeps it if it is new to it.
        """
        offered = self._session.offered

        def offers(data: bytes, max_size: int, seed: int) -> bytes:
            while offered:
                found = offered.popleft()
                if len(found) <= max_size:
                    return found
            return mutate(data, max_size, seed)

        return offers

    def follow(self, mutate: Callable[..., bytes]) -> Callable[..., bytes]:
        """Return a mutator or a crossover that is watched."""
        session = self._session

        def followed(data: bytes, *others: Any) -> bytes:  # noqa: ANN401 - what libFuzzer gives
            if data != self._made:
                session.parent = bytes(data)
            self._made = mutate(data, *others)
            return self._made

        return followed


def fuzz_alone(harness: Harness, arguments: Sequence[str]) -> None:
    """Be a plain Atheris target: `arguments` go to libFuzzer, a finding is an exception."""
    feedback = _feedback(harness, lambda text: print(text, file=sys.stderr))

    def test_one_input(data: bytes) -> None:
        case = harness.decode(data)
        result, verdicts = harness.judge(case)
        if feedback is not None:
            feedback.note(verdicts)
        findings = harness.check(case, result)
        if findings:
            raise FindingError("; ".join(f"{each.identity}: {each.message}" for each in findings))

    flags = ["-use_cmp=0", "-len_control=0", "-print_funcs=0"]
    _fuzz(harness, [*arguments[:1], *flags, *arguments[1:]], test_one_input)


def _fuzz(
    harness: Harness,
    arguments: Sequence[str],
    target: Callable[[bytes], None],
    lineage: _Lineage | None = None,
) -> None:
    def own(data: bytes, size: int) -> bytes:
        # Looked up each time: Fuzz() puts another function in its place.
        return bytes(atheris.Mutate(data, size))

    mutate: Callable[..., bytes] = mutator(harness.kind, own, harness.profiles)
    cross: Callable[..., bytes] = cross_over(harness.kind, harness.profiles)
    if lineage is not None:
        # What is offered was made from something else than what libFuzzer would mutate.
        mutate, cross = lineage.offering(lineage.follow(mutate)), lineage.follow(cross)
    atheris.Setup(list(arguments), target, custom_mutator=mutate, custom_crossover=cross)
    atheris.Fuzz()


def _feedback(harness: Harness, notice: Callable[[str], None]) -> VerdictFeedback | None:
    """Return verdicts as coverage, or None after instrumenting the witnesses instead."""
    points = len(harness.points)
    counters = Counters(VerdictFeedback.FEATURES * points)
    try:
        load_mutators()
        counters.register()
        if harness.counters is not None:
            register(*harness.counters())
    except FeedbackUnavailableError as reason:
        notice(f"slow: this atheris takes no feedback of ours ({reason}), code is instrumented")
        _instrument_witnesses()
        return None
    return VerdictFeedback(counters, points)


def _instrument_witnesses() -> None:
    """Instrument every function of the witnesses in place."""
    for name, module in sorted(sys.modules.items()):
        if name.startswith(_INSTRUMENTED):
            for function in vars(module).values():
                if isinstance(function, FunctionType) and function.__module__ == name:
                    atheris.instrument_func(function)
    for questions in CHAPTER.questions:
        atheris.instrument_func(questions)
