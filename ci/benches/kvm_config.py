#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how far the model of setup_vmcs_config() and the real function agree on tables of MSRs.

The arguments are the number of tables, the seed, and the number of processes. Tables come from the
mutator of the campaign, started at its seeds; each meets each kernel that is built, with the
parameter error_on_inconsistent_vmcs_config on and off. Any difference is an error.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from multiprocessing import get_context
from random import Random
from time import perf_counter
from typing import Final

from nvmxfuzz.campaign.config_sites import SITES, site_verdicts
from nvmxfuzz.campaign.plan import corpus_files
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import ConfigCase
from nvmxfuzz.inputs.codec import decode, encode
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.inputs.mutate import mutator
from nvmxfuzz.inputs.parts import is_text
from nvmxfuzz.kvm.hardware_setup import hardware_setup
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.source import find_kernel
from nvmxfuzz.kvm.vmcs_config import ConfigOutcome
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.config.capability_config import loading_of
from nvmxfuzz.oracles.config.kvm_config import NoConfig, compare
from nvmxfuzz.targets.kvm_native.config import KERNEL_OF, KvmConfig, config_witness

TABLES = 20_000
BLOCK = 10_000
"""Tables that come from one seed of their own: what a process takes at a time."""
LONGEST = 512
STEPS = 12
"""How many times an input is mutated, and yielded, before the next one starts at a seed."""
SHOWN = 20
TOLD = 10 * BLOCK
"""After so many tables a process says how far it is."""
CALLS = 100_000
HARNESS: Final = "capability_config"
PLAIN = load_profile("sapphire-rapids")


@dataclass(slots=True)
class Tally:
    """What came of some tables; `examples` has an input for each difference, in hexadecimal."""

    tables: int = 0
    relations: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    sites: set[int] = field(default_factory=set)
    checksum: int = 0

    def add(self, other: Tally) -> None:
        """Add what came of others."""
        self.tables += other.tables
        self.relations += other.relations
        self.results += other.results
        self.reasons += other.reasons
        self.different += other.different
        self.examples = {**other.examples, **self.examples}
        self.sites |= other.sites
        self.checksum = (self.checksum + other.checksum) % (1 << 64)


@cache
def starts() -> tuple[bytes, ...]:
    """Return the seeds that a campaign starts from, but for those that no number is known of."""
    cases = (load_case(path.read_bytes(), str(path)) for path in corpus_files(HARNESS))
    inputs = (encode(case) for case in cases if case.harness == HARNESS)
    return tuple(data for data in inputs if not is_text(data))


def inputs(seed: str) -> Iterator[bytes]:
    """Yield what the mutator makes of the seeds, ever farther from them."""
    source = Random(seed)

    def own(data: bytes, most: int) -> bytes:
        return scrambled(data, most, source)

    mutate = mutator(HARNESS, own)
    while True:
        data = source.choice(starts())
        for _ in range(STEPS):
            data = mutate(data, LONGEST, source.getrandbits(31))
            yield data


def scrambled(data: bytes, most: int, source: Random) -> bytes:
    """Return bytes with one changed, one more or one less: in place of libFuzzer's mutation."""
    changed = bytearray(data or b"\0")
    at = source.randrange(len(changed))
    match source.randrange(4):
        case 0:
            changed.insert(at, source.getrandbits(8))
        case 1:
            del changed[at]
        case _:
            changed[at] ^= 1 << source.randrange(8)
    return bytes(changed[:most])


@cache
def witnesses() -> tuple[KvmConfig, ...]:
    """Return the real function of each kernel that is built."""
    found = []
    for target in KERNEL_OF:
        try:
            found.append(config_witness(target))
        except InputError as error:
            print(f"kvm-config, {target} is left out: {error}", flush=True)
    return tuple(found)


def run_block(seed: str, count: int) -> Tally:
    """Compare the first tables of a seed."""
    tally = Tally(count)
    for data in islice(inputs(seed), count):
        case = decode(data, HARNESS)
        assert isinstance(case, ConfigCase)
        loading = loading_of(case)
        for witness in witnesses():
            for rejects in (False, True):
                params = ModuleParams(rejects, loading.params.enlightened_vmcs)
                examine(witness, loading.host, params, tally, data)
    return tally


def examine(
    witness: KvmConfig, host: HostCpu, params: ModuleParams, tally: Tally, data: bytes
) -> None:
    """Compare on one loading of the module."""
    kernel = find_kernel(witness.kernel)
    model = hardware_setup(host, kernel, params)
    real = witness.observe(host, kernel, params)
    found = compare(model, real, kernel)
    tally.relations[f"{kernel.version} {found.relation}"] += 1
    if isinstance(real, NoConfig):
        tally.reasons[real.reason] += 1
    else:
        note(model, real, tally, kernel.version)
    parameter = "on" if params.error_on_inconsistent_vmcs_config else "off"
    for rule, site, message in found.differences:
        where = f"{kernel.version}, parameter {parameter}, {rule} {site}"
        tally.different[where] += 1
        tally.examples.setdefault(where, f"{message}; input {data.hex()}")


def note(model: ConfigOutcome, real: ConfigOutcome, tally: Tally, kernel: str) -> None:
    """Count what was provoked, and add the real function's answer to the checksum."""
    tally.results[f"{kernel} {'refused' if real.config is None else 'accepted'}"] += 1
    tally.sites.update(site_verdicts(ConfigCase(PLAIN, kernel=kernel), model).broken)
    # Numbers alone: the hash of a string is another one in each process.
    numbers = real.errno, real.config or 0, *(warning.arguments for warning in real.warnings)
    tally.checksum = (tally.checksum * 31 + hash(numbers)) % (1 << 64)


def run_share(arguments: tuple[int, int, int, int]) -> Tally:
    """Compare every so many blocks: what one process does."""
    first, count, seed, processes = arguments
    tally, begin = Tally(), perf_counter()
    for number in range(first, -(-count // BLOCK), processes):
        tally.add(run_block(f"{seed}/{number}", min(BLOCK, count - number * BLOCK)))
        if tally.tables % TOLD == 0:
            seconds = perf_counter() - begin
            said = f"process {first}: {tally.tables:,} tables, {seconds:,.0f} s"
            print(f"{said}, {dict(tally.relations)}", file=sys.stderr, flush=True)
    return tally


def report(tally: Tally, seconds: float, processes: int) -> None:
    """Print the figures."""
    print(f"kvm-config, {tally.tables:,} tables, parameter off and on:")
    for witness in witnesses():
        counts = {
            name.partition(" ")[2]: f"{number:,} {name.partition(' ')[2]}"
            for name, number in sorted((tally.relations + tally.results).items())
            if name.startswith(f"{witness.kernel} ")
        }
        print(f"  {witness.kernel}: " + ", ".join(counts.values()))
    for reason, number in tally.reasons.most_common(SHOWN):
        print(f"  no config: {reason} {number:,}")
    for where, number in tally.different.most_common(SHOWN):
        print(f"  DIFFERENT: {where} {number:,}: {tally.examples[where]}")
    report_sites(tally)
    print(
        f"kvm-config, speed: {tally.tables / seconds:,.0f} tables a second in {processes} "
        f"process{'es' if processes > 1 else ''}; checksum of all answers {tally.checksum:016x}"
    )


def report_sites(tally: Tally) -> None:
    """Print how many outcomes, refusals and warnings of the model were provoked."""
    kernels = tuple(f"{witness.kernel} " for witness in witnesses())
    possible = [at for at, site in enumerate(SITES) if site.startswith(kernels)]
    missing = [SITES[at] for at in possible if at not in tally.sites]
    print(f"kvm-config, sites: {len(possible) - len(missing)} of {len(possible)} provoked")
    for site in missing:
        print(f"  not provoked: {site}")


def report_calls(witness: KvmConfig) -> None:
    """Print how fast the real function is called with a table of its own each time."""
    kernel, params = find_kernel(witness.kernel), ModuleParams()
    hosts = [HostCpu({**PLAIN.msrs, 0x48C: number}) for number in range(64)]
    begin = perf_counter()
    for number in range(CALLS):
        witness.observe(hosts[number & 63], kernel, params)
    seconds = perf_counter() - begin
    print(
        f"kvm-config, calls: {CALLS / seconds:,.0f} a second of {witness.kernel}, "
        f"a table of {len(PLAIN.msrs)} MSRs installed each time"
    )


def main() -> int:
    """Run all blocks; then the first one again, which must come to the same."""
    given = [int(argument) for argument in sys.argv[1:]]
    count, seed, processes = (*given, *(TABLES, 1, 1)[len(given) :])
    if not witnesses():
        return 0
    begin = perf_counter()
    tally = Tally()
    with get_context("fork").Pool(processes) as pool:
        shares = [(first, count, seed, processes) for first in range(processes)]
        for share in pool.map(run_share, shares, chunksize=1):
            tally.add(share)
        seconds = perf_counter() - begin
        again = pool.map(run_again, [(seed, min(BLOCK, count))] * 2, chunksize=1)
    report(tally, seconds, processes)
    same = again[0] == again[1]
    print(f"kvm-config, the same seed again: {'the same' if same else 'DIFFERENT'} answers")
    for witness in witnesses():
        report_calls(witness)
    wrong = tally.different or any("stopped" in name for name in tally.relations)
    return 0 if same and not wrong else 1


def run_again(arguments: tuple[int, int]) -> int:
    """Return the checksum of the first block."""
    seed, count = arguments
    return run_block(f"{seed}/0", count).checksum


if __name__ == "__main__":
    sys.exit(main())
