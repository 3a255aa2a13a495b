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
from nvmxfuzz.targets.kvm_native.build.builder import Built, point
from nvmxfuzz.targets.kvm_native.build.manifest import Manifest
from nvmxfuzz.targets.kvm_native.build.objects import (
    LIBRARY,
    SYMBOLS,
    BuiltObject,
    standard_cache,
)
from nvmxfuzz.targets.kvm_native.build.recipe import shim_hash

Run = Callable[..., tuple[int, str, str]]

SEED = Path(__file__).parents[2] / "corpus/seeds/vm_entry/guest-64-skylake-x.toml"


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
    assert "1 object there of other versions of nvmxfuzz: --prune removes them" in out


def test_a_kernel_without_a_package_is_listed_with_its_tree_and_is_a_target(run: Run) -> None:
    cache = standard_cache()
    cache.prepare()
    folder = cache.object("tree")
    folder.mkdir()
    (folder / LIBRARY).touch()
    (folder / SYMBOLS).touch()
    replace(built("4.99", known=False).object.manifest, shim=shim_hash()).write(folder)
    point(cache.current("4.99", "plain", shim_hash()), folder)
    _, out, _ = run("build", "kvm", "--list")
    assert "4.99  built: 4.99.0+0123 (plain)\n      source: /tree\n" in out
    _, out, _ = run("targets")
    assert "kvm-4.99        usable: The KVM of Linux 4.99 itself" in out
    assert "                4.99.0+0123\n" in out
    status, _, err = run("check", "--target", "kvm-4.99", SEED)
    assert status == 2
    assert err == (
        "nvmxfuzz: KVM of Linux 4.99 is damaged: run nvmxfuzz build kvm --source /tree\n"
    )
    status, _, err = run("check", "--target", "kvm-4.98", SEED)
    assert status == 2
    assert "the targets are python-model" in err


def test_compare_does_not_lose_the_others_for_one_that_is_damaged(run: Run) -> None:
    cache = standard_cache()
    cache.prepare()
    folder = cache.object("one")
    folder.mkdir()
    (folder / LIBRARY).touch()
    (folder / SYMBOLS).touch()
    replace(built("6.12", known=True).object.manifest, shim=shim_hash()).write(folder)
    point(cache.current("6.12", "plain", shim_hash()), folder)
    damaged = "KVM of Linux 6.12 is damaged: run nvmxfuzz build kvm --kernel 6.12"
    status, out, _ = run("compare", SEED)
    assert status == 2
    assert f"kvm-6.12: not usable: {damaged}\n" in out
    assert out.startswith("rules: entered\n")
    status, out, _ = run("compare", "--json", SEED)
    assert status == 2
    assert json.loads(out)["targets"]["kvm-6.12"] == {"error": damaged}


@pytest.mark.parametrize(
    "words", [("--kernel", "6.1"), ("--gcov",), ("--jobs", "2"), ("--force",), ("--source", ".")]
)
def test_a_listing_builds_nothing(run: Run, words: tuple[str, ...]) -> None:
    status, out, err = run("build", "kvm", "--list", *words)
    assert (status, out) == (2, "")
    assert f"{words[0]} goes with a build" in err


def test_prune_tells_what_it_removed(run: Run) -> None:
    assert run("build", "kvm", "--prune") == (
        0,
        "removed 0 objects, 0 trees and 0 logs, 0 MB\n",
        "",
    )
    cache = standard_cache()
    cache.prepare()
    cache.object("half").mkdir()
    (cache.object("half") / LIBRARY).write_bytes(b"123")
    status, out, _ = run("build", "kvm", "--prune", "--json")
    assert status == 0
    assert json.loads(out) == {"objects": ["half"], "trees": [], "logs": [], "bytes": 3}
    assert run("build", "kvm", "--prune", "--list")[0] == 2


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


def test_what_a_stub_does_is_told() -> None:
    said = "2 functions are stubs, and a case that calls one ends with its name; 1 data are zeroes"
    assert said in to_text(built("6.12", known=True))


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
