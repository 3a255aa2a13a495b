# SPDX-License-Identifier: GPL-2.0-only
"""Where a kernel comes from: a package of Debian, a tarball, or a tree; and which one it is."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.outside import show
from nvmxfuzz.targets.kvm_native.build.recipe import hash_of
from nvmxfuzz.targets.kvm_native.build.selection import wanted_files, what_lacks
from nvmxfuzz.targets.kvm_native.build.shell import tool_environment

PACKAGES: Final = Path("/usr/src")
SUFFIXES: Final = (".tar.xz", ".tar.zst", ".tar.gz", ".tar.bz2", ".tar")

_KERNEL: Final = re.compile(r"[1-9][0-9]?\.[0-9]{1,3}")
_PACKAGE_FILE: Final = re.compile(r"linux-source-([0-9.]+)")
_VARIABLE: Final = re.compile(
    r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(\S*)", re.M
)


@dataclass(frozen=True, slots=True)
class Source:
    """A kernel source. `identity` changes whenever the kernel does; `path` is a file or a folder.

    `package` is the version of the Debian package that the file belongs to, or "".
    """

    path: Path
    identity: str
    package: str = ""

    @property
    def key(self) -> str:
        """A name for what is built from it."""
        return f"{self._name}-{self.identity}"

    @property
    def place(self) -> str:
        """A name for what is extracted or copied from it: the same for all states of a tree."""
        if not self.path.is_dir():
            return self.key
        return f"{self._name}-{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]}"

    @property
    def _name(self) -> str:
        return self.path.name.split(".tar")[0]


@dataclass(frozen=True, slots=True)
class Version:
    """The version in the top Makefile of a kernel."""

    numbers: tuple[int, int, int]
    extra: str

    @property
    def kernel(self) -> str:
        """As in 6.12."""
        return f"{self.numbers[0]}.{self.numbers[1]}"

    @property
    def full(self) -> str:
        """As in 6.12.117 or 6.13.0-rc3."""
        return ".".join(str(number) for number in self.numbers) + self.extra


def parse_version(makefile: str) -> Version | None:
    """Return the version that the top Makefile of a kernel sets, or None."""
    found = dict(_VARIABLE.findall(makefile))
    try:
        numbers = (int(found["VERSION"]), int(found["PATCHLEVEL"]), int(found["SUBLEVEL"] or 0))
    except (KeyError, ValueError):
        return None
    return Version(numbers, found.get("EXTRAVERSION", ""))


def tree_version(tree: Path) -> Version:
    """Return the version of a tree; InputError if it is no kernel that has nested VMX."""
    lacking = what_lacks(tree)
    if lacking:
        raise InputError(
            f"{tree} is no complete kernel tree, it lacks {lacking}: name the top folder of one "
            "(Linux 5.0 or later)"
        )
    version = parse_version((tree / "Makefile").read_text(errors="replace"))
    if version is None:
        raise InputError(f"{tree} is no kernel tree: its Makefile sets no VERSION")
    return version


def packaged(folder: Path = PACKAGES) -> dict[str, Path]:
    """Return the kernels whose source package is installed, oldest first."""
    found: dict[str, Path] = {}
    for suffix in SUFFIXES:
        for path in folder.glob(f"linux-source-*{suffix}"):
            match = _PACKAGE_FILE.fullmatch(path.name.removesuffix(suffix))
            if match and _KERNEL.fullmatch(match[1]):
                found.setdefault(match[1], path)
    return dict(sorted(found.items(), key=lambda item: [int(n) for n in item[0].split(".")]))


def package_source(kernel: str, folder: Path = PACKAGES) -> Source:
    """Find Debian's source of a kernel such as 6.12; InputError says how to get it."""
    if not _KERNEL.fullmatch(kernel):
        raise InputError(f"{show(kernel)} is no kernel version: name one such as 6.12")
    path = packaged(folder).get(kernel)
    if path is None:
        raise InputError(
            f"there is no source of Linux {kernel} in {folder}: run apt-get install "
            f"linux-source-{kernel}, or name a tree or tarball with --source"
        )
    return named_source(path)


def named_source(path: Path) -> Source:
    """Return the source that the user names, a tree or a tarball."""
    path = Path(path).absolute()
    try:
        if path.is_dir():
            tree_version(path)
            return Source(path, hash_of((path / place for place in _files(path)), path)[:12])
        if path.is_file():
            package = package_version(path)
            return Source(path, package or _file_hash(path)[:12], package)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): see to that") from error
    raise InputError(f"there is no kernel tree or tarball {path}: name one that is there")


def _files(tree: Path) -> list[str]:
    return [place for place in wanted_files(tree) if (tree / place).is_file()]


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_version(path: Path) -> str:
    """Return the version of the Debian package that a file belongs to, or ''."""
    if shutil.which("dpkg-query") is None:
        return ""
    owner = _query("--search", str(path)).partition(":")[0]
    return _query("--show", "--showformat=${Version}", owner) if owner else ""


def _query(*words: str) -> str:
    done = subprocess.run(
        ["dpkg-query", *words], capture_output=True, text=True, check=False, env=tool_environment()
    )
    return done.stdout.strip() if done.returncode == 0 else ""
