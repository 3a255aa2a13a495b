# SPDX-License-Identifier: GPL-2.0-only
"""Where a campaign stands, in the text format that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, TypeAlias

from nvmxfuzz.campaign.store.standing import Standing
from nvmxfuzz.campaign.store.values import StoredWorker

Labels: TypeAlias = Mapping[str, str]
Points: TypeAlias = Iterable[tuple[Labels, float | int]]

_PREFIX = "nvmxfuzz_"


def prometheus_text(standing: Standing) -> str:
    """Return the metrics of a campaign, each with its help and type."""
    return "".join(
        f"{line}\n" for part in (_of_campaign, _of_workers, _of_store) for line in part(standing)
    )


def _of_campaign(standing: Standing) -> Iterator[str]:
    campaign = standing.campaign
    own = {"campaign": str(campaign.number)}
    yield from _gauge("campaign_running", "1 if the campaign is running.", own, standing.running)
    yield from _gauge(
        "campaign_start_time_seconds", "When it began, since 1970.", own, campaign.started
    )
    yield from _gauge(
        "campaign_last_write_time_seconds", "When these figures are of.", own, campaign.updated
    )
    yield from _gauge("campaign_seconds", "How long the campaign has run.", own, campaign.seconds)
    yield from _gauge(
        "last_new_behaviour_seconds",
        "When a new behaviour was seen last, in seconds of the campaign.",
        *(own, standing.last_new),
    )
    yield from _gauge(
        "last_finding_seconds",
        "When a new finding was seen last, in seconds of the campaign.",
        *(own, standing.last_finding),
    )
    yield from _gauge("edges", "Edges of nested.c that were executed.", own, standing.edges)
    yield from _gauge("resident_memory_bytes", "Memory of all workers.", own, standing.resident)
    yield from _gauge(
        "stability_ratio", "Share of inputs that did the same again.", own, standing.stability
    )


def _of_workers(standing: Standing) -> Iterator[str]:
    def points(name: str) -> Points:
        return [(_labels(standing, each), getattr(each, name)) for each in standing.workers]

    yield from _metric("executions_total", "counter", "Inputs executed.", points("executions"))
    yield from _metric(
        "worker_starts_total", "counter", "Worker processes started.", points("starts")
    )
    yield from _metric(
        "worker_deaths_total", "counter", "Worker processes that died or hung.", points("deaths")
    )


def _labels(standing: Standing, worker: StoredWorker) -> Labels:
    return {
        "campaign": str(standing.campaign.number),
        "worker": str(worker.number),
        "job": str(worker.job),
        "harness": worker.harness,
        "target": worker.target,
        "engine": worker.engine,
    }


def _of_store(standing: Standing) -> Iterator[str]:
    yield from _metric(
        "corpus_inputs",
        "gauge",
        "Inputs in the corpus.",
        [
            ({"harness": harness, "target": target}, count)
            for (harness, target), count in standing.corpus.items()
        ],
    )
    yield from _metric(
        "behaviours",
        "gauge",
        "Behaviours seen.",
        [
            ({"harness": harness, "target": target, "verdict": verdict}, count)
            for (harness, target), counts in standing.behaviours.items()
            for verdict, count in counts.items()
        ],
    )
    yield from _metric(
        "findings",
        "gauge",
        "Findings in the store.",
        [({"oracle": oracle}, count) for oracle, count in standing.findings.items()],
    )
    yield from _gauge("flaky_findings", "Findings that some run did not show.", {}, standing.flaky)
    yield from _metric(
        "known_differences_total",
        "counter",
        "Known differences seen.",
        [
            ({"campaign": str(standing.campaign.number), "name": name}, count)
            for name, count in standing.known.items()
        ],
    )


def _gauge(name: str, sentence: str, labels: Labels, value: float | int | None) -> Iterator[str]:
    if value is not None:
        yield from _metric(name, "gauge", sentence, [(labels, value)])


def _metric(
    name: str, kind: Literal["gauge", "counter"], sentence: str, points: Points
) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {sentence}"
    yield f"# TYPE {_PREFIX}{name} {kind}"
    for labels, value in points:
        pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        number = int(value) if isinstance(value, bool) else value
        yield f"{_PREFIX}{name}{{{pairs}}} {number}" if pairs else f"{_PREFIX}{name} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
