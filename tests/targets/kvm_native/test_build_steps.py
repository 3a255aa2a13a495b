# SPDX-License-Identifier: GPL-2.0-only
"""The steps of a build: commands, failures, the lock, and what is compiled with which options."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path
from threading import Thread

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.builder import is_known
from nvmxfuzz.targets.kvm_native.build.flags import COMPILERS, Compiler, is_covered
from nvmxfuzz.targets.kvm_native.build.lock import locked
from nvmxfuzz.targets.kvm_native.build.objects import OPTIONS
from nvmxfuzz.targets.kvm_native.build.progress import Progress
from nvmxfuzz.targets.kvm_native.build.recipe import load_recipe
from nvmxfuzz.targets.kvm_native.build.shell import SHOWN_LINES, Shell, StepError, telling_lines
from nvmxfuzz.targets.kvm_native.build.tools import compiler_version, demand_headers, demand_tools
from nvmxfuzz.targets.kvm_native.build.units import Unit, kernel_units, lay_over, matches

RECIPE = load_recipe()
GCC_SAYS = """In file included from arch/x86/kvm/x86.c:9:
include/linux/kvm_host.h:7:1: error: unknown type name 'u65'
    7 | u65 a;
make[1]: *** [x86.o] Error 1
"""


class Notices(Progress):
    """Keeps what a person would read."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def notice(self, text: str) -> None:
        """Keep it."""
        self.texts.append(text)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "log", os.open(os.devnull, os.O_RDONLY), Progress())


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    shim, tree, config, work = (tmp_path / name for name in ("shim", "tree", "config", "work"))
    return Compiler("plain", RECIPE, shim, tree, config, work, "/gcc/include")


def unit(place: str) -> Unit:
    return Unit(Path("/somewhere") / place, place)


def test_a_failed_step_shows_what_the_tool_said_and_where_the_rest_is(shell: Shell) -> None:
    program = f"import sys; sys.stderr.write({GCC_SAYS!r}); sys.exit(1)"
    with pytest.raises(StepError, match=r"compiling x86\.c failed: include.* error: unk") as caught:
        shell.run([sys.executable, "-c", program], "compiling x86.c")
    assert caught.value.lines[0].endswith("error: unknown type name 'u65'")
    assert str(shell.log) in str(caught.value)
    assert "In file included" in shell.log.read_text()


def test_a_full_disk_is_named(shell: Shell) -> None:
    program = "import sys; sys.exit('cc1: fatal error: No space left on device')"
    with pytest.raises(StepError, match="failed: there is no space left on the disk"):
        shell.run([sys.executable, "-c", program], "compiling")


def test_a_tool_that_says_nothing_fails_with_a_sentence_too(shell: Shell) -> None:
    with pytest.raises(StepError, match="it does not say why"):
        shell.run(["false"], "linking")
    # As a system without memory ends one.
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    with pytest.raises(StepError, match="linking failed: Killed; everything"):
        shell.run(killed, "linking")


def test_few_lines_are_shown() -> None:
    assert telling_lines("a\n" * 3 + "x.c:1: error: b\n" * 50) == ["x.c:1: error: b"] * SHOWN_LINES


def test_the_environment_says_nothing_to_the_tools(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCH", "arm64")
    monkeypatch.setenv("MAKEFLAGS", "-n")
    words = [sys.executable, "-c", "import os; print(*os.environ)"]
    seen = shell.run(words, "asking").split()
    assert {"PATH", "LC_ALL"} <= set(seen)
    assert not {"ARCH", "MAKEFLAGS"} & set(seen)


def test_the_second_build_waits_and_says_so(tmp_path: Path) -> None:
    path, notices, order = tmp_path / "lock", Notices(), []

    def second() -> None:
        with locked(path, notices):
            order.append("second")

    with locked(path, Progress()):
        waiting = Thread(target=second)
        waiting.start()
        while not notices.texts:
            pass
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    assert notices.texts == ["another build is running in this cache: waiting for its end"]


def test_a_tool_that_is_left_running_keeps_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, Progress()) as descriptor:
        kept = os.dup(descriptor)
    with path.open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(kept)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_missing_programs_are_one_sentence_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="gcc, flex, ld, nm: run apt-get install gcc flex binu"):
        demand_tools(["gcc", "flex", "ld", "nm"])
    with pytest.raises(InputError, match="gcc does not run"):
        compiler_version("gcc")


def test_a_compiler_without_a_c_library_is_told_of(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    with pytest.raises(InputError, match="libc6-dev"):
        demand_headers(str(compiler))


def test_no_path_of_this_machine_is_a_name_of_a_file(compiler: Compiler) -> None:
    words = compiler.kernel_words(unit("arch/x86/kvm/x86.c"))
    for folder in (compiler.tree, compiler.config, compiler.work):
        assert f"-ffile-prefix-map={folder}/=" in words
    assert f"-ffile-prefix-map={compiler.shim}/=shim/" in words


def test_the_shim_comes_before_the_kernel(compiler: Compiler) -> None:
    words = compiler.kernel_words(unit("lib/xarray.c"))
    included = [word for word in words if word.startswith("-I")]
    assert included[0] == f"-I{compiler.shim}/include"
    assert words.index("-nostdinc") < words.index(included[0])


def test_defines_are_by_place(compiler: Compiler) -> None:
    renamed = "-Dinit_module=vmx_init_module"
    assert renamed in compiler.kernel_words(unit("arch/x86/kvm/vmx/main.c"))
    assert renamed not in compiler.kernel_words(unit("arch/x86/kvm/x86.c"))


def test_coverage_is_of_kvm_alone() -> None:
    assert is_covered("arch/x86/kvm/vmx/hosted_nested.c", RECIPE)
    for place in ("virt/kvm/kvm_main.c", "lib/xarray.c", "runtime/heap.c"):
        assert not is_covered(place, RECIPE)


@pytest.mark.parametrize("variant", COMPILERS)
def test_each_variant_has_its_flags_and_its_option(variant: str) -> None:
    assert {f"{variant}-all", f"{variant}-covered", f"{variant}-link"} <= RECIPE.flags.keys()
    assert COMPILERS[variant] in RECIPE.flags
    assert variant in OPTIONS


def test_the_shim_lies_over_the_kernel(tmp_path: Path) -> None:
    tree, shim, work = (tmp_path / name for name in ("tree", "shim", "work"))
    kernel = ("x86.c", "vmx/vmx.c", "vmx/vmx_ops.h", "vmx/sgx.c", "xen.c", "svm/svm.c")
    for top, names in ((tree / "arch/x86/kvm", kernel), (shim / "kvm", ("vmx/vmx_ops.h", "a.c"))):
        for name in names:
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text(str(top))
    (tree / "lib").mkdir()
    (tree / "lib/rbtree.c").touch()
    lay_over(tree, shim, work)
    lay_over(tree, shim, work)
    assert (work / "arch/x86/kvm/vmx/vmx_ops.h").read_text() == str(shim / "kvm")
    assert (tree / "arch/x86/kvm/vmx/vmx_ops.h").read_text() == str(tree / "arch/x86/kvm")
    assert [found.place for found in kernel_units(tree, work, RECIPE)] == [
        "arch/x86/kvm/a.c",
        "arch/x86/kvm/x86.c",
        "arch/x86/kvm/vmx/sgx.c",
        "lib/rbtree.c",
    ]


def test_objects_have_names_of_their_own() -> None:
    assert unit("arch/x86/kvm/irq.c").object_name == "arch-x86-kvm-irq.o"
    assert unit("virt/kvm/irq.c").object_name == "virt-kvm-irq.o"


def test_patterns_and_known_kernels() -> None:
    assert matches("arch/x86/kvm/vmx/tdx.c", ["arch/x86/kvm/*"])
    assert not matches("arch/x86/kvm", ["arch/x86/kvm/*"])
    assert is_known("6.12", RECIPE)
    assert not is_known("5.10", RECIPE)
