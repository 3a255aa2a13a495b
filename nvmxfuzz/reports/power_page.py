# SPDX-License-Identifier: GPL-2.0-only
"""docs/power.md: what planted faults say of a campaign, made of the results of `bench faults`."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from nvmxfuzz.power.fault import Fault
from nvmxfuzz.power.hunt import WAITING
from nvmxfuzz.power.summary import summary_of
from nvmxfuzz.power.trials import Result
from nvmxfuzz.power.variant import DEFAULT, Variant
from nvmxfuzz.reports import power

GOAL: Final = 0.95
"""The share of its trials in which a fault is to be found: 19 of 20."""
MEDIAN_SECONDS: Final = 5.0

_HEAD: Final = """# Planted faults, and how soon they are found

<!-- generated: nvmxfuzz bench faults --results FILE --page docs/power.md -->

A harness that finds nothing may be looking at good code, or not be looking. So {faults} small
faults of the kinds that hypervisors have had are planted, one at a time: {python} in the model
of KVM and in the rules, {kernel} in the source of the real KVM when it is built
([how](#how-it-is-done)). A campaign's worker runs with each of them until the first *correct*
finding: one of the right oracle, whose identity names the right place. Any other counts as none.

The aim: each fault is found within 60 seconds on one core in 19 of 20 trials, and the median
over the faults is below {seconds:g} seconds. Seconds are those of a processor that the worker has
used from its first input on, so that what else the machine does is no part of them; a worker
takes one or two more to start.
"""

_TAIL: Final = """## How it is done

`nvmxfuzz/power/faults/*.toml` are the tables: each fault with its place, the harness and target
of the campaign, the oracles that may find it, and what the finding has to name. A fault of the
model or the rules is another piece of Python in one function, put there when the worker imports
the module (`power/change.py`). A fault of the real KVM is a description (in function F, the
condition that mentions N, becomes C) which is applied to the copy of the source that is
compiled; all faults of a kernel are in one object, and an environment variable chooses one
(`targets/kvm_native/build/planting.py`). Tests fail when a fault has lost its place, or an
oracle has no fault.

`variants.toml` says what the engines are, and what is switched off in each; that is done in the
worker in the same way.

    nvmxfuzz bench faults --list
    nvmxfuzz bench faults --engine all --every 16 --trials 2 --time 10 --results FILE
    nvmxfuzz bench faults --trials 20 --time 60 --results FILE --page docs/power.md
    ci/run power

Engines are compared on every 16th fault, and in trials of 10 seconds: a fault that is not found
costs all of its time, and the base lines find few. An idea says nothing of a fault whose harness
has no use for it: states are repaired for VM entries alone.

Results are kept line by line, each with the revision of the code: a measurement that was ended goes
on with the same command, another day too, and says how long it will yet take. All trials of the
default engine take two to four hours of one core. A trial ends by the clock only where it takes
{waiting} times its seconds.
"""


def page(
    results: Sequence[Result], faults: Sequence[Fault], variants: Sequence[Variant], load: str
) -> str:
    """Return the page in Markdown. `load` says what else the machine was doing."""
    known = {fault.name for fault in faults}
    results = [each for each in results if each.fault in known]
    default = _longest([each for each in results if each.variant == DEFAULT])
    kernel = sum(fault.is_in_kernel for fault in faults)
    head = _HEAD.format(
        faults=len(faults), python=len(faults) - kernel, kernel=kernel, seconds=MEDIAN_SECONDS
    )
    parts = [
        head,
        f"Measured on {machine()}{load and ', ' + load}; a trial had {_limit(default)} seconds. "
        f"{_revisions(results)}\n",
        _totals(default, faults),
        "## Engines, and ideas switched off\n",
        _comparison(results, variants),
        f"## Each fault\n\n{power.table_of_faults(default, faults, DEFAULT)}\n",
        _missed(default),
        _TAIL.format(waiting=WAITING),
    ]
    return "\n".join(parts)


def machine() -> str:
    """Return the processor and what runs on it, without a name of its own."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.machine()
    return f"{len(models) or 1} processors of {name}, Python {platform.python_version()}"


def _revisions(results: Iterable[Result]) -> str:
    """Return of which states of the code the results are, with the number of trials of each."""
    counts = Counter(each.revision for each in results)
    told = ", ".join(f"{name} ({count})" for name, count in counts.items())
    return f"Revisions, and trials of each: {told or 'none'}."


def _by_fault(results: Iterable[Result]) -> Mapping[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for each in results:
        groups.setdefault(each.fault, []).append(each)
    return groups


def _totals(results: Sequence[Result], faults: Sequence[Fault]) -> str:
    groups = _by_fault(results)
    if not groups:
        return "The default engine has not been measured.\n"
    summaries = {name: summary_of(group) for name, group in groups.items()}
    good = sum(each.found >= GOAL * each.trials for each in summaries.values())
    middle = median(each.seconds for each in summaries.values())
    trials = sorted({each.trials for each in summaries.values()})
    each_one = f"{trials[0]} to {trials[-1]}" if len(trials) > 1 else f"{trials[0]}"
    told = "no end" if math.isinf(middle) else f"{middle:.1f} s"
    any_trial = sum(each.found > 0 for each in summaries.values())
    return (
        f"{len(groups)} of {len(faults)} faults were looked for, {each_one} trial(s) each: {good} "
        f"were found in 95 % of their trials, {any_trial} at all. "
        f"The median of their medians is {told}; of all {len(results)} trials "
        f"{sum(each.trial.found for each in results)} found their fault.\n"
    )


def _comparison(results: Sequence[Result], variants: Sequence[Variant]) -> str:
    """Return a table over the trials that each variant has made, so that they can be compared."""
    made: dict[str, set[tuple[str, int, float]]] = {}
    for each in results:
        made.setdefault(each.variant, set()).add(_trial(each))
    common = set.intersection(*made.values()) if made else set()
    if len(made) < 2 or not common:
        return "Only one engine has been measured, or each on other faults.\n"
    compared = [each for each in results if _trial(each) in common]
    faults = len({each.fault for each in compared})
    limits = " or ".join(f"{limit:g}" for limit in sorted({limit for _, _, limit in common}))
    return (
        f"The same {len(common)} trials of {faults} faults with each, of {limits} seconds. Where "
        "fewer than half (nine of ten) were found, the median (90th percentile) is `never`.\n\n"
        f"{power.table_of_variants(compared, variants)}\n"
    )


def _trial(result: Result) -> tuple[str, int, float]:
    return result.fault, result.seed, result.seconds_allowed


def _longest(results: Sequence[Result]) -> list[Result]:
    """Return the trials that had the most time: the others are made to compare engines."""
    most = max((each.seconds_allowed for each in results), default=0.0)
    return [each for each in results if each.seconds_allowed == most]


def _limit(results: Sequence[Result]) -> str:
    return f"{results[0].seconds_allowed:g}" if results else "no"


def _missed(results: Sequence[Result]) -> str:
    lines = [f"- {line}" for line in power.not_found(results)]
    said = "\n".join(lines) if lines else "Every trial has found its fault."
    return f"## Not found\n\n{said}\n"
