# SPDX-License-Identifier: GPL-2.0-only
"""KVM built with coverage: it counts, the same each time, and does what KVM does without."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from nvmxfuzz.cli.command_line import run
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native.build.builder import point
from nvmxfuzz.targets.kvm_native.build.cache import Cache
from nvmxfuzz.targets.kvm_native.build.objects import (
    LIBRARY,
    SYMBOLS,
    BuiltObject,
    find_object,
    usable,
)
from nvmxfuzz.targets.kvm_native.target import KvmTarget, with_coverage

VECTORS: Final = Path(__file__).parents[3] / "corpus" / "vectors"
HOST: Final = load_profile("skylake-x")
PLAIN: Final = base("guest-64", HOST)
REFUSED: Final = replace(PLAIN, vmcs=PLAIN.vmcs.replace({"host_cr3": 1 << 60}))
EVERY: Final = 3
"""Of the vectors on the usual processor, how many there are to each that runs."""


@pytest.fixture
def target(counting: BuiltObject) -> Iterator[KvmTarget]:
    """Return KVM with coverage of each kernel in turn, after its first attempt."""
    made = with_coverage(f"kvm-{counting.kernel}")
    assert made is not None
    with made:
        assert made.on_hardware(PLAIN).outcome == ENTERED
        yield made


def counted(target: KvmTarget, attempt: Attempt) -> bytes:
    """Return the counters after an attempt, which are 0 before."""
    start, table, number = target.counters()
    assert table
    assert number > 10_000
    ctypes.memset(start, 0, number)
    target.run(attempt)
    return ctypes.string_at(start, number)


def test_a_case_moves_its_own_counters(target: KvmTarget) -> None:
    entered, refused = counted(target, PLAIN), counted(target, REFUSED)
    assert any(entered)
    assert any(refused)
    assert entered != refused
    assert counted(target, PLAIN) == entered
    assert counted(target, REFUSED) == refused


def test_those_of_nested_c_are_known(target: KvmTarget) -> None:
    part = target.nested_counters()
    entered, refused = counted(target, PLAIN), counted(target, REFUSED)
    # Some 170 functions of some 15 edges, of all that is built.
    assert 1_500 < len(part) < len(entered) // 4
    # The check that refuses is in nested.c, and so is what is not come to then.
    assert entered[part.start : part.stop] != refused[part.start : part.stop]
    assert any(entered[: part.start])
    assert any(entered[part.stop :])


def test_the_counters_stay_where_nothing_runs(target: KvmTarget) -> None:
    start, _, number = target.counters()
    ctypes.memset(start, 0, number)
    target.virtual(HOST)
    assert not any(ctypes.string_at(start, number))


def vectors() -> list[Attempt]:
    cases = [load_case(path.read_bytes(), str(path)) for path in sorted(VECTORS.rglob("*.toml"))]
    attempts = [case.attempt for case in cases if isinstance(case, EntryCase)]
    return [attempt for attempt in attempts if attempt.profile == HOST][::EVERY]


def test_kvm_does_the_same_with_and_without(target: KvmTarget) -> None:
    kernel = target.name.removeprefix("kvm-")
    if usable(kernel):
        pytest.skip(usable(kernel))
    chosen = vectors()
    assert len(chosen) > 50
    with KvmTarget(kernel) as plain:
        for attempt in chosen:
            assert target.run(attempt) == plain.run(attempt)
            assert target.on_hardware(attempt) == plain.on_hardware(attempt)


@pytest.fixture
def damaged(built: BuiltObject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the kernel of a cache that has its plain object, and a damaged one with coverage."""
    cache = Cache(tmp_path / "kvm")
    cache.prepare()
    monkeypatch.setenv("NVMXFUZZ_CACHE", str(tmp_path))
    content = built.path.read_bytes()
    for variant in ("plain", "coverage"):
        folder = cache.object(variant)
        folder.mkdir()
        manifest = replace(built.manifest, variant=variant)
        manifest.write(folder)
        (folder / SYMBOLS).touch()
        (folder / LIBRARY).write_bytes(content if variant == "plain" else content[:-1])
        point(cache.current(manifest.kernel, variant, manifest.shim), folder)
    return built.kernel


def test_a_damaged_object_is_told_and_not_replaced(
    damaged: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = (
        f"KVM of Linux {damaged} (coverage) is damaged: run nvmxfuzz build kvm "
        f"--kernel {damaged} --coverage"
    )
    with pytest.raises(InputError) as told:
        with_coverage(f"kvm-{damaged}")
    assert str(told.value) == said
    store = ["--store", str(tmp_path / "found.db"), "--runs", "10", "--seed", "1"]
    fuzz = ["fuzz", "vm_entry", "--target", f"kvm-{damaged}", *store]
    assert run([*fuzz, "--engine", "atheris"]) == 2
    assert said in capsys.readouterr().err
    assert run([*fuzz, "--engine", "random"]) == 0
    # The plain object alone: as if the other one had never been built.
    find_object(damaged, "coverage").path.unlink()
    assert with_coverage(f"kvm-{damaged}") is None
