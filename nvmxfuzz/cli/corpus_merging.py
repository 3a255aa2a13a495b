# SPDX-License-Identifier: GPL-2.0-only
"""Merging and pruning: which inputs of a corpus are kept, by what each of them does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from nvmxfuzz.campaign.cover import Member, cover
from nvmxfuzz.campaign.measure import Measure, NotMeasuredError
from nvmxfuzz.campaign.store import Store, open_store
from nvmxfuzz.campaign.store.values import Provenance
from nvmxfuzz.cli.corpus_files import folder_of, write_case
from nvmxfuzz.cli.corpus_sources import Bad, Found, Harnesses, Sources
from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.progress import Progress

MOST_BYTES: Final = 1 << 30
"""What the inputs that are merged may come to: they are in memory."""

_MOST_TOLD: Final = 100
"""Inputs that are named because they cannot be measured."""


@dataclass(slots=True)
class Merged:
    """What became of the corpus of a harness on a target.

    `inputs` were looked at, `chosen` of them were taken; `before` is what was there already, and
    `behaviours` what all that is there now shows.
    """

    harness: str
    target: str
    inputs: int = 0
    chosen: int = 0
    behaviours: int = 0
    before: int = 0
    bad: list[str] = field(default_factory=list)

    def to_json(self, verb: str) -> dict[str, object]:
        """Return the form that --json prints."""
        return {
            "harness": self.harness,
            "target": self.target,
            "inputs": self.inputs,
            verb: self.chosen,
            "behaviours": self.behaviours,
        }

    def to_text(self, verb: str) -> str:
        """Return the line for a person."""
        place = f" on {self.target}" if self.target else ""
        beside = f" beside {self.before:,}" if verb == "added" else ""
        return (
            f"{self.harness}{place}: {self.chosen:,} of {self.inputs:,} inputs {verb}{beside}, "
            f"{self.behaviours:,} behaviours"
        )

    def complain(self, reason: str) -> None:
        """Note what is wrong with an input, or with all of them."""
        if len(self.bad) < _MOST_TOLD:
            self.bad.append(reason)


def pruned(
    store: Store, harnesses: Harnesses, target: str | None, progress: Progress, *, dry_run: bool
) -> list[Merged]:
    """Drop from a store what shows nothing of its own; one transaction for each harness."""
    groups: list[Merged] = []
    for (harness, on), count in store.count_inputs().items():
        if harnesses.wants(harness) and target in (None, on):
            progress.stage(f"measuring {harness} {on}".strip(), count)
            groups.append(group := Merged(harness, on))
            try:
                measure = Measure(harnesses.get(harness, on), on)
            except InputError as error:
                group.complain(str(error))
                continue
            with measure:
                _prune(store, group, measure, progress, dry_run=dry_run)
    return groups


def _prune(
    store: Store, group: Merged, measure: Measure, progress: Progress, *, dry_run: bool
) -> None:
    members: list[Member] = []
    numbers: list[int] = []
    for each in store.inputs(group.harness, group.target):
        group.inputs += 1
        progress.advance()
        try:
            behaviours = measure.of(each.data)
        except NotMeasuredError as error:
            # What it shows is not known, so that it stays.
            group.complain(f"input {each.number} {error}")
            group.chosen += 1
            continue
        members.append(Member(len(each.data), sha256(each.data).digest(), behaviours))
        numbers.append(each.number)
    kept = set(cover(members))
    group.chosen += len(kept)
    group.behaviours = _union(members).bit_count()
    if dry_run:
        return
    with store.together():
        store.drop_inputs(number for place, number in enumerate(numbers) if place not in kept)
        for place in sorted(kept):
            named = measure.named(members[place].behaviours)
            store.credit(numbers[place], group.harness, group.target, named)


def merged(
    dest: Path, found: Iterable[Found], harnesses: Harnesses, progress: Progress
) -> list[Merged]:
    """Bring into a store or a folder what adds to the behaviours that are there."""
    progress.stage("reading", 1)
    groups: dict[tuple[str, str], dict[bytes, Found]] = {}
    size = 0
    for each in found:
        if not harnesses.wants(each.harness):
            continue
        digest = sha256(each.data).digest()
        group = groups.setdefault((each.harness, each.target), {})
        if digest not in group:
            group[digest] = each
            size += len(each.data)
        if size > MOST_BYTES:
            raise InputError(
                f"there are more than {MOST_BYTES >> 30} GiB of inputs: merge fewer at a time"
            )
    with _Folder(dest, harnesses) if dest.is_dir() else _InStore(dest) as place:
        return [
            _merge(place, Merged(*key), inputs, harnesses, progress)
            for key, inputs in sorted(groups.items())
        ]


def _merge(
    place: _Folder | _InStore,
    group: Merged,
    inputs: dict[bytes, Found],
    harnesses: Harnesses,
    progress: Progress,
) -> Merged:
    try:
        measure = Measure(harnesses.get(group.harness, group.target), group.target)
    except InputError as error:
        group.complain(str(error))
        return group
    with measure:
        progress.stage(f"measuring what is there of {group.harness} {group.target}".strip(), 1)
        covered = _measured(group, place.inputs(group.harness, group.target), measure)
        progress.stage(f"measuring {group.harness} {group.target}".strip(), len(inputs))
        members: list[Member] = []
        for digest, each in sorted(inputs.items()):
            group.inputs += 1
            progress.advance()
            try:
                members.append(Member(len(each.data), digest, measure.of(each.data)))
            except NotMeasuredError as error:
                group.complain(f"{each.name or 'an input'} {error}")
        kept = [members[number] for number in cover(members, covered)]
        group.chosen = len(kept)
        group.behaviours = (covered | _union(kept)).bit_count()
        place.add([(inputs[each.digest], each.behaviours) for each in kept], measure)
    return group


def _measured(group: Merged, inputs: Iterable[Found | Bad], measure: Measure) -> int:
    """Return what the inputs do that are there already."""
    covered = 0
    for each in inputs:
        if isinstance(each, Bad):
            group.complain(each.reason)
            continue
        group.before += 1
        try:
            covered |= measure.of(each.data)
        except NotMeasuredError as error:
            group.complain(f"{each.name} {error}")
    return covered


class _InStore:
    """A store that is merged into."""

    def __init__(self, path: Path) -> None:
        self._store = open_store(path)
        self._store.claim()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()

    def inputs(self, harness: str, target: str) -> Iterator[Found | Bad]:
        """Yield what is there."""
        for each in self._store.inputs(harness, target):
            yield Found(f"input {each.number}", harness, target, each.data)

    def add(self, kept: list[tuple[Found, int]], measure: Measure) -> None:
        """Write what was chosen, in one transaction."""
        with self._store.together():
            for each, behaviours in kept:
                self._store.keep_input(
                    *(each.harness, each.target, each.data, Provenance("import", each.name)),
                    measure.named(behaviours),
                )


class _Folder:
    """A folder of TOML cases that is merged into."""

    def __init__(self, path: Path, harnesses: Harnesses) -> None:
        self._path = path
        self._harnesses = harnesses

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def inputs(self, harness: str, target: str) -> Iterator[Found | Bad]:
        """Yield what is there, as inputs for that target, and what is none."""
        folder = folder_of(self._path, harness)
        if not folder.is_dir():
            return
        for found in Sources(self._harnesses, target).read(folder):
            if isinstance(found, Bad) or found.harness == harness:
                yield found

    def add(self, kept: list[tuple[Found, int]], _measure: Measure) -> None:
        """Write what was chosen."""
        for each, _ in kept:
            write_case(folder_of(self._path, each.harness), self._harnesses.text(each))


def _union(members: Iterable[Member]) -> int:
    found = 0
    for each in members:
        found |= each.behaviours
    return found
