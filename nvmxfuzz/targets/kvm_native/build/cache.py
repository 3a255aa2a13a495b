# SPDX-License-Identifier: GPL-2.0-only
"""The folder of everything that is built, outside the checkout: where it is, and what it holds.

trees/SOURCE/source            the part of the kernel that is needed
trees/SOURCE/config-HASH       configured out of tree
objects/KEY, objects/KEY.again an object, its symbols, its manifest (the last to be written)
current/KERNEL-VARIANT-SHIM    link to the object of KERNEL that was asked for last
logs/SOURCE-VARIANT.log        what the tools of the last build said
lock                           held by the build that runs
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.outside import show

VARIABLE = "NVMXFUZZ_CACHE"

_UNSAFE = re.compile(r"[^A-Za-z0-9.+~_-]")
_MEGABYTE = 1_000_000
_NO_PATH_FOR_MAKE = re.compile(r"[\s:]")


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of the built kernels; it need not exist."""
    if named := environment.get(VARIABLE):
        if not os.path.isabs(named):
            raise InputError(f"{VARIABLE} is {show(named)}: name a folder from / on")
        return Path(named) / "kvm"
    base = environment.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    caches = Path(base) if os.path.isabs(base) else _home(environment) / ".cache"
    return caches / "nvmxfuzz" / "kvm"


def _home(environment: Mapping[str, str]) -> Path:
    home = environment.get("HOME")
    if home:
        return Path(home).absolute()
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise InputError(
            f"this user has no home: name a folder for what is built in {VARIABLE}"
        ) from None


def file_name(text: str) -> str:
    """Return `text` as the name of a file: what could be special is an underscore."""
    return _UNSAFE.sub("_", text).lstrip(".-") or "_"


@dataclass(frozen=True, slots=True)
class Cache:
    """The places within the folder."""

    folder: Path

    @property
    def lock(self) -> Path:
        """The file that the build that runs has locked."""
        return self.folder / "lock"

    def tree(self, place: str) -> Path:
        """Return the folder of a source."""
        return self.folder / "trees" / file_name(place)

    def object(self, key: str) -> Path:
        """Return the folder of an object."""
        return self.folder / "objects" / file_name(key)

    def places(self, key: str) -> tuple[Path, Path]:
        """Return the folders of an object: one is built anew while the other one is used."""
        return self.object(key), self.object(f"{key}.again")

    def current(self, kernel: str, variant: str, shim: str) -> Path:
        """Return the link to the object of a kernel."""
        return self.folder / "current" / file_name(f"{kernel}-{variant}-{shim[:12]}")

    def log(self, key: str, variant: str) -> Path:
        """Return the log of the last build of a source."""
        return self.folder / "logs" / file_name(f"{key}-{variant}.log")

    def prepare(self) -> None:
        """Make the folder; InputError if it cannot be used to build in."""
        if _NO_PATH_FOR_MAKE.search(str(self.folder)):
            raise InputError(
                f"the kernel's make takes no path with a space or a colon, and the cache is "
                f"{self.folder}: name another folder in {VARIABLE}"
            )
        try:
            for part in ("trees", "objects", "current", "logs"):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            self.lock.open("a").close()
        except OSError as error:
            raise InputError(
                f"the cache {self.folder} cannot be written to ({error.strerror}): make it "
                f"writable, or name another folder in {VARIABLE}"
            ) from error

    def demand_space(self, needed: int) -> None:
        """InputError if fewer than `needed` bytes are free."""
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise InputError(
                f"the build needs {needed // _MEGABYTE} MB in {self.folder}, where "
                f"{free // _MEGABYTE} MB are free: free some, or name another folder in {VARIABLE}"
            )
