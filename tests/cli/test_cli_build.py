# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz build kvm`: what it lists, and what it says when it cannot build."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.cli.build import to_json, to_text
from nvmxfuzz.cli.build_progress import shown_progress
from nvmxfuzz.targets.kvm_native.build.builder import Built
from nvmxfuzz.targets.kvm_native.build.manifest import Manifest
from nvmxfuzz.targets.kvm_native.build.objects import (
    LIBRARY,
    SYMBOLS,
    BuiltObject,
    standard_cache,
)
from nvmxfuzz.targets.kvm_native.build.recipe import shim_hash

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a cache of the test's own."""
    monkeypatch.setenv("NVMXFUZZ_CACHE", str(tmp_path))
    return tmp_path


def built(kernel: str, *, known: bool, is_new: bool = True) -> Built:
    manifest = Manifest(
        kernel=kernel,
        version=f"{kernel}.0+0123",
        variant="plain",
        source="/tree",
        known=known,
        shim="00",
        compiler="gcc 12",
        sha256="00",
        functions=("schedule", "yield_to"),
        data=("jiffies",),
        files=(),
    )
    return Built(BuiltObject(Path("/cache/libkvm.so"), Path("/cache/symbols"), manifest), is_new)


def test_list_tells_what_is_built_and_what_can_be(run: Run, empty_cache: Path) -> None:
    status, out, _ = run("build", "kvm", "--list")
    assert status == 0
    assert "6.12  built: nothing" in out
    status, out, _ = run("build", "kvm", "--list", "--json")
    reply = json.loads(out)
    assert status == 0
    assert reply["built"] == []
    assert reply["cache"] == str(empty_cache / "kvm")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kernel", "4.1"), "apt-get install linux-source-4.1"),
        (("--kernel", "new"), "no kernel version"),
        (("--source", "no-such-tree"), "there is no kernel tree or tarball"),
        (("--source", "."), "no complete kernel tree"),
        (("--jobs", "0"), "no number of jobs"),
        (("--coverage", "--debug"), "not allowed with"),
        (("--kernel", "6.1", "--source", "."), "not allowed with"),
    ],
)
def test_a_mistake_is_one_sentence(run: Run, words: tuple[str, ...], said: str) -> None:
    status, out, err = run("build", "kvm", *words)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_list_groups_what_is_built_by_version(run: Run) -> None:
    cache = standard_cache()
    cache.prepare()
    for key, variant, shim in (
        ("a", "coverage", shim_hash()),
        ("b", "plain", shim_hash()),
        ("c", "debug", "other"),
    ):
        folder = cache.object(key)
        folder.mkdir()
        (folder / LIBRARY).touch()
        (folder / SYMBOLS).touch()
        replace(built("6.12", known=True).object.manifest, variant=variant, shim=shim).write(folder)
    _, out, _ = run("build", "kvm", "--list")
    assert "6.12  built: 6.12.0+0123 (coverage, plain)\n" in out
    assert "1 objects there are of other versions" in out


def test_what_to_build_must_be_said(run: Run) -> None:
    assert run("build")[0] == 2
    assert run("build", "xen")[0] == 2


def test_a_missing_compiler_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball = tmp_path / "k.tar"
    tarball.write_bytes(b"")
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, err = run("build", "kvm", "--source", tarball)
    assert status == 2
    assert "apt-get install gcc make flex bison bc binutils" in err


def test_the_stubs_of_a_kernel_that_is_not_known_are_listed() -> None:
    assert "yield_to" not in to_text(built("6.12", known=True))
    text = to_text(built("5.10", known=False))
    assert "functions: schedule yield_to" in text
    assert "data: jiffies" in text


def test_a_second_call_says_that_it_did_nothing() -> None:
    again = built("6.12", known=True, is_new=False)
    assert "was built already" in to_text(again)
    assert to_json(again)["new"] is False
    assert to_json(again)["functions"] == ("schedule", "yield_to")


def test_progress_is_lines_where_nobody_looks_on() -> None:
    stream = io.StringIO()
    with shown_progress(stream) as progress:
        progress.stage("compiling", 2)
        progress.advance()
        progress.notice("x.c:1: error: [bold]no\x1b[31m\n  2 | y")
        progress.advance()
        progress.stage("linking", 1)
    assert stream.getvalue().splitlines() == [
        "compiling",
        "x.c:1: error: [bold]no\\x1b[31m",
        "  2 | y",
        "linking",
    ]
