# SPDX-License-Identifier: GPL-2.0-only
"""One build from beginning to end."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.cache import VARIABLE, Cache
from nvmxfuzz.targets.kvm_native.build.configure import provide_config
from nvmxfuzz.targets.kvm_native.build.flags import COMPILERS, KEEPS_SOURCES, Compiler
from nvmxfuzz.targets.kvm_native.build.link import Linker
from nvmxfuzz.targets.kvm_native.build.lock import locked
from nvmxfuzz.targets.kvm_native.build.manifest import NAME, Manifest
from nvmxfuzz.targets.kvm_native.build.objects import (
    LIBRARY,
    SYMBOLS,
    BuiltObject,
    is_sound,
    object_in,
)
from nvmxfuzz.targets.kvm_native.build.planting import Planting
from nvmxfuzz.targets.kvm_native.build.progress import Progress
from nvmxfuzz.targets.kvm_native.build.recipe import SHIM, Recipe, load_recipe, shim_hash
from nvmxfuzz.targets.kvm_native.build.shell import Shell, StepError
from nvmxfuzz.targets.kvm_native.build.source import Source, tree_version
from nvmxfuzz.targets.kvm_native.build.stubs import Unresolved
from nvmxfuzz.targets.kvm_native.build.tools import (
    ALWAYS,
    compiler_version,
    demand_headers,
    demand_tools,
)
from nvmxfuzz.targets.kvm_native.build.tree import is_provided, provide_tree
from nvmxfuzz.targets.kvm_native.build.units import (
    KVM,
    Unit,
    kernel_units,
    lay_over,
    runtime_unit,
    runtime_units,
)

TREE_SPACE = 250_000_000
OBJECT_SPACE = 100_000_000
"""Bytes that are demanded, about twice what is used."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to build. `force` builds an object again that is there.

    `planting` has faults that go into it: such an object belongs into a cache of its own.
    """

    source: Source
    variant: str
    jobs: int
    force: bool = False
    planting: Planting | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """The object, and whether this call made it."""

    object: BuiltObject
    is_new: bool


def build(request: Request, cache: Cache, progress: Progress) -> Built:
    """Build what is asked for, if it is not there; InputError says what is in the way."""
    program = COMPILERS[request.variant]
    demand_tools(dict.fromkeys((*ALWAYS, program)))
    demand_headers(program)
    cache.prepare()
    with locked(cache.lock, progress) as descriptor:
        shell = Shell(cache.log(request.source.key, request.variant), descriptor, progress)
        try:
            return _Build(request, cache, shell).run()
        except StepError as error:
            progress.notice("\n".join(error.lines))
            raise
        except OSError as error:
            raise InputError(
                f"the cache {cache.folder} cannot be used any more ({error.strerror}): see to "
                f"that, or name another folder in {VARIABLE}"
            ) from error


class _Build:
    """The steps of a build, and what they have in common."""

    def __init__(self, request: Request, cache: Cache, shell: Shell) -> None:
        self._request = request
        self._cache = cache
        self._shell = shell
        self._program = COMPILERS[request.variant]
        self._version = compiler_version(self._program)
        self._shim = shim_hash()
        self._recipe = load_recipe()

    def run(self) -> Built:
        """Return the object, made if need be."""
        remove_incomplete(self._cache)
        places = self._cache.places(self._key())
        sound = [built for place in places if (built := _sound_object(place))]
        found = sound[0] if sound and not self._request.force else None
        built = found or self._make(free_place(places, sound))
        # Not by its own path: in that, what the path of the cache has of links is followed.
        used, other = sorted(places, key=lambda place: place.name != built.path.parent.name)
        point(self._cache.current(built.kernel, built.variant, self._shim), used)
        shutil.rmtree(other, ignore_errors=True)
        return Built(built, found is None)

    def _key(self) -> str:
        """Return the name of the object, which has everything in it that it depends on."""
        planted = "" if self._request.planting is None else f" {self._request.planting.digest}"
        depends = f"{self._shim} {self._version}{planted}"
        digest = hashlib.sha256(depends.encode()).hexdigest()[:12]
        return f"{self._request.source.key}-{self._request.variant}-{digest}"

    def _make(self, folder: Path) -> BuiltObject:
        source = self._request.source
        holder = self._cache.tree(source.place)
        provided = is_provided(source, holder)
        self._cache.demand_space(OBJECT_SPACE + (0 if provided else TREE_SPACE))
        self._shell.log.write_text("")
        tree = provide_tree(source, holder, self._shell)
        config = provide_config(tree, compiler_version("gcc"), self._request.jobs, self._shell)
        shutil.rmtree(folder, ignore_errors=True)
        work = folder / "work"
        work.mkdir(parents=True)
        lay_over(tree, SHIM, work)
        if self._request.planting is not None:
            self._request.planting.plant(work / KVM)
        units = kernel_units(tree, work, self._recipe)
        names = self._compile(self._compiler(tree, config, work), units, folder / LIBRARY)
        listing = ["nm", "--defined-only", "--numeric-sort", str(folder / LIBRARY)]
        (folder / SYMBOLS).write_text(self._shell.run(listing, "listing the symbols"))
        prune(work, keeps_sources=self._request.variant in KEEPS_SOURCES)
        self._manifest(tree, names, units, folder).write(folder)
        built = object_in(folder)
        assert built is not None
        return built

    def _compiler(self, tree: Path, config: Path, work: Path) -> Compiler:
        asking = [self._program, "-print-file-name=include"]
        headers = self._shell.run(asking, "asking for the compiler's headers").strip()
        return Compiler(self._request.variant, self._recipe, SHIM, tree, config, work, headers)

    def _compile(self, compiler: Compiler, units: Sequence[Unit], target: Path) -> Unresolved:
        runtime = runtime_units(SHIM)
        if self._request.planting is not None:
            runtime.append(runtime_unit(self._request.planting.runtime))
        commands = [(unit.place, compiler.kernel_words(unit)) for unit in units]
        commands += [(unit.place, compiler.runtime_words(unit)) for unit in runtime]
        self._shell.progress.stage("compiling", len(commands))
        self._side_by_side(commands, compiler.work)
        self._shell.progress.stage("linking", 1)
        linked = Linker(compiler, self._shell).link(
            [compiler.object_of(unit) for unit in units],
            [compiler.object_of(unit) for unit in runtime],
            target,
        )
        self._shell.progress.advance()
        return linked

    def _side_by_side(self, commands: Sequence[tuple[str, list[str]]], folder: Path) -> None:
        """Compile on all processors; the first failure, or an interrupt, is the end of it."""
        with ThreadPoolExecutor(self._request.jobs) as pool:
            try:
                done = [
                    pool.submit(self._shell.run, words, f"compiling {place}", folder)
                    for place, words in commands
                ]
                for each in as_completed(done):
                    each.result()
                    self._shell.progress.advance()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _manifest(
        self, tree: Path, names: Unresolved, units: Sequence[Unit], folder: Path
    ) -> Manifest:
        source, version = self._request.source, tree_version(tree)
        return Manifest(
            kernel=version.kernel,
            version=source.package or f"{version.full}+{source.identity}",
            variant=self._request.variant,
            source=str(source.path),
            known=is_known(version.kernel, self._recipe),
            shim=self._shim,
            compiler=self._version,
            sha256=hashlib.sha256((folder / LIBRARY).read_bytes()).hexdigest(),
            functions=names.functions,
            data=names.data,
            files=tuple(unit.place for unit in units),
        )


def free_place(places: Sequence[Path], sound: Sequence[BuiltObject]) -> Path:
    """Return where to build: what is good stays until there is something in its stead."""
    taken = {built.path.parent.name for built in sound}
    return next((place for place in places if place.name not in taken), places[-1])


def _sound_object(folder: Path) -> BuiltObject | None:
    built = object_in(folder)
    return built if built is not None and is_sound(built) else None


def is_known(kernel: str, recipe: Recipe) -> bool:
    """Whether the shim was made for a kernel, and tried with it."""
    return kernel in recipe.kernels


def remove_incomplete(cache: Cache) -> None:
    """Remove what builds have left that failed or were killed; no other one may be running."""
    for folder in (cache.folder / "objects").iterdir():
        if not (folder / NAME).exists():
            shutil.rmtree(folder)


def prune(work: Path, *, keeps_sources: bool) -> None:
    """Remove what nobody needs after the link; gcov's notes lie beside the sources."""
    if not keeps_sources:
        shutil.rmtree(work)
        return
    for path in work.glob("*.o"):
        path.unlink()


def point(link: Path, folder: Path) -> None:
    """Make `link` lead to `folder`, in one step; the cache may be moved with both."""
    fresh = link.with_name(f"{link.name}.fresh")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(folder, link.parent))
    fresh.replace(link)
