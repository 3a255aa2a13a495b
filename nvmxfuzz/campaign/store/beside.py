# SPDX-License-Identifier: GPL-2.0-only
"""The two files beside a store that a running campaign keeps up to date: for scripts and plots.

Each is replaced as a whole, so that who reads it never sees half of one.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

from nvmxfuzz.campaign.store.standing import Standing
from nvmxfuzz.campaign.store.values import Sample
from nvmxfuzz.errors import InputError

COLUMNS = (
    "seconds",
    "executions",
    "executions_per_second",
    "corpus",
    "behaviours",
    "findings",
    "edges",
    "resident_bytes",
    "stability",
)


def stats_file(store: Path) -> Path:
    """Return the name of the file with the figures of now."""
    return store.with_name(f"{store.name}.stats.json")


def plot_file(store: Path) -> Path:
    """Return the name of the file with the time series."""
    return store.with_name(f"{store.name}.plot.csv")


def write_beside(store: Path, standing: Standing, samples: Sequence[Sample]) -> None:
    """Write both files anew; InputError if they cannot be."""
    _replace(stats_file(store), json.dumps(standing.to_json(), indent=1) + "\n")
    _replace(plot_file(store), plot_text(samples))


def plot_text(samples: Sequence[Sample]) -> str:
    """Return a time series as CSV, with the speed since the sample before."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    earlier = Sample(0.0, 0, 0, 0, 0)
    for sample in samples:
        seconds = sample.seconds - earlier.seconds
        rate = (sample.executions - earlier.executions) / seconds if seconds > 0 else 0.0
        writer.writerow(
            (
                *(round(sample.seconds, 1), sample.executions, round(rate, 1), sample.corpus),
                *(sample.behaviours, sample.findings, sample.edges, sample.rss),
                sample.stability,
            )
        )
        earlier = sample
    return text.getvalue()


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.new")
    try:
        draft.write_text(text, "utf-8")
        os.replace(draft, path)
    except OSError as error:
        raise InputError(
            f"{path}, where a campaign says how far it is, cannot be written ({error.strerror}): "
            "make room there, or name another store"
        ) from error
