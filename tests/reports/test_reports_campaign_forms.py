# SPDX-License-Identifier: GPL-2.0-only
"""The report as JUnit XML, SARIF and JSON, and its plots."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest

from nvmxfuzz.campaign.store.values import Sample
from nvmxfuzz.reports.campaign.as_json import to_json
from nvmxfuzz.reports.campaign.content import Report
from nvmxfuzz.reports.campaign.junit import to_junit
from nvmxfuzz.reports.campaign.plots import HEIGHT, WIDTH, plots_of, quantity
from nvmxfuzz.reports.campaign.sarif import to_sarif

LEVELS = {"none", "note", "warning", "error"}
TIMES = (0.0, 1.0, 1.0, 2.0, -5.0, inf, 3.0)
BASELINES = {"new", "unchanged", "updated", "absent"}


def sarif_faults(log: Any) -> list[str]:  # noqa: ANN401 - any JSON
    """Return what SARIF 2.1.0 (and GitHub, which wants a place) would object to."""
    faults = []
    if log.get("version") != "2.1.0" or not log.get("$schema", "").startswith("https://"):
        faults.append("version")
    if not isinstance(log.get("runs"), list):
        faults.append("runs")
    for run in log.get("runs", []):
        driver = run["tool"]["driver"]
        if not driver.get("name"):
            faults.append("driver")
        ids = [rule["id"] for rule in driver["rules"]]
        if len(set(ids)) != len(ids):
            faults.append("rules are to be unique")
        if any(not rule["shortDescription"]["text"] for rule in driver["rules"]):
            faults.append("description")
        if any(type(each["executionSuccessful"]) is not bool for each in run["invocations"]):
            faults.append("executionSuccessful")
        for result in run["results"]:
            faults += _result_faults(result, ids)
    return faults


def _result_faults(result: Any, ids: list[str]) -> list[str]:  # noqa: ANN401 - any JSON
    faults = []
    if ids[result["ruleIndex"]] != result["ruleId"]:
        faults.append("ruleIndex")
    if result["level"] not in LEVELS or result["baselineState"] not in BASELINES:
        faults.append("level")
    if not result["message"]["text"]:
        faults.append("message")
    if not all(isinstance(text, str) for text in result["partialFingerprints"].values()):
        faults.append("partialFingerprints")
    if not result["locations"]:
        faults.append("locations")
    for location in result["locations"]:
        physical = location["physicalLocation"]
        uri = urlsplit(physical["artifactLocation"]["uri"])
        if uri.scheme not in ("", "file") or not uri.path or set(uri.path) & set(' <>"\\'):
            faults.append("uri")
        if physical["region"]["startLine"] < 1:
            faults.append("startLine")
    return faults


def test_sarif_has_a_result_for_each_finding(report: Report) -> None:
    log = json.loads(to_sarif(report))
    assert sarif_faults(log) == []
    (run,) = log["runs"]
    by_rule = {result["ruleId"]: result for result in run["results"]}
    warned, dry = by_rule["kvm.survives"], by_rule["entry.dry-run"]
    place = warned["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "arch/x86/kvm/vmx/nested.c"
    assert place["region"] == {"startLine": 1234}
    assert (warned["level"], warned["baselineState"]) == ("warning", "new")
    assert (dry["level"], dry["baselineState"]) == ("error", "unchanged")
    assert dry["partialFingerprints"]["nvmxfuzzFinding/v1"] == "entry.dry-run-c72d20b58ae4"
    assert run["invocations"][0]["executionSuccessful"] is False
    assert len(run["results"]) == 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda log: log.update(version="2.0"),
        lambda log: log["runs"][0]["results"][0].update(ruleIndex=1),
        lambda log: log["runs"][0]["results"][0].update(locations=[]),
        lambda log: log["runs"][0]["results"][0].update(level="bad"),
        lambda log: log["runs"][0]["results"][0]["message"].update(text=""),
    ],
)
def test_the_rules_of_sarif_are_looked_at(report: Report, spoil: Any) -> None:  # noqa: ANN401
    log = json.loads(to_sarif(report))
    spoil(log)
    assert len(sarif_faults(log)) == 1


def test_junit_fails_for_new_findings_alone(report: Report) -> None:
    from tests.reports.campaign_store import WARNED

    root = ElementTree.fromstring(to_junit(report))
    assert root.tag == "testsuites"
    suites = {suite.get("name", "")[:30]: suite for suite in root}
    for suite in root:
        assert suite.tag == "testsuite"
        cases = suite.findall("testcase")
        assert suite.get("tests") == str(len(cases)) == str(len(suite))
        assert all(case.get("name") and case.get("classname") for case in cases)
        for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert suite.get(key) == str(len(suite.findall(f"testcase/{tag}")))
    (failure,) = root.findall("testsuite/testcase/failure")
    assert (failure.get("message"), failure.get("type")) == ("KVM warned", "kvm.survives")
    assert failure.text is not None
    assert "flaky: 2 of 5 runs show it" in failure.text
    assert "host_cr3 = 0x8000000000041000" in failure.text
    entry = suites["nvmxfuzz.vm_entry.kvm-6.12"]
    assert [case.get("name") for case in entry] == ["campaign", WARNED.identity]
    assert entry.findall("testcase/error")[0].get("type") == "killed"
    assert (root.get("failures"), root.get("skipped")) == ("1", "2")


def test_without_findings_junit_has_a_test_that_passes(report: Report) -> None:
    campaign = replace(report.standing.campaign, state="time")
    calm = replace(report, pages=(), standing=replace(report.standing, campaign=campaign))
    root = ElementTree.fromstring(to_junit(calm))
    (case,) = root.iter("testcase")
    assert (case.get("name"), len(case)) == ("campaign", 0)
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("1", "0", "0")


def test_json_is_json(report: Report) -> None:
    said: Any = json.loads(json.dumps(to_json(report)))
    assert (said["new_since"], said["new_findings"]) == (1, 1)
    assert [len(group["new"]) for group in said["groups"]] == [1, 0, 0]
    pages = [group["page"] for group in said["groups"]]
    assert [page and page["state"] for page in pages].count("still there") == 1
    assert said["coverage"][0]["functions"]["two"] == {"reached": [], "missed": [9, 10]}


def test_plots_stay_within_their_bounds() -> None:
    wild = [Sample(at, number, 5, 1 << 62, 0) for number, at in enumerate(TIMES)]
    plots = list(plots_of(wild, {}))
    assert [plot.title for plot in plots][:2] == ["Executions a second", "Behaviours seen"]
    for plot in plots:
        for line in plot.lines:
            points = [each.split() for each in line.path.lstrip("M").split("L")]
            assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in points)


def test_plots_are_thinned_and_few() -> None:
    many = [Sample(float(at), at * 7, at, at, 0) for at in range(2000)]
    plots = list(plots_of(many, dict.fromkeys(range(20), many)))
    assert all(line.path.count("L") <= 300 for plot in plots for line in plot.lines)
    assert len(plots[-1].lines) == 6
    assert "the first 6" in plots[-1].title
    assert list(plots_of(many[:1], {})) == []


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (950, "950"), (1234, "1.23k"), (5e6, "5M"), (1e15, "1e+03T")]
)
def test_quantities(value: float, text: str) -> None:
    assert quantity(value) == text
