#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how many VM entries a second a campaign on real KVM and Bochs makes, and where time goes.

Usage: ci/benches/entries.py [TARGET [EXECUTIONS]]. Workers are those of a campaign: Atheris, the
corpus first, all oracles. They are measured from the middle of their executions on, one of them and
then two at once. Below stand the parts alone. Seconds are those of the processor, but where it says
of two workers what they make by the clock.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, process_time

from nvmxfuzz.campaign.engines import engine_named
from nvmxfuzz.campaign.events import WorkerEvent
from nvmxfuzz.campaign.harness import Harness, Neighbours, Verdicts
from nvmxfuzz.campaign.last_input import LastInput
from nvmxfuzz.campaign.neighbours import SIZE
from nvmxfuzz.campaign.plan import corpus_files, harness_file, load_harness
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.campaign.session import Session
from nvmxfuzz.campaign.settings import Settings
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.codec import decode, encode
from nvmxfuzz.inputs.text import load_text
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.targets.at_hand import Alone, AtHand
from nvmxfuzz.targets.bochs.target import Bochs
from nvmxfuzz.targets.kvm_native.build.objects import usable
from nvmxfuzz.targets.kvm_native.burst import MOST, Bursts, Written
from nvmxfuzz.targets.kvm_native.target import COVERAGE, KvmTarget
from nvmxfuzz.targets.registry import TARGETS

TARGET = "kvm-6.12+bochs"
EXECUTIONS = 16_000
AIM = 50_000
"""Entries a second on two cores."""
ROUNDS = 200
"""Of each part, times `MOST` where it is not a burst."""


@dataclass
class Clock:
    """Seconds of the processor and of the clock, executions and entries, up to now."""

    processor: float = 0.0
    clock: float = 0.0
    executions: int = 0
    entries: int = 0
    bursts: float = 0.0
    told: float = 0.0

    def since(self, before: Clock) -> Clock:
        """Return what there was since then."""
        pairs = zip(vars(self).values(), vars(before).values(), strict=True)
        return Clock(*(late - early for late, early in pairs))


class Measured(Session):
    """A session that leaves behind what it did from the middle of its executions on."""

    def __init__(self, harness: Harness, settings: Settings) -> None:
        super().__init__(harness, settings, ignore, LastInput(Path(settings.last_input)))
        self._bursts = self._told = 0.0
        self._middle: Clock | None = None

    def execute(self, data: bytes) -> None:
        """Run the harness on an input, and look at the clocks in the middle."""
        if self._middle is None and self._executions >= (self.settings.runs or 0) // 2:
            self._middle = self._now()
        super().execute(data)

    def _run_around(
        self, neighbours: Neighbours, case: EntryCase, verdicts: Verdicts, data: bytes
    ) -> None:
        begin = process_time()
        super()._run_around(Timed(neighbours, self), case, verdicts, data)
        self._told += process_time() - begin

    def note_burst(self, seconds: float) -> None:
        """Count a burst, which is in the time of what it tells of as well."""
        self._bursts += seconds
        self._told -= seconds

    def _now(self) -> Clock:
        return Clock(
            *(process_time(), perf_counter(), self._executions, self._entries()),
            *(self._bursts, self._told),
        )

    def end(self) -> None:
        """Leave the figures behind: the process is about to end."""
        done = self._now().since(self._middle or Clock())
        Path(self.settings.folder, "measured").write_bytes(pickle.dumps(done))


@dataclass
class Timed:
    """Neighbours that take the time of a burst."""

    of: Neighbours
    session: Measured

    @property
    def entries(self) -> int:
        """How many have been run."""
        return self.of.entries

    def around(
        self, case: EntryCase, verdicts: Verdicts, data: bytes, last_input: LastInput, seed: int
    ) -> tuple[bytes, ...]:
        """Run the neighbours of a case."""
        begin = process_time()
        found = self.of.around(case, verdicts, data, last_input, seed)
        self.session.note_burst(process_time() - begin)
        return found


def ignore(_event: WorkerEvent) -> None:
    """Send nothing anywhere."""


def worker(target: str, folder: str, runs: int, seed: int) -> int:
    """Start a worker of a campaign; return its process."""
    Path(folder, "inputs").mkdir(parents=True)
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    rules = load_harness(harness_file("vm_entry"))
    harness = with_target(rules, target, isolated=False, covered=True)
    cases = (load_text(path.read_bytes(), path.name).case for path in corpus_files(harness.name))
    seeds = {harness.encode(case) for case in cases if case.harness == harness.kind}
    for number, data in enumerate(sorted(seeds)):
        Path(folder, "inputs", f"{number:05}").write_bytes(data)
    settings = Settings(
        *(0, "atheris", seed, runs, None, folder, f"{folder}/last-input", -1, 0), target=target
    )
    engine_named("atheris")(Measured(harness, settings))
    os._exit(1)


def workers(target: str, runs: int, count: int) -> list[Clock]:
    """Return what so many workers did at once."""
    with tempfile.TemporaryDirectory() as folder:
        places = [f"{folder}/{number}" for number in range(count)]
        for child in [worker(target, place, runs, at + 1) for at, place in enumerate(places)]:
            os.waitpid(child, 0)
        done: list[Clock] = [pickle.loads(Path(at, "measured").read_bytes()) for at in places]
    return done


def part(title: str, work: Callable[[], object], each: int = 1) -> None:
    """Print what a part costs alone, if it does `each` of it at a time."""
    for _ in range(ROUNDS):  # what is made at first, and what is new
        work()
    rounds = ROUNDS * MOST // each
    begin = process_time()
    for _ in range(rounds):
        work()
    took = (process_time() - begin) / rounds / each
    print(f"  {title}: {took * 1e6:.1f} us, {1 / took:,.0f} a second")


@dataclass
class Idle:
    """Bochs, where the processor that executes vmcs12 itself does nothing at all."""

    name: str = "idle"

    def alone(self, host: Profile, offered: Profile) -> Alone | None:
        """Return it."""
        found = Bochs().alone(host, offered)
        return found and IdleAlone(found)


@dataclass
class IdleAlone:
    """It, on one profile."""

    of: Alone

    def at_hand(self, attempt: Attempt) -> AtHand | None:
        """Return a function that does nothing."""
        found = self.of.at_hand(attempt)
        nothing = ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p).value or 0
        return found and replace(found, enter=nothing)

    def image(self, attempt: Attempt) -> bytes:
        """Return the image of the attempt's VMCS."""
        return self.of.image(attempt)


def parts(kernel: str) -> None:
    """Print what the parts cost, on neighbours of the plain entry."""
    profile = load_profile(f"kvm-{kernel}-skylake-x")
    names = (profile.name,)
    case = EntryCase(base("guest-64", profile), "guest-64")
    head = encode(case, names)
    memory, size = ctypes.create_string_buffer(head, len(head) + 64), ctypes.c_uint32()
    written = Written(ctypes.addressof(memory), ctypes.addressof(size), len(head))
    seeds = iter(range(1 << 30))
    for title, hardware in (("both processors", Bochs()), ("KVM and Bochs below it", Idle())):
        bursts = Bursts(hardware, lambda: KvmTarget(kernel, Bochs()))
        bursts.prepare(profile)

        def run(bursts: Bursts = bursts) -> object:
            return bursts.around(case.attempt, written, (next(seeds), MOST))

        part(f"an entry in a burst, {title}", run, MOST)
    kvm, alone = KvmTarget(kernel, Bochs()), Bochs().alone(load_profile("skylake-x"), profile)
    assert alone is not None
    part("an entry from Python on KVM and Bochs", lambda: kvm.on_hardware(case.attempt))
    part("the rules", lambda: vm_entry(case.attempt))
    told = head + head[4:14]
    part("decoding", lambda: decode(told, "vm_entry", names))


def report(title: str, done: Sequence[Clock]) -> float:
    """Print what workers did, and return entries a second of the processor's time."""
    total = Clock(
        *(sum(values) for values in zip(*(vars(each).values() for each in done), strict=True))
    )
    clock = max(each.clock for each in done)
    by_clock = sum(each.entries / each.clock for each in done)
    rate = total.entries / total.processor
    print(
        f"{title}: {by_clock:,.0f} entries a second by the clock, in {clock:.0f} s; "
        f"{rate:,.0f} a second of one core's time, {total.entries / total.executions:.1f} for "
        f"each execution"
    )
    rest = total.processor - total.bursts - total.told
    for what, seconds in (
        ("bursts", total.bursts),
        ("what bursts tell of, executed as inputs", total.told),
        ("inputs: mutating, decoding, rules, oracles", rest),
    ):
        print(f"  {what}: {seconds / total.processor:.0%}")
    return rate


def main() -> None:
    """Print the figures."""
    given = sys.argv[1:]
    target, runs = (*given, *(TARGET, str(EXECUTIONS))[len(given) :])
    kernel = target.removeprefix("kvm-").partition("+")[0]
    if reason := TARGETS[target].usable() or usable(kernel, COVERAGE):
        print(f"{target}: not measured, {reason}")
        return
    print(f"{target}, {SIZE} neighbours around an entry, {runs} executions")
    one = report("one worker", workers(target, int(runs), 1))
    two = report("two workers", workers(target, int(runs), 2))
    print(f"two cores to themselves: {2 * two:,.0f} entries a second (asked for {AIM:,}); ", end="")
    print(f"a core makes {two / one:.2f} of one worker's when there are two")
    parts(kernel)


if __name__ == "__main__":
    main()
