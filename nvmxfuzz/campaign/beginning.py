# SPDX-License-Identifier: GPL-2.0-only
"""How a campaign begins: with its seeds, with what the store has, and with what a kill has left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from time import monotonic

from nvmxfuzz.campaign.corpus import Corpus, dialect_of
from nvmxfuzz.campaign.events import Seen
from nvmxfuzz.campaign.harness import WITNESS_ERRORS, Harness
from nvmxfuzz.campaign.plan import Job, Plan, corpus_files, load_harness, referenced_harness
from nvmxfuzz.campaign.recovery import Left, left_behind
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.campaign.store import Store
from nvmxfuzz.campaign.store.recorder import Recorder
from nvmxfuzz.campaign.store.values import Provenance, StoredCampaign
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.inputs.text import dump_text


@dataclass(frozen=True, slots=True)
class Team:
    """The jobs of a plan with their harnesses, for what a campaign needs of them itself."""

    plan: Plan
    harnesses: tuple[Harness, ...]

    def translate(self, data: bytes, one: Job, other: Job) -> bytes | None:
        """Return an input of one job as one of another, which may keep to other profiles."""
        harnesses = {dialect_of(job): each for job, each in self._pairs()}
        try:
            case = harnesses[dialect_of(one)].decode(data)
            return harnesses[dialect_of(other)].encode(case)
        except (*WITNESS_ERRORS, InputError):
            return None

    def begin(
        self,
        folder: Path,
        store: Store,
        recorder: Recorder,
        stop: Callable[[], bool],
        *,
        stored: bool,
    ) -> Corpus:
        """Make the corpus of the campaign: the seeds, and the inputs of the store if `stored`.

        Where no job is steered the seeds are left out: such a campaign is named by its seed alone.
        When `stop()` is true there is no use in more of it.
        """
        corpus = Corpus(folder, self.plan.jobs, self.translate)
        steered = any(job.engine == "atheris" for job in self.plan.jobs)
        done: set[object] = set()
        seeds = Seeds()
        for number, (job, harness) in enumerate(self._pairs()):
            if dialect_of(job) in done:
                continue
            done.add(dialect_of(job))
            if steered:
                with store.together():
                    for name, data in takewhile(lambda _: not stop(), seeds.of(harness)):
                        recorder.keep_seed(number, data, name)
                        corpus.add(job, data)
            if stored:
                kept = store.inputs(job.reference, job.target or "")
                corpus.fill(job, (each.data for each in kept))
        return corpus

    def _pairs(self) -> Iterator[tuple[Job, Harness]]:
        return zip(self.plan.jobs, self.harnesses, strict=True)


def team_of(plan: Plan) -> Team:
    """Load the harnesses of a plan; InputError for one that cannot be, or whose target cannot."""
    known: dict[object, Harness] = {}
    harnesses = []
    for job in plan.jobs:
        key = job.file, job.target, job.engine == "atheris"
        if key not in known:
            plain = load_harness(job.file)
            known[key] = with_target(plain, job.target, isolated=True, covered=key[2])
        harnesses.append(known[key])
    return Team(plan, tuple(harnesses))


class Seeds:
    """The seeds and vectors of the checkout, each read once."""

    def __init__(self) -> None:
        self._cases: dict[Path, Case] = {}

    def of(self, harness: Harness) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the input of each that is a case of a harness."""
        for path in corpus_files(harness.name):
            case = self._cases.get(path) or self._cases.setdefault(path, _case(path))
            if case.harness == harness.kind:
                yield path.name, harness.encode(case)


def _case(path: Path) -> Case:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the seed {path} cannot be read ({error.strerror}): make it readable, or remove it"
        ) from error
    return load_case(content, str(path))


def resumed_tally(
    store: Store, campaign: StoredCampaign, team: Team, clock: Callable[[], float] = monotonic
) -> Tally:
    """Return a tally that goes on where a campaign has ended, as far as the store knows."""
    tally = Tally(earlier=campaign.executions, before=campaign.seconds, clock=clock)
    sightings = store.sightings(campaign.number)
    for number, (job, harness) in enumerate(zip(team.plan.jobs, team.harnesses, strict=True)):
        totals = tally.job(number)
        index = {point: bit for bit, point in enumerate(harness.points)}
        masks = dict.fromkeys(("n/a", "held", "broken", "unknown"), 0)
        for each in store.behaviours(job.reference, job.target or ""):
            point, verdict = each.behaviour.point, each.behaviour.verdict
            if verdict == "fired":
                totals.conditions.add(point)
            elif verdict in masks and point in index:
                masks[verdict] |= 1 << index[point]
        totals.seen = Seen(masks["n/a"], masks["held"], masks["broken"], masks["unknown"])
        is_first = all(job.reference != other.reference for other in team.plan.jobs[:number])
        for (reference, identity), count in sightings.items():
            if is_first and reference == job.reference:
                totals.sightings[identity] = count
                tally.identities.add((number, identity))
    tally.job(0).known.update(store.known_seen(campaign.number))
    return tally


def take_over(folder: Path, store: Store, campaign: int) -> tuple[int, int]:
    """Put what a killed campaign has left into the store; return how many findings and inputs.

    Those count that the store did not have.
    """
    findings = inputs = 0
    for left in left_behind(folder):
        for event in left.found:
            text = _text(left, event.data, event.finding.message)
            findings += store.add_finding(
                *(campaign, left.harness, event.finding, event.data, text), target=left.target
            )
        origin = Provenance("engine", campaign=campaign, worker=left.worker)
        for data in left.inputs:
            inputs += store.keep_input(left.harness, left.target, data, origin)
    return findings, inputs


def _text(left: Left, data: bytes, message: str) -> str:
    """Return the case of an input as TOML, "" if it cannot be told."""
    try:
        plain = load_harness(referenced_harness(left.harness))
        harness = with_target(plain, left.target or None, isolated=True)
        return dump_text(replace(harness.decode(data), note=message))
    except (*WITNESS_ERRORS, InputError):
        return ""
