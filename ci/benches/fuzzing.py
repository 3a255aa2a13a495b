#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how fast the harnesses run under Atheris, against a plain loop over the same inputs."""

import os
import pickle
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import TypeAlias

from nvmxfuzz.campaign.engines import engine_named
from nvmxfuzz.campaign.events import WorkerEvent
from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.last_input import LastInput
from nvmxfuzz.campaign.plan import corpus_files, harness_file, load_harness
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.campaign.session import Session
from nvmxfuzz.campaign.settings import Settings
from nvmxfuzz.inputs.text import load_text
from nvmxfuzz.targets.kvm_native.target import with_coverage
from nvmxfuzz.targets.registry import TARGETS

RUNS = 20_000
KVM = "kvm-6.12"
STEADY_RUNS = 100_000
"""Executions behind the seeds that the steady state is measured over."""

AIM = 10_000
"""Executions a second with KVM's coverage."""

MARK = 500
"""Executions from one look at the clocks to the next."""

REFERENCE = 1_000_000


def ignore(_event: WorkerEvent) -> None:
    """Send nothing anywhere."""


class Recording(Session):
    """A session that keeps its inputs, and at its end leaves them with the time it took."""

    def __init__(self, harness: Harness, settings: Settings) -> None:
        super().__init__(harness, settings, ignore, LastInput(Path(settings.last_input)))
        self.inputs: list[bytes] = []
        self.clocks: list[tuple[float, float]] = []
        self._begin = perf_counter()

    def execute(self, data: bytes) -> None:
        """Run the harness on an input, and keep it."""
        if len(self.inputs) % MARK == 0:
            self.clocks.append((perf_counter(), process_time()))
        self.inputs.append(data)
        super().execute(data)

    def end(self) -> None:
        """Leave the inputs and the time behind: the process is about to end."""
        self.clocks.append((perf_counter(), process_time()))
        result = perf_counter() - self._begin, self.inputs, self.clocks
        Path(self.settings.folder, "recorded").write_bytes(pickle.dumps(result))


def settings(folder: str, runs: int = RUNS) -> Settings:
    """Return the settings of a worker that fuzzes in `folder`."""
    return Settings(
        worker=0,
        engine="atheris",
        seed=1,
        runs=runs,
        seconds=None,
        folder=folder,
        last_input=f"{folder}/last-input",
        events=-1,
        memory=0,
    )


Clocks: TypeAlias = list[tuple[float, float]]
"""The wall clock and the processor time before each `MARK` executions, and at the end."""


def recorded(
    harness: Harness, folder: str, seeds: Sequence[bytes] = (), runs: int = RUNS
) -> tuple[float, list[bytes], Clocks]:
    """Return how long Atheris took, the inputs it executed, and when."""
    Path(folder, "inputs").mkdir()
    for number, seed in enumerate(seeds):
        Path(folder, "inputs", f"{number:05}").write_bytes(seed)
    # What is not yet printed would be printed by the child as well.
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        engine_named("atheris")(Recording(harness, settings(folder, runs)))
    os.waitpid(child, 0)
    result: tuple[float, list[bytes], Clocks] = pickle.loads(Path(folder, "recorded").read_bytes())
    return result


def in_a_loop(harness: Harness, folder: str, inputs: list[bytes]) -> float:
    """Return how long a plain loop over `inputs` takes."""
    session = Session(harness, settings(folder), ignore, LastInput(Path(folder, "last-input")))
    begin = perf_counter()
    for data in inputs:
        session.execute(data)
    return perf_counter() - begin


@dataclass(frozen=True)
class Nothing:
    """The verdicts of a run that is steered by coverage alone."""

    asked: int = 0
    broken: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()


def reference_loop() -> float:
    """Return the processor time in us of one turn of a loop that is always the same."""
    begin = process_time()
    word = 0
    for number in range(REFERENCE):
        word = word * 3 + number & 0xFFFF
    return (process_time() - begin) / REFERENCE * 1e6


def speed(clocks: Clocks, first: int, last: int, runs: int) -> str:
    """Return what `runs` executions between two marks took, as a phrase."""
    wall, processor = (clocks[last][clock] - clocks[first][clock] for clock in (0, 1))
    each = processor / runs * 1e6
    return (
        f"{runs / wall:,.0f} executions a second, {each:.0f} us of the processor each "
        f"({each / reference_loop():,.0f} turns of an empty loop)"
    )


def measure_kvm(harness: Harness, target: str) -> None:
    """Print the speed of a campaign that KVM's own coverage steers, with and without the rules.

    It begins with the seeds and the vectors, as every campaign does: nearly all of them show new
    behaviour, and all oracles examine that. What follows is the steady state, for days.
    """
    kvm = with_coverage(target)
    if kvm is None:
        print(f"{target}: not measured, it is not built with coverage")
        return
    judged = with_target(harness, target, isolated=False, covered=True)
    alone = replace(
        judged,
        run=kvm.run,
        verdicts=lambda *_: Nothing(),
        oracles=(),
        always=(),
        points=("run",),
        due=None,
        counters=kvm.counters,
    )
    cases = (load_text(path.read_bytes(), path.name).case for path in corpus_files(harness.name))
    seeds = sorted({judged.encode(case) for case in cases if case.harness == harness.kind})
    start = -(-len(seeds) // MARK)
    for what, each in (("with the rules", judged), ("KVM alone", alone)):
        with tempfile.TemporaryDirectory() as folder:
            runs = start * MARK + STEADY_RUNS
            _, _, clocks = recorded(each, folder, seeds, runs)
        print(f"vm_entry on {target} with its coverage, {what}, under Atheris:")
        print(f"  the seeds and vectors: {speed(clocks, 0, start, start * MARK)}")
        middle = start + STEADY_RUNS // MARK // 2
        print(f"  {STEADY_RUNS:,} more: {speed(clocks, start, -1, STEADY_RUNS)}; aim {AIM:,}")
        print(f"  the last half of them: {speed(clocks, middle, -1, STEADY_RUNS // 2)}")


def main() -> None:
    """Measure the harnesses alone, and with Bochs or KVM as second witness where there is one."""
    for name in ("vm_entry", "capability_config", "capability_restore"):
        harness = load_harness(harness_file(name))
        with tempfile.TemporaryDirectory() as folder:
            fuzzing, inputs, _ = recorded(harness, folder)
            loop = in_a_loop(harness, folder, inputs)
            print(
                f"{name}: {len(inputs) / fuzzing:,.0f} executions a second under Atheris, "
                f"{len(inputs) / loop:,.0f} in a plain loop, ratio {loop / fuzzing:.2f}"
            )
            if name == "vm_entry" and not TARGETS["bochs"].usable():
                both = in_a_loop(with_target(harness, "bochs", isolated=False), folder, inputs)
                print(f"{name} with Bochs: {loop / both:.2f} of the speed of the rules alone")
            if name == "capability_restore" and not TARGETS[KVM].usable():
                both = in_a_loop(with_target(harness, KVM, isolated=False), folder, inputs)
                print(
                    f"{name} on {KVM}: {len(inputs) / both:,.0f} executions a second in a plain "
                    f"loop, {loop / both:.2f} of the speed of the model alone"
                )
    measure_kvm(load_harness(harness_file("vm_entry")), KVM)


if __name__ == "__main__":
    main()
