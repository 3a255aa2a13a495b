# SPDX-License-Identifier: GPL-2.0-only
"""Built objects: found by kernel and variant, and what is said of those that cannot be used."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.builder import (
    free_place,
    point,
    prune,
    remove_incomplete,
)
from nvmxfuzz.targets.kvm_native.build.cache import Cache, cache_folder, file_name
from nvmxfuzz.targets.kvm_native.build.manifest import NAME, Manifest, read_manifest
from nvmxfuzz.targets.kvm_native.build.objects import (
    LIBRARY,
    SYMBOLS,
    BuiltObject,
    all_objects,
    built_kernels,
    find_object,
    is_sound,
    object_in,
    usable,
)
from nvmxfuzz.targets.kvm_native.build.recipe import SHIM, hash_of, shim_hash
from nvmxfuzz.targets.kvm_native.library import Library

MANIFEST = Manifest(
    kernel="6.12",
    version="6.12.117-1",
    variant="plain",
    source="/usr/src/linux-source-6.12.tar.xz",
    known=True,
    shim=shim_hash(),
    compiler="gcc 12",
    sha256="00",
    functions=("schedule",),
    data=(),
    files=("arch/x86/kvm/x86.c",),
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """Return an empty cache, the one that the environment names."""
    monkeypatch.setenv("NVMXFUZZ_CACHE", str(tmp_path))
    found = Cache(tmp_path / "kvm")
    found.prepare()
    return found


def put(cache: Cache, manifest: Manifest, key: str = "one") -> Path:
    """Put an object into a cache as a build does."""
    folder = cache.object(key)
    folder.mkdir()
    (folder / LIBRARY).touch()
    (folder / SYMBOLS).touch()
    manifest.write(folder)
    point(cache.current(manifest.kernel, manifest.variant, manifest.shim), folder)
    return folder


def test_what_is_built_is_found(cache: Cache) -> None:
    folder = put(cache, MANIFEST)
    found = find_object("6.12")
    assert found == BuiltObject(folder / LIBRARY, folder / SYMBOLS, MANIFEST)
    assert (found.kernel, found.version, found.variant) == ("6.12", "6.12.117-1", "plain")
    assert usable("6.12") == ""


def test_what_is_not_built_comes_with_the_command_that_builds_it(cache: Cache) -> None:
    put(cache, MANIFEST)
    assert "not built: run nvmxfuzz build kvm --kernel 6.1" in usable("6.1")
    assert "build kvm --kernel 6.12 --coverage" in usable("6.12", "coverage")
    with pytest.raises(InputError, match="not built"):
        find_object("6.1")


def test_an_object_of_another_version_of_the_shim_is_not_used(cache: Cache) -> None:
    put(cache, replace(MANIFEST, shim="0" * 64))
    assert "by another version of nvmxfuzz" in usable("6.12")
    put(cache, MANIFEST, "two")
    assert usable("6.12") == ""
    assert len(all_objects(cache)) == 2


def test_the_one_that_was_asked_for_last_is_used(cache: Cache) -> None:
    first = put(cache, MANIFEST)
    put(cache, replace(MANIFEST, version="6.12.117+0123"), "two")
    assert find_object("6.12").version == "6.12.117+0123"
    point(cache.current("6.12", "plain", MANIFEST.shim), first)
    assert find_object("6.12").version == "6.12.117-1"


@pytest.mark.parametrize("lost", [LIBRARY, SYMBOLS, NAME])
def test_an_object_that_lost_a_file_is_none(cache: Cache, lost: str) -> None:
    (put(cache, MANIFEST) / lost).unlink()
    assert "is incomplete or was built by another version of nvmxfuzz: run" in usable("6.12")


def test_a_damaged_object_is_not_loaded(cache: Cache) -> None:
    content = b"\x7fELF of KVM"
    folder = put(cache, replace(MANIFEST, sha256=hashlib.sha256(content).hexdigest()))
    for damaged in (b"", content[:5], b"x" + content[1:]):
        (folder / LIBRARY).write_bytes(damaged)
        assert not is_sound(find_object("6.12"))
        with pytest.raises(InputError) as told:
            Library.of(find_object("6.12"))
        assert str(told.value) == (
            "KVM of Linux 6.12 is damaged: run nvmxfuzz build kvm --kernel 6.12"
        )
    (folder / LIBRARY).write_bytes(content)
    assert is_sound(find_object("6.12"))


def test_what_the_loader_says_has_no_name_of_a_copy(cache: Cache) -> None:
    content = b"\x7fELF of KVM"
    folder = put(cache, replace(MANIFEST, sha256=hashlib.sha256(content).hexdigest()))
    (folder / LIBRARY).write_bytes(content)
    with pytest.raises(InputError, match=r"libkvm\.so cannot be loaded: .*file too short") as told:
        Library.of(find_object("6.12"))
    assert "/proc" not in str(told.value)


def test_a_damaged_kernel_of_a_tree_is_built_from_that_tree(cache: Cache) -> None:
    put(cache, replace(MANIFEST, kernel="4.99", source="/my linux"))
    with pytest.raises(InputError, match=r"run nvmxfuzz build kvm --source '/my linux'$"):
        Library.of(find_object("4.99"))
    assert "build kvm --source TREE" in usable("4.98")


def test_what_is_good_stays_until_it_is_built_again(cache: Cache) -> None:
    first, second = cache.places("key")
    assert free_place((first, second), ()) == first
    put(cache, MANIFEST, first.name)
    built = object_in(first)
    assert built is not None
    assert free_place((first, second), (built,)) == second


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("functions", 5),
        ("files", ["a", 5]),
        ("kernel", 6.12),
        ("kernel", "six"),
        ("kernel", "6.12.1"),
        ("version", 6),
        ("known", "yes"),
        ("shim", None),
    ],
)
def test_a_manifest_of_other_types_is_passed_over(cache: Cache, name: str, value: object) -> None:
    folder = put(cache, MANIFEST)
    (folder / NAME).write_text(json.dumps({**MANIFEST.to_json(), name: value}))
    assert "is incomplete or was built" in usable("6.12")
    assert all_objects(cache) == []


def test_the_object_of_another_kernel_is_not_taken(cache: Cache) -> None:
    folder = put(cache, replace(MANIFEST, kernel="6.1"))
    point(cache.current("6.12", "plain", MANIFEST.shim), folder)
    assert usable("6.12") != ""


def test_every_kernel_that_is_built_is_known(cache: Cache) -> None:
    for number, kernel in enumerate(("6.13", "6.2")):
        put(cache, replace(MANIFEST, kernel=kernel), str(number))
    put(cache, replace(MANIFEST, kernel="6.14", variant="gcov"), "gcov")
    put(cache, replace(MANIFEST, kernel="6.15", shim="other"), "other")
    assert built_kernels() == ["6.2", "6.13"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', "\ufffd{", "[" * 100_000])
def test_a_manifest_that_is_none_is_passed_over(cache: Cache, text: str) -> None:
    folder = put(cache, MANIFEST)
    (folder / NAME).write_text(text)
    assert usable("6.12") != ""
    assert all_objects(cache) == []


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    assert read_manifest(tmp_path) == MANIFEST
    assert json.loads((tmp_path / NAME).read_text())["format"] == 1


def test_what_a_killed_build_left_is_removed_and_the_rest_is_not(cache: Cache) -> None:
    kept = put(cache, MANIFEST)
    left = cache.object("half")
    (left / "work").mkdir(parents=True)
    remove_incomplete(cache)
    assert kept.is_dir()
    assert not left.exists()


def test_pruning_keeps_what_gcov_reads(tmp_path: Path) -> None:
    for name in ("a.o", "a.gcno"):
        (tmp_path / name).touch()
    prune(tmp_path, keeps_sources=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gcno"]
    prune(tmp_path, keeps_sources=False)
    assert not tmp_path.exists()


def test_a_cache_may_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "here" / "kvm")
    cache.prepare()
    put(cache, MANIFEST)
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.setenv("NVMXFUZZ_CACHE", str(tmp_path / "there"))
    assert find_object("6.12").path.is_relative_to(tmp_path / "there")


def test_the_cache_is_where_the_environment_says() -> None:
    assert cache_folder({"NVMXFUZZ_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a/kvm")
    assert cache_folder({"XDG_CACHE_HOME": "/b", "HOME": "/c"}) == Path("/b/nvmxfuzz/kvm")
    assert cache_folder({"XDG_CACHE_HOME": "b", "HOME": "/c"}) == Path("/c/.cache/nvmxfuzz/kvm")
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert cache_folder({}) == home / ".cache/nvmxfuzz/kvm"


@pytest.mark.parametrize("folder", ["x", "~/x", "./x"])
def test_a_cache_that_depends_on_where_one_is_is_refused(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"NVMXFUZZ_CACHE is '.*x': name a folder from / on"):
        cache_folder({"NVMXFUZZ_CACHE": folder})
    monkeypatch.setenv("NVMXFUZZ_CACHE", folder)
    assert "name a folder from / on" in usable("6.12")
    assert built_kernels() == []


@pytest.mark.parametrize("text", ["../x", "", "a/b", ".", "-rf", "a\nb"])
def test_a_name_from_outside_stays_one_name(text: str) -> None:
    assert Path("/cache", file_name(text)).parent == Path("/cache")
    assert not file_name(text).startswith((".", "-"))


def test_a_cache_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written to"):
        Cache(tmp_path / "file" / "kvm").prepare()
    with pytest.raises(InputError, match="space or a colon"):
        Cache(tmp_path / "my cache").prepare()


def test_disk_space_is_looked_at_before(cache: Cache) -> None:
    cache.demand_space(1)
    with pytest.raises(InputError, match=r"needs 1000000000000 MB in .* MB are free"):
        cache.demand_space(10**18)


def test_every_file_of_the_shim_counts(tmp_path: Path) -> None:
    names = {path.name for path in SHIM.rglob("*") if path.is_file()}
    assert {"nvmx.h", "build.toml", "kernel.config"} <= names
    files = [tmp_path / "a", tmp_path / "b"]
    for path in files:
        path.write_text("x")
    before = hash_of(files, tmp_path)
    files[1].write_text("y")
    assert hash_of(files, tmp_path) != before
    assert hash_of(files[:1], tmp_path) != hash_of([files[1]], tmp_path)
