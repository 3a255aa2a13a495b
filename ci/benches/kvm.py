#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how fast the real KVM runs in this process, against what is asked of it.

The ratio is against a call of C that does nothing, in rounds that take turns.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import cycle
from statistics import median
from time import perf_counter_ns

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native.build.objects import find_object, usable
from nvmxfuzz.targets.kvm_native.direct import Batch, ConfigSetup, Direct, l1_of
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.vm import Fresh, Machine, fresh
from nvmxfuzz.targets.kvm_native.vmcs12 import Vmcs12Layout

KERNELS = ("6.1", "6.12")
PROFILE = "skylake-x"
ROUNDS = 15
CALLS = 2000
LIVES = 20
BATCH = 1000
IMAGES = 64


class Bench:
    """One kernel: a vCPU in VMX operation, and VMCSs that pass or are a bit away from that."""

    def __init__(self, kernel: str) -> None:
        built = find_object(kernel)
        self.kernel = kernel
        self.library = Library(built.path, built.symbols)
        self.hardware = hardware_of(load_profile(PROFILE))
        self.made: Fresh = fresh(self.library, self.hardware)
        self.direct = Direct(self.library, self.made.vcpu.address)
        self.layout = Vmcs12Layout(self.library)
        start = base("guest-64", load_profile(PROFILE))
        for address, data in start.memory.regions:
            self.made.vm.memory.write(address, data)
        self.l1 = l1_of(start.processor)
        self.direct.reset_l1(self.l1)
        self.start = start.vmcs
        self.images = self._images(random.Random(1))
        self.batch = Batch(self.library, self.direct, self.layout.size, BATCH)
        for index, image in zip(range(BATCH), cycle(self.images), strict=False):
            self.batch.put(index, image)

    def _images(self, source: random.Random) -> list[bytes]:
        images = [self.layout.pack(self.start)]
        while len(images) < IMAGES:
            field = source.choice(self.layout.fields)
            value = self.start.__dict__[field.name] ^ 1 << source.randrange(field.width)
            images.append(self.layout.pack(self.start.replace({field.name: value})))
        return images

    def report(self, title: str, work: Callable[[], object], each: int, goal: int) -> None:
        """Print the median of what `work`, which is `each` executions, does in a second."""
        idle = self.library.functions.nvmx_kernel_version
        empty, worked = [], []
        for _ in range(ROUNDS):
            empty.append(timed(lambda: repeat(idle, CALLS)) / CALLS)
            worked.append(timed(work) / each)
        ratio = median(one / other for one, other in zip(worked, empty, strict=True))
        rate = 1e9 / median(worked)
        print(
            f"kvm-{self.kernel}, {title}: {rate:,.0f} a second"
            f"{f' ({goal:,} asked for)' if goal else ''}, {ratio:.2f} empty calls"
        )

    # ------------------------------------------------------------------ what is measured

    def pack(self) -> None:
        """Make images."""
        pack, start = self.layout.pack, self.start
        for _ in range(CALLS):
            pack(start)

    def check_parts(self) -> None:
        """Call the check functions one by one."""
        direct = self.direct
        for image in self.images:
            direct.check_controls(image)
            direct.check_address_space_size(image)
            direct.check_host_state(image)
            direct.check_guest_state(image)

    def check(self) -> None:
        """Make all checks of an image in one call."""
        check = self.direct.check
        for image in self.images:
            check(image)

    def run(self) -> None:
        """Run images, each in a new L1."""
        run, reset, l1 = self.direct.run, self.direct.reset_l1, self.l1
        for image in self.images:
            run(image)
            reset(l1)

    def run_whole(self) -> None:
        """Run VMCSs as a target does: pack, run, read the outcome, reset."""
        direct, start, layout = self.direct, self.start, self.layout
        for rip in range(IMAGES):
            direct.run(layout.pack(start.replace({"guest_rip": rip})))
            direct.ran()
            direct.reset_l1(self.l1)

    def config(self) -> None:
        """Set up configs, each from another table of MSRs."""
        library, setup = self.library, ConfigSetup(self.library)
        msrs = dict(self.hardware.msrs)
        for bit in range(IMAGES):
            library.set_msr(0x48B, msrs[0x48B] ^ 1 << bit)
            setup.run()
            setup.words()
        library.set_msr(0x48B, msrs[0x48B])

    def fresh(self) -> None:
        """Load KVM, make a VM and a vCPU with CPUID, again and again."""
        for _ in range(LIVES):
            self.library.restore()
            machine = Machine(self.library, self.hardware)
            vcpu = machine.create_vm().create_vcpu()
            vcpu.set_cpuid(machine.supported_cpuid())

    def snapshot(self) -> None:
        """Remember the state of a vCPU, and forget it."""
        for _ in range(LIVES):
            self.library.discard(self.library.snapshot())

    def renew(self) -> None:
        """Go back to a vCPU that has run something since."""
        for _ in range(LIVES):
            self.direct.run(self.images[0])
            self.made.renew()
            self.direct.reset_l1(self.l1)

    def ioctl(self) -> None:
        """Set and refuse MSRs through the ioctl."""
        vcpu = self.made.vcpu
        for bit in range(IMAGES):
            vcpu.set_msr(0x48B, 1 << bit)

    def print_all(self) -> None:
        """Print everything."""
        count, l1, batch = len(self.images), self.l1, self.batch
        self.report("pack a VMCS", self.pack, CALLS, 0)
        self.report("a check function", self.check_parts, 4 * count, 500_000)
        self.report("all checks of a VMCS", self.check, count, 0)
        self.report("all checks, batched", lambda: batch.check(BATCH), BATCH, 0)
        self.report("nested_vmx_run and L1 reset", self.run, count, 30_000)
        self.report("the same from a VMCS to an outcome", self.run_whole, IMAGES, 30_000)
        self.report("nested_vmx_run, batched", lambda: batch.run(BATCH, l1), BATCH, 500_000)
        self.report("setup_vmcs_config on a new table", self.config, IMAGES, 100_000)
        self.report("KVM_SET_MSRS", self.ioctl, IMAGES, 0)
        self.report("renew a vCPU", self.renew, LIVES, 2000)
        self.report("take a snapshot", self.snapshot, LIVES, 0)
        self.report("load KVM, make VM and vCPU", self.fresh, LIVES, 2000)


def repeat(work: Callable[[], object], times: int) -> None:
    """Call a function again and again."""
    for _ in range(times):
        work()


def timed(work: Callable[[], object]) -> int:
    """Return how many nanoseconds `work` takes."""
    start = perf_counter_ns()
    work()
    return perf_counter_ns() - start


def main() -> None:
    """Measure each kernel that is built."""
    for kernel in KERNELS:
        reason = usable(kernel)
        if reason:
            print(f"kvm-{kernel}: skipped, {reason}")
        else:
            Bench(kernel).print_all()


if __name__ == "__main__":
    main()
