#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Check that the profiles kvm-KERNEL-HOST are what the real KVM offers; with --write, write them.

A kernel that is not built cannot be asked: that is said, and no failure unless NVMXFUZZ_REQUIRE_KVM
names it.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.targets.kvm_native.target import KvmTarget, available

FOLDER = Path(__file__).resolve().parents[2] / "nvmxfuzz" / "machine" / "profiles"
KERNELS = ("6.1", "6.12")
HOSTS = ("skylake-x", "penryn", "sapphire-rapids", "everything")
"""The usual one; one without EPT; a recent one; all that the vocabulary has."""


def page(profile: Profile, kernel: str, host: str) -> Iterator[str]:
    """Yield the lines of a profile's file."""
    yield "# SPDX-License-Identifier: GPL-2.0-only"
    yield "# generated: .venv/bin/python ci/checks/kvm_profiles.py --write"
    yield 'note = """'
    yield f"What KVM of Linux {kernel} offers a hypervisor in a guest on {host}, with the module"
    yield 'parameters at their defaults and every CPUID feature that it supports. No hardware."""'
    for key in ("family", "model", "stepping", "maxphyaddr", "linear_address_bits"):
        yield f"{key} = {getattr(profile, key)}"
    yield "features = ["
    yield from (f'    "{name}",' for name in sorted(profile.features))
    yield "]"
    for key, value in profile.to_mapping().items():
        if key.endswith("_mask") and isinstance(value, int):
            yield f"{key} = {_word(value)}"
    yield ""
    yield "[msrs]"
    yield from (f'"{index:#x}" = {_word(value)}' for index, value in sorted(profile.msrs.items()))


def _word(value: int) -> str:
    digits = f"{value:016x}"
    return "0x" + "_".join(digits[at : at + 4] for at in range(0, 16, 4))


def main() -> int:
    """Compare or write the files; return the exit status."""
    status = 0
    required = os.environ.get("NVMXFUZZ_REQUIRE_KVM", "").split(",")
    for kernel in KERNELS:
        reason = available(kernel)
        if reason:
            print(f"the profiles of kvm-{kernel} cannot be checked: {reason}", file=sys.stderr)
            status = max(status, int(kernel in required))
            continue
        kvm = KvmTarget(kernel)
        for host in HOSTS:
            path = FOLDER / f"{kvm.name}-{host}.toml"
            text = "\n".join(page(kvm.virtual(load_profile(host)), kernel, host)) + "\n"
            if "--write" in sys.argv[1:]:
                path.write_text(text)
            elif not path.is_file() or path.read_text() != text:
                print(f"{path.name} is not what KVM offers: run this check with --write")
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
