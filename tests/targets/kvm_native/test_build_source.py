# SPDX-License-Identifier: GPL-2.0-only
"""Sources: which kernel it is, the part that is needed, and what is said where it is none."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.progress import Progress
from nvmxfuzz.targets.kvm_native.build.selection import ESSENTIAL, is_wanted, wanted_files
from nvmxfuzz.targets.kvm_native.build.shell import Shell
from nvmxfuzz.targets.kvm_native.build.source import (
    Source,
    named_source,
    package_source,
    packaged,
    parse_version,
    tree_version,
)
from nvmxfuzz.targets.kvm_native.build.tree import is_provided, provide_tree

MAKEFILE = "VERSION = 6\nPATCHLEVEL = 13\nSUBLEVEL = 0\nEXTRAVERSION = -rc3\nNAME = Baby\n"
NEEDED = ("kernel/time/Kconfig", "drivers/acpi/Kconfig", "include/linux/types.h", "Kbuild")
MADE = (
    ".config",
    "arch/x86/kvm/x86.o",
    "arch/x86/include/generated/asm/a.h",
    "include/config/KVM",
    "include/generated/autoconf.h",
    "scripts/.mod.o.cmd",
)
OTHER = ("drivers/acpi/acpi.c", "fs/open.c", "MAINTAINERS", "arch/arm64/kvm/arm.c")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return something that has the files of a kernel, configured and built in place."""
    top = tmp_path / "a kernel"
    for place in (*ESSENTIAL, *NEEDED, *MADE, *OTHER):
        path = top / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(place)
    (top / "Makefile").write_text(MAKEFILE)
    (top / "scripts/link").symlink_to("../nowhere")
    return top


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    return Shell(tmp_path / "log", descriptor, Progress())


def archive(tree: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        tar.add(tree, "linux-6.13")
    return path


def test_the_version_is_that_of_the_makefile() -> None:
    version = parse_version(MAKEFILE)
    assert version is not None
    assert (version.kernel, version.full) == ("6.13", "6.13.0-rc3")
    assert parse_version("all:\n") is None
    assert parse_version("VERSION = six\nPATCHLEVEL = 1\nSUBLEVEL = 1\n") is None


def test_what_is_needed_is_no_product_of_a_build() -> None:
    assert all(is_wanted(place) for place in (*ESSENTIAL, *NEEDED))
    assert not any(is_wanted(place) for place in (*MADE, *OTHER))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_tree_and_a_tarball_of_it_give_the_same(
    tree: Path, tmp_path: Path, shell: Shell, suffix: str
) -> None:
    tarball = archive(tree, tmp_path / f"k{suffix}")
    copied = provide_tree(named_source(tree), tmp_path / "copied", shell)
    extracted = provide_tree(named_source(tarball), tmp_path / "extracted", shell)
    places = list(wanted_files(tree))
    assert list(wanted_files(copied)) == places
    assert list(wanted_files(extracted)) == places
    assert not (copied / ".config").exists()
    assert not (extracted / "fs").exists()
    assert (extracted / "scripts/link").is_symlink()


def test_a_change_that_counts_makes_another_source(tree: Path) -> None:
    before = named_source(tree)
    (tree / "fs/open.c").write_text("changed")
    (tree / "arch/x86/kvm/x86.o").write_text("compiled")
    assert named_source(tree) == before
    (tree / "arch/x86/kvm/x86.c").write_text("changed")
    after = named_source(tree)
    assert after.key != before.key
    assert after.place == before.place


def test_a_tree_that_changed_is_copied_again_in_the_same_place(
    tree: Path, tmp_path: Path, shell: Shell
) -> None:
    folder = tmp_path / "copied"
    provide_tree(named_source(tree), folder, shell)
    (tree / "virt/kvm/kvm_main.c").write_text("changed")
    (tree / "include/linux/types.h").unlink()
    assert not is_provided(named_source(tree), folder)
    copied = provide_tree(named_source(tree), folder, shell)
    assert (copied / "virt/kvm/kvm_main.c").read_text() == "changed"
    assert not (copied / "include/linux/types.h").exists()
    assert is_provided(named_source(tree), folder)


def test_an_extraction_that_was_cut_short_begins_anew(
    tree: Path, tmp_path: Path, shell: Shell
) -> None:
    left = tmp_path / "trees" / "source" / "left"
    left.mkdir(parents=True)
    found = provide_tree(named_source(tree), tmp_path / "trees", shell)
    assert tree_version(found).kernel == "6.13"
    assert not left.exists()


def test_a_damaged_tarball_is_said_to_be_so(tree: Path, tmp_path: Path, shell: Shell) -> None:
    whole = archive(tree, tmp_path / "k.tar.gz").read_bytes()
    damaged = tmp_path / "damaged.tar.gz"
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"damaged\.tar\.gz failed: .*unexpected end of file"):
        provide_tree(named_source(damaged), tmp_path / "trees", shell)
    assert not (tmp_path / "trees").exists()


def test_a_tarball_of_something_else_is_refused(tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "song").write_text("la")
    tarball = archive(tmp_path / "song", tmp_path / "songs.tar")
    with pytest.raises(InputError, match="holds no kernel"):
        provide_tree(named_source(tarball), tmp_path / "trees", shell)
    text = tmp_path / "text.gz"
    text.write_bytes(gzip.compress(b"la" * 400))
    with pytest.raises(InputError, match=r"text\.gz failed: tar: This does not look like a tar"):
        provide_tree(named_source(text), tmp_path / "trees", shell)
    with pytest.raises(InputError, match="is no tarball"):
        provide_tree(named_source(tmp_path / "song"), tmp_path / "trees", shell)


def test_a_folder_that_is_no_kernel_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks Makefile"):
        named_source(tmp_path)
    (tree / "arch/x86/kvm/vmx/nested.c").unlink()
    with pytest.raises(InputError, match=r"lacks arch/x86/kvm/vmx/nested\.c"):
        named_source(tree)
    with pytest.raises(InputError, match="there is no kernel tree or tarball"):
        named_source(tmp_path / "nothing")


def test_packages_are_found_by_kernel_and_in_order(tmp_path: Path) -> None:
    for name in ("6.12.tar.xz", "6.1.tar.gz", "6.12-rt.tar.xz", "6.12.patch.xz"):
        (tmp_path / f"linux-source-{name}").touch()
    assert list(packaged(tmp_path)) == ["6.1", "6.12"]
    assert package_source("6.1", tmp_path).path.name == "linux-source-6.1.tar.gz"


@pytest.mark.parametrize("kernel", ["5.10", "6.13"])
def test_a_package_that_is_not_there_can_be_installed(tmp_path: Path, kernel: str) -> None:
    with pytest.raises(InputError, match=f"apt-get install linux-source-{kernel}"):
        package_source(kernel, tmp_path)


@pytest.mark.parametrize("kernel", ["", "six", "6", "6.12.1", "../6.1", "6.12\n"])
def test_what_is_no_kernel_version_is_refused(tmp_path: Path, kernel: str) -> None:
    with pytest.raises(InputError, match="no kernel version"):
        package_source(kernel, tmp_path)


def test_the_key_of_a_source_has_what_tells_it_from_others() -> None:
    source = Source(Path("/usr/src/linux-source-6.12.tar.xz"), "6.12.1-1", "6.12.1-1")
    assert source.key == "linux-source-6.12-6.12.1-1"
