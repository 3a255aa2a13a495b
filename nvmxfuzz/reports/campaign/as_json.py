# SPDX-License-Identifier: GPL-2.0-only
"""The report as a program reads it."""

from __future__ import annotations

from nvmxfuzz.reports import reproduction
from nvmxfuzz.reports.campaign.content import FindingPage, Matrix, Report

FORMAT = 1
"""It is raised when a key goes away or means something else."""


def to_json(report: Report) -> dict[str, object]:
    """Return one object; docs/json-replies.md says what is in it."""
    return {
        "format": FORMAT,
        "status": report.standing.to_json(),
        "new_since": report.since,
        "new_findings": report.new,
        "groups": [_group(page) for page in report.pages],
        "seen": [_matrix(matrix) for matrix in report.matrices],
        "kvm_checks": [
            {
                "function": check.function,
                "names": list(check.names),
                "line": check.line,
                "kernels": dict(zip(report.checks.kernels, check.kernels, strict=True)),
            }
            for check in report.checks.checks
        ],
        "coverage": [
            {
                "kernel": each.version,
                "inputs": each.inputs,
                "functions": {
                    function.name: {
                        "reached": list(function.reached),
                        "missed": list(function.missed),
                    }
                    for function in each.functions
                },
            }
            for each in report.coverage
        ],
        "environment": dict(report.environment),
    }


def _group(page: FindingPage) -> dict[str, object]:
    return {
        **page.group.to_json(),
        "new": sorted(page.new),
        "page": None if page.told is None else reproduction.to_json(page.told),
    }


def _matrix(matrix: Matrix) -> dict[str, object]:
    return {
        "places": list(matrix.places),
        "points": {
            point.name: [sorted(verdicts) for verdicts in point.seen] for point in matrix.points
        },
    }
