# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz status`: where a campaign stands, in three forms."""

import csv
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nvmxfuzz.campaign.store import Store, open_store
from nvmxfuzz.campaign.store.beside import plot_file, stats_file, write_beside
from nvmxfuzz.campaign.store.standing import standing
from nvmxfuzz.campaign.store.values import Behaviour, Provenance, Sample, StoredWorker
from nvmxfuzz.errors import InputError
from nvmxfuzz.oracles.finding import Finding

Run = Callable[..., tuple[int, str, str]]

ODD = 'kvm-6.12 "quoted" \\ back\nnew ☃'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def fill(store: Store) -> int:
    """Write a campaign with a bit of everything."""
    campaign = store.begin_campaign("seed = 5\n", 5, 1_700_000_000)
    store.update_campaign(campaign, 9000, 100.0, "running", now=1_700_000_100)
    store.keep_worker(
        campaign,
        StoredWorker(0, 0, "vm_entry", ODD, "atheris", 5, 9000, 99.0, "running", 3, 2, 50, 49),
    )
    data = Provenance("engine", campaign=campaign, worker=0, seconds=60.0)
    store.keep_input("vm_entry", ODD, b"1", data, [Behaviour("rule", "held")])
    store.note_behaviours(
        *("vm_entry", ODD, [Behaviour("rule", "broken")]), campaign=campaign, seconds=70.0
    )
    for number in (1, 2):
        finding = Finding("some.oracle", (str(number),), ("cpu", "kvm"), "", "so")
        store.add_finding(campaign, "vm_entry", finding, b"", "", seconds=80.0)
    store.add_reruns("vm_entry", finding.identity, 5, 2)
    store.count_known(campaign, {"a-difference": 7})
    for seconds, executions in ((20.0, 1000), (30.0, 2000), (90.0, 8000)):
        sample = Sample(seconds, executions, 1, 2, 2, 300, 5 << 20, 0.98)
        store.add_sample(campaign, None, sample)
    return campaign


def test_a_person_sees_where_it_stands(run: Run, path: Path) -> None:
    with open_store(path) as store:
        fill(store)
    status, out, err = run("status", path)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].endswith("store.db: campaign 1 was killed")
    for line in (
        "  time          0:01:40",
        "  executions    9,000 (100 a second)",
        "  new behaviour 0:00:30 ago, at 0:01:10",
        "  new finding   0:00:20 ago, at 0:01:20",
        "  findings      2, 1 of them flaky",
        "            2  some.oracle",
        "            7  a-difference",
        "  coverage      300 edges of nested.c",
        "  memory        5 MiB",
        "  stability     98.00%",
        "  deaths        a worker was replaced 2 times",
    ):
        assert line in lines
    assert 'worker 0      vm_entry on kvm-6.12 "quoted" \\ back\\nnew ☃ by atheris' in out


def test_a_program_reads_the_same(run: Run, path: Path) -> None:
    with open_store(path) as store:
        fill(store)
    status, out, _ = run("status", path, "--json")
    reply = json.loads(out)
    assert (status, reply["state"], reply["campaign"]) == (0, "killed", 1)
    assert (reply["executions"], reply["executions_per_second"]) == (9000, 100.0)
    assert reply["corpus"] == [{"harness": "vm_entry", "target": ODD, "inputs": 1}]
    assert reply["behaviours"] == [{"harness": "vm_entry", "target": ODD, "broken": 1, "held": 1}]
    assert reply["findings"] == {"some.oracle": 2}
    assert reply["workers"][0]["stability"] == 0.98


LINE = re.compile(
    r'nvmxfuzz_[a-z_]+(\{[a-z]+="(?:[^"\\\n]|\\\\|\\"|\\n)*"(?:,[a-z]+="(?:[^"\\\n]|\\\\|\\"|\\n)*")*\})?'
    r" -?[0-9.e+-]+"
)


def metrics(text: str) -> dict[str, str]:
    """Return the values by name and labels, of a text that keeps to the format."""
    assert text.endswith("\n")
    found: dict[str, str] = {}
    declared: list[str] = []
    for line in text.splitlines():
        if line.startswith("# HELP "):
            declared.append(line.split()[2])
            assert len(line.split()) > 3
        elif line.startswith("# TYPE "):
            assert line.split()[2] == declared[-1]
            assert line.split()[3] == ("counter" if declared[-1].endswith("_total") else "gauge")
        else:
            assert LINE.fullmatch(line), line
            assert re.split(r"[{ ]", line)[0] == declared[-1]
            name, _, value = line.rpartition(" ")
            assert name not in found
            found[name] = value
    assert len(declared) == len(set(declared))
    return found


def test_prometheus_reads_it_too(run: Run, path: Path) -> None:
    with open_store(path) as store:
        fill(store)
    status, out, _ = run("status", path, "--prometheus")
    found = metrics(out)
    target = 'kvm-6.12 \\"quoted\\" \\\\ back\\nnew ☃'
    assert status == 0
    assert found['nvmxfuzz_campaign_running{campaign="1"}'] == "0"
    assert found[f'nvmxfuzz_corpus_inputs{{harness="vm_entry",target="{target}"}}'] == "1"
    assert found['nvmxfuzz_findings{oracle="some.oracle"}'] == "2"
    assert found["nvmxfuzz_flaky_findings"] == "1"
    (executions,) = (value for name, value in found.items() if "executions_total" in name)
    assert executions == "9000"


def test_a_campaign_that_has_only_begun_has_no_figures_made_up(run: Run, path: Path) -> None:
    with open_store(path) as store:
        store.begin_campaign("", 1, 1)
    _, out, _ = run("status", path)
    assert "new finding   none" in out
    assert "coverage" not in out
    found = metrics(run("status", path, "--prometheus")[1])
    assert not any("edges" in name or "stability" in name for name in found)


RUNNING = """
import sys, time
from pathlib import Path
from nvmxfuzz.campaign.store import open_store
store = open_store(Path(sys.argv[1]))
store.claim()
campaign = store.begin_campaign("", 1, 1)
print(1, flush=True)
for number in range(10**9):
    store.update_campaign(campaign, number, 1.0, "running", now=1)
"""


def test_a_campaign_that_is_running_goes_on(run: Run, path: Path) -> None:
    running = subprocess.Popen([sys.executable, "-c", RUNNING, str(path)], stdout=subprocess.PIPE)
    assert running.stdout is not None
    try:
        running.stdout.readline()
        counts = []
        for _ in range(5):
            status, out, _ = run("status", path, "--json")
            assert status == 0
            assert json.loads(out)["state"] == "running"
            counts.append(json.loads(out)["executions"])
        assert counts == sorted(counts)
        assert counts[0] < counts[-1]
        assert running.poll() is None
    finally:
        running.kill()
        running.wait()
        running.stdout.close()
    assert json.loads(run("status", path, "--json")[1])["state"] == "killed"


def test_another_campaign_is_asked_for_by_number(run: Run, path: Path) -> None:
    with open_store(path) as store:
        fill(store)
        store.begin_campaign("", 1, 1)
    assert json.loads(run("status", path, "--json")[1])["campaign"] == 2
    assert json.loads(run("status", path, "--json", "--campaign", 1)[1])["executions"] == 9000
    status, _, err = run("status", path, "--campaign", 9)
    assert (status, "has no campaign 9" in err) == (2, True)


def test_what_is_no_store_and_an_empty_one_are_sentences(run: Run, path: Path) -> None:
    status, _, err = run("status", path)
    assert (status, "there is no store" in err) == (2, True)
    open_store(path).close()
    status, _, err = run("status", path)
    assert (status, "has no campaign: nvmxfuzz fuzz begins one" in err) == (2, True)


def test_a_damaged_store_is_a_sentence(run: Run, path: Path) -> None:
    with open_store(path) as store:
        fill(store)
    content = bytearray(path.read_bytes())
    content[5000:] = b"\xa5" * (len(content) - 5000)
    path.write_bytes(content)
    status, out, err = run("status", path)
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_very_many_rows_are_counted_up_to_a_bound(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(path) as store:
        store.begin_campaign("", 1, 1)
    database = sqlite3.connect(path)
    database.execute(
        "INSERT INTO input (harness, target, digest, data, origin) WITH RECURSIVE n(i) AS"
        " (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT 'h' || i, '',"
        " CAST(printf('%032d', i) AS BLOB), x'', 'engine' FROM n"
    )
    database.commit()
    database.close()
    monkeypatch.setattr("nvmxfuzz.campaign.store.inputs.MOST_INPUTS", 100)
    status, out, _ = run("status", path, "--json")
    assert (status, len(json.loads(out)["corpus"])) == (0, 100)


def test_the_files_beside_a_store_say_the_same(path: Path) -> None:
    with open_store(path) as store:
        number = fill(store)
        found = standing(store, running=True)
        write_beside(path, found, store.samples(number))
        write_beside(path, found, store.samples(number))
    stats = json.loads(stats_file(path).read_text("utf-8"))
    assert (stats["state"], stats["executions"]) == ("running", 9000)
    rows = list(csv.DictReader(plot_file(path).read_text("utf-8").splitlines()))
    assert [row["executions_per_second"] for row in rows] == ["50.0", "100.0", "100.0"]
    assert rows[-1]["resident_bytes"] == str(5 << 20)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "store.db",
        "store.db.plot.csv",
        "store.db.stats.json",
    ]


def test_files_that_cannot_be_written_are_a_sentence(path: Path) -> None:
    with open_store(path) as store:
        number = fill(store)
        stats_file(path).mkdir()
        with pytest.raises(InputError, match=r"stats\.json, where a campaign says"):
            write_beside(path, standing(store, running=True), store.samples(number))
