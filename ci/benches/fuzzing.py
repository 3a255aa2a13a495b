#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how fast the harnesses run under Atheris, against a plain loop over the same inputs."""

import os
import pickle
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from nvmxfuzz.campaign.engines import engine_named
from nvmxfuzz.campaign.events import WorkerEvent
from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.last_input import LastInput
from nvmxfuzz.campaign.plan import harness_file, load_harness
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.campaign.session import Session
from nvmxfuzz.campaign.settings import Settings
from nvmxfuzz.targets.kvm_native.target import with_coverage
from nvmxfuzz.targets.registry import TARGETS

RUNS = 20_000


def ignore(_event: WorkerEvent) -> None:
    """Send nothing anywhere."""


class Recording(Session):
    """A session that keeps its inputs, and at its end leaves them with the time it took."""

    def __init__(self, harness: Harness, settings: Settings) -> None:
        super().__init__(harness, settings, ignore, LastInput(Path(settings.last_input)))
        self.inputs: list[bytes] = []
        self._begin = perf_counter()

    def execute(self, data: bytes) -> None:
        """Run the harness on an input, and keep it."""
        self.inputs.append(data)
        super().execute(data)

    def end(self) -> None:
        """Leave the inputs and the time behind: the process is about to end."""
        result = perf_counter() - self._begin, self.inputs
        Path(self.settings.folder, "recorded").write_bytes(pickle.dumps(result))


def settings(folder: str) -> Settings:
    """Return the settings of a worker that fuzzes in `folder`."""
    return Settings(
        worker=0,
        engine="atheris",
        seed=1,
        runs=RUNS,
        seconds=None,
        folder=folder,
        last_input=f"{folder}/last-input",
        events=-1,
        memory=0,
    )


def recorded(harness: Harness, folder: str) -> tuple[float, list[bytes]]:
    """Return how long Atheris took, and the inputs it executed."""
    Path(folder, "inputs").mkdir()
    # What is not yet printed would be printed by the child as well.
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        engine_named("atheris")(Recording(harness, settings(folder)))
    os.waitpid(child, 0)
    seconds, inputs = pickle.loads(Path(folder, "recorded").read_bytes())
    return seconds, inputs


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


def measure_kvm(harness: Harness, target: str) -> None:
    """Print the speed of a campaign that KVM's own coverage steers, with and without the rules."""
    kvm = with_coverage(target)
    if kvm is None:
        print(f"{target}: not measured, it is not built with coverage")
        return
    judged = with_target(harness, target, isolated=False, covered=True)
    alone = replace(
        judged, run=kvm.run, verdicts=lambda *_: Nothing(), oracles=(), always=(), points=("run",)
    )
    alone = replace(alone, counters=kvm.counters)
    for what, each in (("with the rules", judged), ("KVM alone", alone)):
        with tempfile.TemporaryDirectory() as folder:
            seconds, inputs = recorded(each, folder)
            print(
                f"vm_entry on {target} with its coverage, {what}: "
                f"{len(inputs) / seconds:,.0f} executions a second under Atheris"
            )


def main() -> None:
    """Measure both harnesses, and that for VM entry with Bochs and with KVM as second witness."""
    for name in ("vm_entry", "capability_config"):
        harness = load_harness(harness_file(name))
        with tempfile.TemporaryDirectory() as folder:
            fuzzing, inputs = recorded(harness, folder)
            loop = in_a_loop(harness, folder, inputs)
            print(
                f"{name}: {len(inputs) / fuzzing:,.0f} executions a second under Atheris, "
                f"{len(inputs) / loop:,.0f} in a plain loop, ratio {loop / fuzzing:.2f}"
            )
            if name == "vm_entry" and not TARGETS["bochs"].usable():
                both = in_a_loop(with_target(harness, "bochs", isolated=False), folder, inputs)
                print(f"{name} with Bochs: {loop / both:.2f} of the speed of the rules alone")
    measure_kvm(load_harness(harness_file("vm_entry")), "kvm-6.12")


if __name__ == "__main__":
    main()
