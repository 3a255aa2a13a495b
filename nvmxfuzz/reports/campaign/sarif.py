# SPDX-License-Identifier: GPL-2.0-only
"""The report as SARIF 2.1.0, which code scanning services read: a result for each finding.

A rule of SARIF is an oracle. A result stands where the finding says that KVM was, in the kernel's
tree, and else at the harness that found it; its fingerprint is the identity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from nvmxfuzz import __version__
from nvmxfuzz.campaign.store import StoredFinding
from nvmxfuzz.reports.campaign.content import FindingPage, Report, clipped

_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
_IN_KVM: Final = re.compile(r"\b((?:vmx/|mmu/)?[a-z][a-z0-9_]*\.[ch]):(\d{1,7})\b")
_KVM: Final = "arch/x86/kvm/"
_STATES: Final[Mapping[str, str]] = {
    "error": "ended by an error",
    "killed": "killed",
}


def to_sarif(report: Report) -> str:
    """Return the log, with one run."""
    found = [(page, each) for page in report.pages for each in page.members]
    oracles = sorted({each.finding.oracle for _, each in found})
    index = {oracle: place for place, oracle in enumerate(oracles)}
    campaign, state = report.standing.campaign, report.standing.state
    run = {
        "tool": {"driver": _driver(report, oracles)},
        "automationDetails": {"id": f"nvmxfuzz/campaign-{campaign.number}"},
        "invocations": [
            {
                "executionSuccessful": state not in _STATES,
                **({"exitCodeDescription": _STATES[state]} if state in _STATES else {}),
            }
        ],
        "columnKind": "utf16CodeUnits",
        "results": [_result(page, each, index) for page, each in found],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _driver(report: Report, oracles: list[str]) -> dict[str, object]:
    promises = {
        page.told.finding.oracle: page.told.promise
        for page in report.pages
        if page.told is not None and page.told.finding is not None
    }
    return {
        "name": "nvmxfuzz",
        "version": __version__,
        "semanticVersion": __version__,
        "rules": [
            {
                "id": clipped(oracle, 200),
                "shortDescription": {"text": clipped(promises.get(oracle) or oracle)},
                "defaultConfiguration": {"level": "error"},
            }
            for oracle in oracles
        ],
    }


def _result(page: FindingPage, found: StoredFinding, index: Mapping[str, int]) -> dict[str, object]:
    finding = found.finding
    return {
        "ruleId": clipped(finding.oracle, 200),
        "ruleIndex": index[finding.oracle],
        # One that does not always show is worth a look, and may be the machine's.
        "level": "warning" if found.flaky else "error",
        "kind": "fail",
        "message": {"text": clipped(finding.message) or clipped(finding.oracle, 200)},
        "locations": [_location(found)],
        "partialFingerprints": {
            "nvmxfuzzFinding/v1": clipped(found.identity, 200),
            "nvmxfuzzGroup/v1": clipped(page.group.name, 200),
        },
        "baselineState": "new" if found.identity in page.new else "unchanged",
        "occurrenceCount": max(1, min(found.count, (1 << 31) - 1)),
        "properties": {
            "harness": clipped(found.harness, 200),
            "targets": [clipped(each, 200) for each in finding.targets],
            "rules": [clipped(each, 200) for each in finding.rules[:20]],
            "standing": page.group.standing,
        },
    }


def _location(found: StoredFinding) -> dict[str, object]:
    place = _IN_KVM.search(found.finding.site[:1000])
    if place is not None:
        uri, line = _KVM + place[1], max(1, int(place[2]))
    else:
        # Code scanning shows no result without a line.
        uri, line = _harness_uri(found.harness), 1
    physical = {"artifactLocation": {"uri": uri}, "region": {"startLine": line}}
    site = clipped(found.finding.site, 200)
    logical = {"logicalLocations": [{"fullyQualifiedName": site}]} if site else {}
    return {"physicalLocation": physical, **logical}


def _harness_uri(reference: str) -> str:
    """Return the file of a harness, as `plan.referenced_harness` finds it, from the checkout."""
    path = reference if reference.endswith(".py") else f"fuzz/{reference}.py"
    uri = quote(clipped(path, 300))
    return f"file://{uri}" if path.startswith("/") else uri
