# SPDX-License-Identifier: GPL-2.0-only
"""Pruning the cache: what this version of nvmxfuzz uses stays, the rest goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.builder import point
from nvmxfuzz.targets.kvm_native.build.cache import Cache
from nvmxfuzz.targets.kvm_native.build.manifest import Manifest
from nvmxfuzz.targets.kvm_native.build.objects import LIBRARY, SYMBOLS, all_objects, look_up
from nvmxfuzz.targets.kvm_native.build.progress import Progress
from nvmxfuzz.targets.kvm_native.build.pruning import Pruned, prune_cache
from nvmxfuzz.targets.kvm_native.build.recipe import shim_hash

OTHER = "0" * 64


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    found = Cache(tmp_path / "kvm")
    found.prepare()
    return found


def put(cache: Cache, source: str, variant: str, shim: str) -> None:
    """Put an object and its log into a cache as a build does."""
    folder = cache.object(f"{source}-{variant}-{shim[:12]}")
    folder.mkdir()
    (folder / LIBRARY).write_bytes(bytes(10))
    (folder / SYMBOLS).touch()
    Manifest(
        kernel="6.12",
        version="6.12.117",
        variant=variant,
        source="/a",
        known=True,
        shim=shim,
        compiler="gcc 12",
        sha256="00",
        functions=(),
        data=(),
        files=(),
    ).write(folder)
    cache.log(source, variant).write_text("cc")
    point(cache.current("6.12", variant, shim), folder)


def put_tree(cache: Cache, place: str, identity: str) -> None:
    (cache.tree(place) / "source").mkdir(parents=True)
    (cache.tree(place) / "source" / "Makefile").write_text("VERSION = 6\n")
    (cache.tree(place) / "identity").write_text(identity)


def prune(cache: Cache) -> Pruned:
    return prune_cache(cache, Progress())


def test_what_this_version_uses_stays(cache: Cache) -> None:
    put(cache, "linux-source-6.12-6.12.117-1~deb12u1", "plain", shim_hash())
    put_tree(cache, "linux-source-6.12-6.12.117-1~deb12u1", "6.12.117-1~deb12u1")
    # A tree, whose place has a hash of its path in it, and two states of it.
    for state in ("0123456789ab", "ba9876543210"):
        put(cache, f"linux-{state}", "coverage", shim_hash())
    put_tree(cache, "linux-aaaaaaaaaaaa", "ba9876543210")
    before = sorted(cache.folder.rglob("*"))
    assert prune(cache) == Pruned((), (), (), 0)
    assert sorted(cache.folder.rglob("*")) == before


def test_what_it_does_not_use_goes(cache: Cache) -> None:
    put(cache, "linux-6.12", "plain", shim_hash())
    put(cache, "linux-6.12", "plain", OTHER)
    put(cache, "linux-6.12", "debug", OTHER)
    put(cache, "linux-6.1", "plain", OTHER)
    put_tree(cache, "linux-6.12", "6.12")
    put_tree(cache, "linux-6.1", "6.1")
    # The name is that of one in use, but it is of another state; and one that is not complete.
    put_tree(cache, "linux-bbbbbbbbbbbb", "2")
    (cache.tree("linux-6.13") / "source").mkdir(parents=True)
    pruned = prune(cache)
    assert pruned.objects == tuple(
        f"{name}-{OTHER[:12]}"
        for name in ("linux-6.1-plain", "linux-6.12-debug", "linux-6.12-plain")
    )
    assert pruned.trees == ("linux-6.1", "linux-6.13", "linux-bbbbbbbbbbbb")
    assert pruned.logs == ("linux-6.1-plain.log", "linux-6.12-debug.log")
    assert pruned.bytes > 3 * 10
    assert [built.manifest.shim for built in all_objects(cache)] == [shim_hash()]
    assert not isinstance(look_up(cache, "6.12", "plain"), str)
    assert [link.resolve().is_dir() for link in (cache.folder / "current").iterdir()] == [True]


def test_no_cache_is_nothing_to_prune(tmp_path: Path) -> None:
    assert prune(Cache(tmp_path / "kvm")) == Pruned((), (), (), 0)
    assert not (tmp_path / "kvm").exists()


def test_a_cache_that_cannot_be_pruned_is_one_sentence(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    put(cache, "linux-6.12", "plain", OTHER)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(InputError, match=r"cannot be pruned \(Permission denied\)"):
        prune(cache)
