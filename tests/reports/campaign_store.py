# SPDX-License-Identifier: GPL-2.0-only
"""A store with a little of everything, some of it hostile."""

from __future__ import annotations

from pathlib import Path

from nvmxfuzz.campaign.plan import load_harness
from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.campaign.store.values import Behaviour, Provenance, Sample, StoredWorker, Verdict
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.oracles.finding import Finding

FORGETFUL = Path(__file__).parents[1] / "campaign" / "harnesses" / "forgetful.py"
SHOWS_IT = 'base = "guest-64"\n[vmcs]\nhost_cr3 = 0x8000000000041000\n'
HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)> \x00\x1b[2J\u202e"
WARNED = Finding("kvm.survives", (), ("cpu", "kvm-6.12"), "WARN vmx/nested.c:1234", "KVM warned")
EVIL = Finding(HOSTILE, (HOSTILE,) * 1000, (HOSTILE, "cpu"), HOSTILE, HOSTILE * 300)
HUGE = (1 << 63) - 1
ODD = 30
VERDICTS: tuple[Verdict, ...] = ("n/a", "held", "broken")


def dry_run() -> Finding:
    """Return a finding that shows whenever its case is run."""
    found = load_harness(FORGETFUL).examine(load_case(SHOWS_IT.encode(), "case"))
    return next(each for each in found if each.oracle == "entry.dry-run")


def make_store(path: Path) -> Path:
    """Write the store: of its two campaigns the last one was killed, and saw one finding first."""
    with open_store(path) as store, store.together():
        first = store.begin_campaign("format = 1\n# </pre><b>bold</b>\n", 7, 1_700_000_000)
        store.add_finding(first, str(FORGETFUL), dry_run(), b"\1", SHOWS_IT, seconds=3)
        store.add_reruns(str(FORGETFUL), dry_run().identity, 5, 5)
        store.add_finding(first, HOSTILE, EVIL, b"\2", HOSTILE * 100, target=HOSTILE)
        store.count_sightings(first, HOSTILE, {EVIL.identity: HUGE})
        store.update_campaign(first, HUGE, 1e300, "time", now=HUGE)
        last = store.begin_campaign("format = 1\n", 8, 1_700_100_000)
        store.add_finding(last, "vm_entry", WARNED, b"\3", SHOWS_IT, target="kvm-6.12")
        store.add_reruns("vm_entry", WARNED.identity, 5, 2)
        store.count_sightings(last, "vm_entry", {WARNED.identity: 1234})
        for number in range(2):
            store.keep_worker(
                last,
                StoredWorker(
                    *(number, 0, "vm_entry", "kvm-6.12", "atheris", 9, 1000 * number, 40.0),
                    deaths=number,
                ),
            )
            for at in range(10):
                store.add_sample(last, number, Sample(at, 400 * at, 3 * at, 9 * at, 0))
        for at in range(40):
            sample = Sample(at, 900 * at, 5 * at, 20 * at, at // 30, 100 + at, 1 << 28, 1.0)
            store.add_sample(last, None, sample)
        store.add_sample(last, None, Sample(41.0, HUGE, HUGE, HUGE, HUGE))
        store.update_campaign(last, 36_000, 40.0, "running", now=1_700_100_040)
        seen = [
            Behaviour(rule.name, verdict)
            for number, rule in enumerate(CHAPTER.rules[:90])
            for verdict in VERDICTS[: 1 + number % 3]
        ]
        fired = Behaviour("cpl > 3 && <b> in nested_vmx_run", "fired")
        store.keep_input("vm_entry", "kvm-6.12", b"\1", Provenance("seed"), [*seen, fired])
        odd = [Behaviour(f"site {HOSTILE} {number}", "held") for number in range(ODD)]
        store.note_behaviours(HOSTILE, "", odd)
        store.count_known(last, {"kvm.guest.segments": 12, HOSTILE: HUGE})
    return path
