# SPDX-License-Identifier: GPL-2.0-only
"""Which checks of KVM have fired, and the lines that a corpus reaches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.plan import load_harness
from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.campaign.store.values import Provenance
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.reports.campaign import checks, coverage
from nvmxfuzz.targets.kvm_native.build.objects import usable
from nvmxfuzz.targets.kvm_native.line_coverage import FunctionLines, lines_reached

ROOT = Path(__file__).parents[2]
SESSIONS = ROOT / "corpus" / "seeds" / "session"
SOURCE = """
static int first(int a)
{
    if (CC(a > 1) || /* CC(no) */ CC(a < 0))
        return 1;
}
"""
VALID = 'base = "guest-64"\n'
REFUSED = 'base = "guest-64"\n[vmcs]\nhost_cr3 = 0x8000000000041000\n'
GCOV = next((kernel for kernel in ("6.12", "6.1") if not usable(kernel, "gcov")), None)


def test_checks_that_fired_and_those_that_never_did(monkeypatch: pytest.MonkeyPatch) -> None:
    def source(kernel: str) -> str:
        if kernel == "6.1":
            raise InputError("its source is gone")
        return SOURCE

    monkeypatch.setattr(checks, "built_kernels", lambda: ["6.1", "6.12"])
    monkeypatch.setattr(checks, "find_object", lambda kernel: kernel)
    monkeypatch.setattr(checks, "nested_source", source)
    fired = [("kvm-6.12+rules", "a < 0 in first"), ("kvm-6.1", "b in second"), ("bochs", "c in d")]
    told = checks.checks_of(("", "bochs", "kvm-6.12+rules", "kvm-6.1"), fired)
    assert told.kernels == ("6.1", "6.12")
    assert [(each.function, each.condition, each.line, each.kernels) for each in told.checks] == [
        ("first", "", 4, ("not there", "never")),
        ("first", "a < 0", 4, ("not there", "fired")),
        ("second", "b", None, ("fired", "not there")),
    ]
    assert (told.count("6.12", "fired"), told.count("6.12", "never")) == (1, 1)
    assert told.notes == (
        "The checks of Linux 6.1 that never fired are not known: its source is gone.",
    )


def test_a_kernel_that_nobody_ran_on_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "built_kernels", lambda: ["6.12"])
    assert checks.checks_of(("", "bochs"), ()).kernels == ()
    assert checks.checks_of(("a name of nobody's",), ()).kernels == ("other",)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    harness: Harness = load_harness(ROOT / "fuzz" / "vm_entry.py")
    path = tmp_path / "store.db"
    with open_store(path) as made:
        for text in (VALID, REFUSED):
            data = harness.encode(load_case(text.encode(), "case"))
            made.keep_input("vm_entry", "", data, Provenance("seed"))
        session = load_case((SESSIONS / "vmptrst.toml").read_bytes(), "session")
        data = load_harness(ROOT / "fuzz" / "session.py").encode(session)
        made.keep_input("session", "", data, Provenance("seed"))
        made.keep_input("<b>/../../x.py", "", b"\1", Provenance("seed"))
        made.keep_input("vm_entry", "a name of nobody's", b"\1", Provenance("seed"))
    return path


def test_the_corpus_is_what_is_counted(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Mapping[str, tuple[str, ...]]] = []

    def reached(
        kernel: str, cases: Mapping[str, tuple[str, ...]], seconds: float
    ) -> tuple[tuple[FunctionLines, ...], int]:
        assert (kernel, seconds) == ("6.12", coverage.SECONDS)
        ran.append(cases)
        return (FunctionLines("one", (1, 2), (4,)), FunctionLines("two", (), (9,))), 2

    class Object:
        version = "6.12.99"

    monkeypatch.setattr(coverage, "built_kernels", lambda: ["6.1", "6.12"])
    monkeypatch.setattr(coverage, "usable", lambda kernel, _: "" if kernel == "6.12" else "no")
    monkeypatch.setattr(coverage, "find_object", lambda *_: Object)
    monkeypatch.setattr(coverage, "lines_reached", reached)
    with open_store(store, create=False) as found:
        (told,), note = coverage.coverage_of(found)
    assert (told.version, told.inputs, told.reached, told.lines, note) == ("6.12.99", 2, 2, 4, "")
    assert {kind: len(texts) for kind, texts in ran[0].items()} == {"vm_entry": 2, "session": 1}
    assert "host_cr3 = 0x8000000000041000" in ran[0]["vm_entry"][1]
    assert 'harness = "session"' in ran[0]["session"][0]


def test_what_cannot_be_counted_is_said(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise InputError("there is no gcov")

    monkeypatch.setattr(coverage, "lines_reached", fails)
    monkeypatch.setattr(coverage, "usable", lambda *_: "")
    monkeypatch.setattr(coverage, "built_kernels", lambda: ["6.12"])
    with open_store(store, create=False) as found:
        assert coverage.coverage_of(found) == ((), "Linux 6.12: there is no gcov.")
        monkeypatch.setattr(coverage, "built_kernels", list)
        assert "build kvm --gcov" in coverage.coverage_of(found)[1]


@pytest.mark.skipif(GCOV is None, reason="no KVM is built with --gcov")
def test_lines_of_the_real_nested_c() -> None:
    assert GCOV is not None
    entered, count = lines_reached(GCOV, {"vm_entry": [VALID]}, 20.0)
    refused, _ = lines_reached(GCOV, {"vm_entry": [REFUSED], "session": []}, 20.0)
    session = (SESSIONS / "vmptrst.toml").read_text()
    played, count_played = lines_reached(GCOV, {"session": [session], "vm_entry": [VALID]}, 20.0)
    both = [{each.name: len(each.reached) for each in found} for found in (entered, refused)]
    assert (count, count_played) == (1, 2)
    reached = {each.name: len(each.reached) for each in played}
    assert reached["handle_vmptrst"] > both[0]["handle_vmptrst"] == 0
    assert reached["prepare_vmcs02"] >= both[0]["prepare_vmcs02"]
    assert all(found["nested_vmx_run"] > 5 for found in both)
    # What is refused before gets nowhere near vmcs02.
    assert both[0]["prepare_vmcs02"] > both[1]["prepare_vmcs02"]
    first = [min(each.reached + each.missed) for each in entered]
    assert first == sorted(first)
