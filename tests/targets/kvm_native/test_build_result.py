# SPDX-License-Identifier: GPL-2.0-only
"""What was really built: complete, of the right kernel, and without a path of this machine."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject
from nvmxfuzz.targets.kvm_native.build.recipe import SHIM, shim_hash

OFFERED = re.compile(r"NVMX_API [^;(]*?\b(nvmx_[a-z0-9_]+)\(")


def test_the_manifest_is_that_of_the_object(built: BuiltObject) -> None:
    manifest = built.manifest
    assert manifest.sha256 == hashlib.sha256(built.path.read_bytes()).hexdigest()
    assert manifest.version.startswith(f"{manifest.kernel}.")
    assert manifest.shim == shim_hash()
    assert manifest.known
    assert {"arch/x86/kvm/x86.c", "virt/kvm/kvm_main.c"} <= set(manifest.files)
    assert "arch/x86/kvm/vmx/hosted_nested.c" in manifest.files


def test_everything_that_the_header_promises_is_there(built: BuiltObject) -> None:
    promised = set(OFFERED.findall((SHIM / "nvmx.h").read_text()))
    symbols = {line.split()[-1] for line in built.symbols.read_text().splitlines()}
    assert len(promised) > 30
    assert promised <= symbols
    assert {"setup_vmcs_config", "nested_vmx_run"} <= symbols


def test_the_kernel_defines_none_of_the_names_that_have_stubs(built: BuiltObject) -> None:
    stubs = {*built.manifest.functions, *built.manifest.data}
    assert len(stubs) < 120
    assert not stubs & {"nested_vmx_run", "kvm_init", "kvm_vcpu_ioctl", "memcpy"}


def test_files_are_named_within_the_kernel_tree(built: BuiltObject) -> None:
    content = built.path.read_bytes()
    assert b"\0arch/x86/kvm/vmx/nested.c\0" in content
    for path in (Path.home(), SHIM, built.path.parents[2]):
        assert str(path).encode() + b"/" not in content


def test_a_limit_on_addresses_is_told(built: BuiltObject) -> None:
    code = (
        "import resource, sys\n"
        "from nvmxfuzz.errors import InputError\n"
        "from nvmxfuzz.targets.kvm_native.build.objects import find_object\n"
        "from nvmxfuzz.targets.kvm_native.library import Library\n"
        "resource.setrlimit(resource.RLIMIT_AS, (900 << 20, 900 << 20))\n"
        "try:\n    Library.of(find_object(sys.argv[1]))\n"
        "except InputError as error:\n    print(error)\n"
    )
    words = [sys.executable, "-c", code, built.kernel]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "within 900 MiB of addresses: it takes 1 GiB, raise ulimit -v" in said
