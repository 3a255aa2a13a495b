# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz export`: of a file and of a store, in each form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nvmxfuzz.campaign.store import Store, StoredFinding, open_store
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.oracles.finding import Finding

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "corpus" / "vectors"
CASE = VECTORS / "guest-rip-rflags" / "guest.rflags.reserved" / "broken.toml"
FINDING = Finding("entry.no-missed-check", ("guest.rflags.reserved",), ("cpu", "kvm-6.12"), "", "?")


@pytest.fixture
def in_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Return what makes a store whose one finding has that case."""
    path = tmp_path / "fuzz.db"
    open_store(path).close()

    def make(text: str) -> Path:
        stored = StoredFinding("vm_entry", FINDING, b"", text, None, None, 1)
        monkeypatch.setattr(Store, "findings_named", lambda *_: (stored,))
        return path

    return make


def test_the_forms_of_a_case(run: Run) -> None:
    for form, text in (
        ("selftest", "vmwrite(GUEST_RFLAGS, 0xaull);"),
        ("kvm-unit-test", "vmcs_write(0x6820, 0xaull);"),
        ("toml", "guest_rflags = 0x000000000000000a"),
        ("pytest", "def test_broken("),
    ):
        status, out, err = run("export", CASE, "--as", form)
        assert (status, err) == (0, "")
        assert text in out
    status, out, _ = run("export", CASE, "--as", "json")
    assert json.loads(out)["vmcs"]["0x6820"] == "0xa"


def test_a_finding_of_a_store_keeps_its_name_and_target(
    run: Run, in_store: Callable[[str], Path]
) -> None:
    store = in_store(CASE.read_text())
    _, c, _ = run("export", FINDING.identity, "--store", store, "--as", "selftest")
    assert f" * {FINDING.identity}\n" in c
    _, test, _ = run("export", FINDING.identity, "--store", store, "--as", "pytest")
    assert '"--target", "kvm-6.12"' in test
    assert "[finding]" not in test
    _, toml, _ = run("export", FINDING.identity, "--store", store, "--as", "toml")
    assert 'oracle = "entry.no-missed-check"' in toml
    assert 'target = "kvm-6.12"' in toml


def test_a_finding_without_a_case_is_a_sentence(run: Run, in_store: Callable[[str], Path]) -> None:
    status, _, err = run("export", "x", "--store", in_store(""), "--as", "toml")
    assert status == 2
    assert "no input was saved" in err


def test_the_export_can_go_into_a_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "case.toml"
    assert run("export", CASE, "--as", "toml", "--output", path) == (0, "", "")
    case = load_case(path.read_bytes(), str(path))
    assert isinstance(case, EntryCase)
    assert case == load_case(CASE.read_bytes(), "case")


def test_other_cases_have_no_form_in_c(run: Run) -> None:
    session = next((VECTORS / "session").glob("*/*.toml"))
    status, _, err = run("export", session, "--as", "selftest")
    assert status == 2
    assert "it is a session, and no VM entry" in err
    assert run("export", session, "--as", "pytest")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nothing", "--store", "absent.db"), "there is no store"),
        (("absent.toml",), "cannot read"),
        ((str(VECTORS),), "is a folder: name one case file in it"),
    ],
)
def test_what_is_not_there_is_a_sentence(
    run: Run, arguments: tuple[str, ...], sentence: str
) -> None:
    status, _, err = run("export", *arguments, "--as", "toml")
    assert status == 2
    assert sentence in err


def test_an_unknown_finding_is_a_sentence(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "fuzz.db"
    open_store(path).close()
    status, _, err = run("export", "kvm.survives-0", "--store", path, "--as", "toml")
    assert status == 2
    assert "has no finding" in err
