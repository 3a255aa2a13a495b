# SPDX-License-Identifier: GPL-2.0-only
"""Time series as plots: the numbers that the template makes SVG of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from nvmxfuzz.campaign.store.values import Sample

WIDTH: Final = 360
HEIGHT: Final = 170
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 8, 24
MOST_LINES: Final = 6
_MOST_POINTS: Final = 300
_MIB: Final = 1 << 20
_LARGEST: Final = 1e15
"""What is beyond is no count of a campaign; it is drawn as this."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """One series as an SVG path; `name` is "" where it is the only one."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot of `WIDTH` by `HEIGHT`, and what it shows in words."""

    title: str
    words: str
    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


def plots_of(samples: Sequence[Sample], workers: Mapping[int, Sequence[Sample]]) -> Iterator[Plot]:
    """Yield the plots of a campaign and its workers; none where there are too few samples."""
    whole = (
        ("Executions a second", _rates(samples)),
        ("Behaviours seen", [(each.seconds, each.behaviours) for each in samples]),
        ("Inputs kept", [(each.seconds, each.corpus) for each in samples]),
        ("Different findings", [(each.seconds, each.findings) for each in samples]),
        ("Edges of nested.c seen", _given((each.seconds, each.edges) for each in samples)),
        ("Memory of the workers, MiB", _given((s.seconds, _mib(s.rss)) for s in samples)),
    )
    for title, points in whole:
        if len(points) > 1:
            yield _plot(title, {"": points})
    rates = {f"worker {number}": _rates(each) for number, each in workers.items()}
    drawn = {name: points for name, points in rates.items() if len(points) > 1}
    if len(drawn) > 1:
        left_out = len(drawn) - MOST_LINES
        rest = f" (the first {MOST_LINES})" if left_out > 0 else ""
        chosen = dict(list(drawn.items())[:MOST_LINES])
        yield _plot(f"Executions a second by worker{rest}", chosen)


def quantity(value: float) -> str:
    """Return a number in four characters or so: 950, 1.2k, 34M."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def _given(points: Iterable[tuple[float, float | None]]) -> list[tuple[float, float]]:
    return [(at, value) for at, value in points if value is not None]


def _mib(size: int | None) -> float | None:
    return None if size is None else size / _MIB


def _rates(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Return the speed between each two samples, at the later one."""
    return [
        (later.seconds, (later.executions - one.executions) / (later.seconds - one.seconds))
        for one, later in pairwise(samples)
        if later.seconds > one.seconds and later.executions >= one.executions
    ]


def _plot(title: str, series: Mapping[str, Points]) -> Plot:
    drawn = {name: _sound(_thinned(points)) for name, points in series.items()}
    everything = [point for points in drawn.values() for point in points]
    first, end = min(at for at, _ in everything), max(at for at, _ in everything)
    top = _nice(max(value for _, value in everything))
    last = [points[-1][1] for points in drawn.values()]
    most = quantity(max(value for _, value in everything))
    words = f"up to {most}, in the end {', '.join(map(quantity, last))}"
    span = end - first or 1.0

    def place(at: float, value: float) -> str:
        return f"{_across((at - first) / span):.1f} {_up(value / top):.1f}"

    lines = tuple(
        Line(name, "M" + "L".join(place(*point) for point in points))
        for name, points in drawn.items()
    )
    across = tuple(Tick(_across(part), _time(first + part * span)) for part in (0, 0.5, 1))
    up = tuple(Tick(_up(part), quantity(part * top)) for part in (0, 0.5, 1))
    return Plot(title, words, lines, across, up)


def _thinned(points: Points) -> Points:
    step = math.ceil(len(points) / _MOST_POINTS)
    return [*points[:-1:step], points[-1]]


def _sound(points: Points) -> Points:
    """Return points that can be drawn, whatever is in the store."""

    def bounded(value: float) -> float:
        return min(max(value, 0.0), _LARGEST) if math.isfinite(value) else 0.0

    return [(bounded(at), bounded(value)) for at, value in points]


def _nice(most: float) -> float:
    """Return the end of an axis: 1, 2 or 5 times a power of ten."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= most * 0.999)


def _across(part: float) -> float:
    return LEFT + part * (WIDTH - LEFT - RIGHT)


def _up(part: float) -> float:
    return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)


def _time(seconds: float) -> str:
    for limit, letter in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * limit:
            return f"{seconds / limit:.3g} {letter}"
    return f"{seconds:.3g} s"
