# SPDX-License-Identifier: GPL-2.0-only
"""The needed part of a source in the cache: extracted from a tarball, or copied from a tree."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import IO, Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.selection import tar_patterns, wanted_files, what_lacks
from nvmxfuzz.targets.kvm_native.build.shell import Shell, tool_environment
from nvmxfuzz.targets.kvm_native.build.source import Source
from nvmxfuzz.targets.kvm_native.build.tools import demand_tools

_CHUNK: Final = 1 << 20
_TAR_MAGIC: Final = (257, b"ustar")
_UNPACKERS: Final = MappingProxyType(
    {
        b"\xfd7zXZ\x00": "xz --threads=0",
        b"\x1f\x8b": "gzip",
        b"BZh": "bzip2",
        b"\x28\xb5\x2f\xfd": "zstd --quiet",
    }
)
_HARMLESS: Final = ("Not found in archive", "Exiting with failure status")
"""What GNU tar says of a pattern that nothing matches: not every kernel has every folder."""


def provide_tree(source: Source, folder: Path, shell: Shell) -> Path:
    """Return the part of `source` that is needed, in `folder`; it is made if it is not there.

    A tree that has changed since it was copied is copied again, in the same place.
    """
    tree, stamp = folder / "source", folder / "identity"
    if is_provided(source, folder):
        return tree
    shutil.rmtree(folder, ignore_errors=True)
    try:
        tree.mkdir(parents=True)
        (_copy if source.path.is_dir() else _extract)(source.path, tree, shell)
        # Written last: without it the tree counts for nothing.
        stamp.write_text(source.identity)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return tree


def is_provided(source: Source, folder: Path) -> bool:
    """Whether a source is in `folder` already, as it is now."""
    stamp = folder / "identity"
    return stamp.is_file() and stamp.read_text() == source.identity


def _copy(tree: Path, target: Path, shell: Shell) -> None:
    places = list(wanted_files(tree))
    shell.progress.stage(f"copying {tree.name}", len(places))
    for place in places:
        copy = target / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(tree / place, copy, follow_symlinks=False)
        shell.progress.advance()


def _extract(tarball: Path, target: Path, shell: Shell) -> None:
    words = ["tar", *_unpacking(tarball), "--extract", "--file=-", "--strip-components=1"]
    shell.progress.stage(f"extracting {tarball.name}", tarball.stat().st_size)
    with TemporaryFile("w+", errors="replace") as complaints:
        _feed([*words, f"--directory={target}", *tar_patterns()], tarball, complaints, shell)
        complaints.seek(0)
        said = [line for line in complaints if not any(word in line for word in _HARMLESS)]
    shell.write("".join(said))
    if said:
        raise shell.failure(f"extracting {tarball}", "".join(said))
    lacking = what_lacks(target)
    if lacking:
        raise InputError(
            f"{tarball} holds no kernel that has nested VMX, {lacking} is not in it: name the "
            "tarball of one (Linux 5.0 or later)"
        )


def _unpacking(tarball: Path) -> tuple[str, ...]:
    unpacker = unpacker_of(tarball)
    demand_tools(["tar", *unpacker.split()[:1]])
    return ("--use-compress-program", unpacker) if unpacker else ()


def unpacker_of(tarball: Path) -> str:
    """Return the program that decompresses a tarball, "" if it is not compressed."""
    with tarball.open("rb") as file:
        head = file.read(512)
    for magic, words in _UNPACKERS.items():
        if head.startswith(magic):
            return words
    offset, magic = _TAR_MAGIC
    if head[offset : offset + len(magic)] == magic:
        return ""
    raise InputError(f"{tarball} is no tarball: name a kernel tree, or a tarball of one")


def _feed(words: list[str], tarball: Path, complaints: IO[str], shell: Shell) -> None:
    """Write a file to a program bit by bit: what it has read is how far it has come."""
    with (
        tarball.open("rb") as file,
        subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            env=tool_environment(),
            pass_fds=(shell.descriptor,),
        ) as tar,
    ):
        assert tar.stdin is not None
        try:
            while chunk := file.read(_CHUNK):
                tar.stdin.write(chunk)
                shell.progress.advance(len(chunk))
            tar.stdin.close()
        except BrokenPipeError:
            # It has complained and gone; or it has seen the end, and what follows is padding.
            return
        except BaseException:
            tar.kill()
            raise
