# SPDX-License-Identifier: GPL-2.0-only
"""The pages on findings have all their parts, and a check notices one that is missing."""

import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "ci" / "checks" / "findings_pages.py"


def edited(folder: Path, name: str, old: str, new: str) -> None:
    file = folder / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return the check, of a copy of the pages in `tmp_path`."""
    monkeypatch.setattr("sys.argv", ["findings_pages.py"])
    pages = tmp_path / "findings"
    shutil.copytree(ROOT / "docs" / "findings", pages)
    main: Callable[[], int] = runpy.run_path(str(CHECK))["main"]
    main.__globals__.update(PAGES=pages, INDEX=pages / "README.md")
    return main


def test_the_pages_are_whole(check: Callable[[], int]) -> None:
    assert check() == 0


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("btf.md", "**Consequence.**", "**So.**"), "btf: Consequence."),
        (("btf.md", "**Minimal case.**", "**Case.**"), "btf.md is not up to date"),
        (("findings.toml", "[btf]", "[btff]"), "btf: sure in findings.toml [btf]"),
        (
            ("findings.toml", "[btf]\n", '[btf]\nshown = "no"\n'),
            "btf: shown in findings.toml [btf]",
        ),
        (("findings.toml", 'without = "no oracle', 'wiht = "no'), "failed-load-tsc: without in"),
        (("README.md", "(btf.md)", "(bft.md)"), "btf: a line in README.md"),
        (("README.md", "(btf.md)", "(bft.md)"), "bft: a page"),
    ],
)
def test_what_is_missing_is_named(
    check: Callable[[], int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    edit: tuple[str, str, str],
    said: str,
) -> None:
    edited(tmp_path / "findings", *edit)
    assert check() == 1
    assert said in capsys.readouterr().out
