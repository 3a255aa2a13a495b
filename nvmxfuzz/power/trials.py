# SPDX-License-Identifier: GPL-2.0-only
"""All trials of a measurement: each fault with each variant and each seed, some side by side.

Results go to a file, a line each as they come, so that nothing is lost when the measurement is
killed: those that stand there already are not made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

from nvmxfuzz.campaign.plan import corpus_files, harness_file, load_harness
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.power.fault import Fault
from nvmxfuzz.power.hunt import Search, Trial, hunt
from nvmxfuzz.power.variant import Corpus, Variant

_MOST_SEEDS: Mapping[Corpus, int | None] = {"all": None, "one": 1, "none": 0}


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one trial.

    `seconds_allowed` is how long it might have taken, `revision` which state of the code it ran.
    """

    fault: str
    variant: str
    seed: int
    seconds_allowed: float
    revision: str
    trial: Trial

    @property
    def key(self) -> tuple[str, str, int, float]:
        """What no other trial of a measurement has."""
        return self.fault, self.variant, self.seed, self.seconds_allowed

    def to_line(self) -> str:
        """Return it as a line of JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Measurement:
    """Which trials to make: seeds are `first_seed` and those that follow."""

    faults: Sequence[Fault]
    variants: Sequence[Variant]
    trials: int
    first_seed: int
    seconds: float
    jobs: int
    revision: str

    @property
    def size(self) -> int:
        """How many trials there are."""
        return len(self.faults) * len(self.variants) * self.trials


def measure(
    measurement: Measurement, file: Path | None, told: Callable[[Result, int], None]
) -> list[Result]:
    """Make all trials that `file` does not have yet; return every one, in order of name and seed.

    `told` is called with each as soon as it is there, and with how many are yet to be made.
    """
    done = {} if file is None else read_results(file)
    wanted = list(_searches(measurement))
    results = [done[key] for key, _, _ in wanted if key in done]
    stopped = Event()
    with ThreadPoolExecutor(measurement.jobs) as pool:
        running = [
            pool.submit(_try, fault, search, measurement.revision, stopped.is_set)
            for key, fault, search in wanted
            if key not in done
        ]
        try:
            for left, each in zip(range(len(running))[::-1], as_completed(running), strict=True):
                result = each.result()
                if file is not None:
                    _append(file, result)
                told(result, left)
                results.append(result)
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
    order = {key: number for number, (key, _, _) in enumerate(wanted)}
    return sorted(results, key=lambda result: order[result.key])


def _searches(
    measurement: Measurement,
) -> Iterator[tuple[tuple[str, str, int, float], Fault, Search]]:
    """Yield what to look for and how, one seed after the other so that each fault gets its turn."""
    for number in range(measurement.trials):
        for fault in measurement.faults:
            for variant in measurement.variants:
                seeds = _seeds(fault.harness, fault.target)[: _MOST_SEEDS[variant.corpus]]
                seed = measurement.first_seed + number
                search = Search(variant, seed, measurement.seconds, seeds)
                yield (fault.name, variant.name, seed, measurement.seconds), fault, search


def _try(fault: Fault, search: Search, revision: str, is_stopped: Callable[[], bool]) -> Result:
    trial = hunt(fault, search, is_stopped)
    return Result(fault.name, search.variant.name, search.seed, search.seconds, revision, trial)


@cache
def _seeds(harness: str, target: str | None) -> tuple[bytes, ...]:
    """Return the inputs that a campaign on a target begins with."""
    on_target = with_target(load_harness(harness_file(harness)), target, isolated=True)
    cases = (load_case(path.read_bytes(), str(path)) for path in corpus_files(on_target.name))
    return tuple(on_target.encode(case) for case in cases if case.harness == on_target.kind)


def _append(file: Path, result: Result) -> None:
    try:
        with file.open("a") as lines:
            lines.write(result.to_line() + "\n")
    except OSError as error:
        raise InputError(
            f"the results cannot be written to {file} ({error.strerror}): name another file with "
            "--results"
        ) from error


def read_results(file: Path) -> Mapping[tuple[str, str, int, float], Result]:
    """Return the results that a file has; a last line that was not finished does not count."""
    try:
        text = file.read_text() if file.exists() else ""
        # What stands behind the last newline was being written when its writer was killed.
        results = [_result(json.loads(line)) for line in text.split("\n")[:-1]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} has no results that can be gone on with ({error}): name another file with "
            "--results"
        ) from error
    if not text.endswith("\n") and text:
        file.write_text(text[: text.rfind("\n") + 1])
    return {result.key: result for result in results}


def _result(entry: Mapping[str, Any]) -> Result:
    trial = entry["trial"]
    return Result(
        fault=entry["fault"],
        variant=entry["variant"],
        seed=entry["seed"],
        seconds_allowed=entry["seconds_allowed"],
        revision=entry["revision"],
        trial=Trial(**{**trial, "others": tuple(trial["others"])}),
    )
