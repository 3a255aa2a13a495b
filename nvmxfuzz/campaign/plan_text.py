# SPDX-License-Identifier: GPL-2.0-only
"""A plan as TOML: read with every mistake named, and written so that it can be read again.

docs/campaigns.md tells the format to its users.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final, TypeVar

from nvmxfuzz.campaign.plan import (
    DEFAULT_CASE_SECONDS,
    DEFAULT_MEMORY,
    DEFAULT_RERUNS,
    DEFAULT_TURN,
    Job,
    Plan,
    harness_file,
    harness_names,
    referenced_harness,
)
from nvmxfuzz.campaign.seeding import SEED_BITS
from nvmxfuzz.campaign.settings import ENGINES, EngineName
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.toml_writer import Document

FORMAT: Final = 1
MOST_WORKERS: Final = 1024
MOST_JOBS: Final = 256
_MOST_BYTES: Final = 1 << 20
_LEAST_MEMORY: Final = 64 << 20
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?) ?(s|m|h|d)", re.ASCII)
_SIZE: Final = re.compile(r"(\d+) ?(MiB|GiB)", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES: Final = {"MiB": 1 << 20, "GiB": 1 << 30}
_KEYS: Final = (
    *("format", "workers", "time", "runs", "no_new_behaviour", "all_seen", "seed"),
    *("memory", "case_seconds", "turn", "reruns", "store", "job"),
)
_JOB_KEYS: Final = ("harness", "engine", "target", "kernels", "weight", "workers")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What a plan file says; None is what it leaves open. `plan` has a seed and workers anyhow."""

    plan: Plan
    seed: int | None
    workers: int | None
    store: Path | None


class _Table:
    """A table of the file. Each `take` removes a key; what is left in the end is a mistake."""

    def __init__(self, values: Mapping[str, Any], where: str, keys: tuple[str, ...]) -> None:
        self._values = dict(values)
        self._where = where
        for key in self._values:
            if key not in keys:
                raise self.wrong(key, f"is not known: the keys are {', '.join(keys)}")

    def wrong(self, key: str, what: str) -> InputError:
        """Return the mistake that a key `what`."""
        return InputError(f"{self._where}: {key[:80]!r} {what}")

    def take(self, key: str, parse: Callable[[Any], T | None], what: str, default: T) -> T:
        """Return a value, `default` if it is not there; `parse` returns None for what is none."""
        if key not in self._values:
            return default
        value = parse(self._values[key])
        if value is None:
            raise self.wrong(key, f"is to be {what}, not {str(self._values[key])[:60]!r}")
        return value


def read_plan(text: str, name: str, folder: Path) -> PlanFile:
    """Return the plan in a text; InputError names the file, the key and what is wrong with it.

    Paths in it are those from `folder`.
    """
    if len(text) > _MOST_BYTES:
        raise InputError(f"{name} is too long for a plan: {_MOST_BYTES} characters are the most")
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{name} is no TOML ({error}): see docs/campaigns.md") from error
    table = _Table(values, name, _KEYS)
    if table.take("format", _whole(FORMAT, FORMAT), f"{FORMAT}", 0) != FORMAT:
        raise table.wrong("format", f"is missing: write format = {FORMAT}")
    jobs = tuple(_jobs(table, values.get("job"), name, folder))
    least = max(1, sum(job.workers or 0 for job in jobs))
    duration = 'a time above 0 such as 90, "30m", "8h" or "2d"'
    seed = table.take("seed", _whole(0, (1 << SEED_BITS) - 1), "a number from 0 to 2^31-1", None)
    workers = table.take(
        "workers", _whole(1, MOST_WORKERS), f"a number from 1 to {MOST_WORKERS}", None
    )
    place = table.take("store", _text, "the path of a file", None)
    plan = Plan(
        jobs=jobs,
        seed=seed or 0,
        workers=workers or least,
        runs=table.take("runs", _whole(1, 1 << 62), "a number above 0", None),
        seconds=table.take("time", duration_of, duration, None),
        idle_seconds=table.take("no_new_behaviour", duration_of, duration, None),
        until_seen=table.take("all_seen", _boolean, "true or false", False),
        memory=table.take("memory", _size, 'at least "64 MiB", such as "2 GiB"', DEFAULT_MEMORY),
        case_seconds=table.take("case_seconds", duration_of, duration, DEFAULT_CASE_SECONDS),
        reruns=table.take("reruns", _whole(1, 100), "a number from 1 to 100", DEFAULT_RERUNS),
        turn_seconds=table.take("turn", duration_of, duration, DEFAULT_TURN),
    )
    demand_workers(plan if workers else None, name)
    return PlanFile(plan, seed, workers, None if place is None else folder / place)


def demand_workers(plan: Plan | None, name: str) -> None:
    """InputError if there are too few workers for the jobs that ask for their own."""
    if plan is None:
        return
    own = sum(job.workers or 0 for job in plan.jobs)
    if own > plan.workers:
        raise InputError(
            f"{name}: 'workers' is {plan.workers}, but the jobs ask for {own} of their own: "
            "raise it, or give them fewer"
        )
    if own == plan.workers and any(job.workers is None for job in plan.jobs):
        raise InputError(
            f"{name}: 'workers' is {plan.workers}, all of them for jobs that ask for their own: "
            "raise it by one for the other jobs, or give them fewer"
        )


def write_plan(plan: Plan) -> str:
    """Return the plan as TOML that says all of it, for the store to keep."""
    document = Document()
    document.value("format", FORMAT)
    for key, value in (
        ("workers", plan.workers),
        ("seed", plan.seed),
        ("time", plan.seconds),
        ("runs", plan.runs),
        ("no_new_behaviour", plan.idle_seconds),
        ("all_seen", plan.until_seen or None),
        ("memory", plan.memory),
        ("case_seconds", plan.case_seconds),
        ("turn", plan.turn_seconds),
        ("reruns", plan.reruns),
    ):
        if value is not None:
            document.value(key, value)
    for job in plan.jobs:
        said = {
            "harness": job.reference,
            "engine": job.engine,
            "target": job.target,
            "weight": job.weight,
            "workers": job.workers,
        }
        document.item("job", {key: value for key, value in said.items() if value is not None})
    return document.text()


def _jobs(table: _Table, jobs: object, name: str, folder: Path) -> Iterator[Job]:
    if not isinstance(jobs, list) or not jobs or not all(isinstance(job, dict) for job in jobs):
        raise table.wrong("job", "is missing: write a [[job]] with a harness for each job")
    count = 0
    for number, job in enumerate(jobs, 1):
        for each in _variants(_Table(job, f"{name}, job {number}", _JOB_KEYS), folder):
            count += 1
            if count > MOST_JOBS:
                raise InputError(f"{name}: 'job' comes to more than {MOST_JOBS} jobs: drop some")
            yield each


def _variants(table: _Table, folder: Path) -> Iterator[Job]:
    """Yield the jobs that a table comes to: one for each kernel and engine."""
    names = f"one of {', '.join(harness_names())}, or the path of a Python file"
    harness = table.take("harness", _text, names, "")
    if not harness:
        raise table.wrong("harness", f"is missing: write {names}")
    try:
        file = _file(harness, folder)
    except InputError as error:
        raise table.wrong("harness", f"cannot be used: {error}") from error
    usual: tuple[EngineName, ...] = ("atheris",)
    engines = table.take(
        "engine", _engines, f"one of {', '.join(ENGINES)}, or a list of them", usual
    )
    none: tuple[str, ...] = ()
    kernels = table.take("kernels", _texts, 'a list such as ["6.1", "6.12"]', none)
    target = table.take("target", _text, "a name that nvmxfuzz targets lists", None)
    if kernels and target not in (None, "kvm", "kvm+rules", "kvm+bochs", "kvm-model"):
        raise table.wrong(
            "target", 'goes with kernels only as "kvm", "kvm+rules", "kvm+bochs" or "kvm-model"'
        )
    weight = table.take("weight", _whole(1, 1000), "a number from 1 to 1000", 1)
    workers = table.take(
        "workers", _whole(1, MOST_WORKERS), f"a number from 1 to {MOST_WORKERS}", None
    )
    targets: list[str | None] = [target]
    if kernels:
        targets = [_on_kernel(target or "kvm", kernel) for kernel in kernels]
    for place, engine in product(targets, engines):
        yield Job(file, engine, place, weight, workers)


def _on_kernel(target: str, kernel: str) -> str:
    """Return the name of a target on a kernel: kvm+bochs on 6.12 is kvm-6.12+bochs."""
    family, plus, below = target.partition("+")
    return f"{family}-{kernel}{plus}{below}"


def _file(harness: str, folder: Path) -> Path:
    if Path(harness).suffix != ".py":
        return harness_file(harness)
    here = folder / harness
    # What the store keeps is told from the checkout.
    return harness_file(str(here)) if here.is_file() else referenced_harness(harness)


def duration_of(value: object) -> float | None:
    """Return a duration in seconds, of a number of seconds or a text with a unit; None if not."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        found = _DURATION.fullmatch(value)
        if found is None:
            return None
        value = float(found[1]) * _SECONDS[found[2]]
    return float(value) if 0 < value < math.inf else None


def _size(value: object) -> int | None:
    if isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        value = int(found[1]) * _BYTES[found[2]]
    return _whole(_LEAST_MEMORY, 1 << 50)(value)


def _whole(least: int, most: int) -> Callable[[object], int | None]:
    def parse(value: object) -> int | None:
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        return value if least <= value <= most else None

    return parse


def _boolean(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value and "\0" not in value else None


def _texts(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not value or not all(map(_text, value)):
        return None
    return tuple(dict.fromkeys(value))


def _engines(value: object) -> tuple[EngineName, ...] | None:
    names = _texts([value] if isinstance(value, str) else value)
    if names is None or not set(names) <= set(ENGINES):
        return None
    return tuple(engine for engine in ENGINES if engine in names)
