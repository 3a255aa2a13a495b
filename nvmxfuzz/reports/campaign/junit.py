# SPDX-License-Identifier: GPL-2.0-only
"""The report as JUnit XML, which CI systems read: a suite for each harness and target.

A finding that is new is a test that fails, one that is not is a test that was skipped. Each suite
has one test more, which passes: that the harness was run. It fails where a campaign ended by an
error or was killed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree

from nvmxfuzz.campaign.store import StoredFinding
from nvmxfuzz.reports.campaign.content import LONGEST_CASE, FindingPage, Report, clipped

_BAD_STATES: Final = ("error", "killed")
_ILLEGAL: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML document may hold, not even escaped."""


def to_junit(report: Report) -> str:
    """Return the document."""
    root = ElementTree.Element("testsuites", {"name": "nvmxfuzz"})
    for place in dict.fromkeys([*_jobs(report), *_found(report)]):
        root.append(_suite(report, *place))
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    root.set("time", f"{report.standing.campaign.seconds:.3f}")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _jobs(report: Report) -> Iterator[tuple[str, str]]:
    return ((worker.harness, worker.target) for worker in report.standing.workers)


def _found(report: Report) -> Iterator[tuple[str, str]]:
    return ((each.harness, each.target) for page in report.pages for each in page.members)


def _suite(report: Report, harness: str, target: str) -> ElementTree.Element:
    name = clipped(f"nvmxfuzz.{harness}" + (f".{target}" if target else ""), 200)
    suite = ElementTree.Element("testsuite", {"name": _legal(name)})
    workers = [
        each for each in report.standing.workers if (each.harness, each.target) == (harness, target)
    ]
    seconds = sum(worker.seconds for worker in workers)
    suite.append(_run(report, name, seconds))
    suite.extend(
        _case(name, page, each)
        for page in report.pages
        for each in page.members
        if (each.harness, each.target) == (harness, target)
    )
    suite.set("tests", str(len(suite)))
    for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(key, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("time", f"{seconds:.3f}")
    return suite


def _run(report: Report, name: str, seconds: float) -> ElementTree.Element:
    """Return the test that the campaign came to its end."""
    about = {"classname": _legal(name), "name": "campaign", "time": f"{seconds:.3f}"}
    case = ElementTree.Element("testcase", about)
    state = report.standing.state
    if state in _BAD_STATES:
        message = f"campaign {report.standing.campaign.number} ended: {state}"
        ElementTree.SubElement(case, "error", {"message": message, "type": state})
    return case


def _case(name: str, page: FindingPage, found: StoredFinding) -> ElementTree.Element:
    about = {"classname": _legal(name), "name": _legal(clipped(found.identity, 200)), "time": "0"}
    case = ElementTree.Element("testcase", about)
    message = _legal(clipped(found.finding.message))
    if found.identity not in page.new:
        ElementTree.SubElement(case, "skipped", {"message": f"known before: {message}"})
        return case
    kind = _legal(clipped(found.finding.oracle, 200))
    failure = ElementTree.SubElement(case, "failure", {"message": message, "type": kind})
    flaky = page.group.mark(found)
    told = [message, flaky, clipped(found.text, LONGEST_CASE)]
    failure.text = _legal("\n\n".join(filter(None, told)))
    return case


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
