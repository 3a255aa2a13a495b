# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz corpus`: what comes in, what goes out, and what stays."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nvmxfuzz.campaign.plan import harness_file, load_harness
from nvmxfuzz.campaign.store import Store, open_store
from nvmxfuzz.campaign.store.values import Behaviour, Provenance
from nvmxfuzz.cli import invocation
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.load import load_case

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
SEEDS = ROOT / "corpus" / "seeds"
PLAIN = 'base = "guest-64"\n'
BROKEN = 'base = "guest-64"\n[vmcs]\nguest_rflags = 0x0a\n'
BROKEN_TOO = 'base = "guest-64"\n[vmcs]\nguest_rflags = 0x800a\nguest_rip = 0x1234\n'
FORGETFUL = ROOT / "tests" / "campaign" / "harnesses" / "forgetful.py"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """A folder of three cases, of which one does nothing of its own."""
    folder = tmp_path / "cases ☃"
    folder.mkdir()
    for name, text in (("plain", PLAIN), ("broken", BROKEN), ("large", BROKEN_TOO)):
        (folder / f"{name}.toml").write_text(text)
    return folder


def encoded(text: str) -> bytes:
    return load_harness(harness_file("vm_entry")).encode(load_case(text.encode(), "case"))


def corpus(path: Path, harness: str = "vm_entry", target: str = "") -> set[bytes]:
    with open_store(path, create=False) as store:
        return {each.data for each in store.inputs(harness, target)}


def test_cases_are_imported_with_the_names_of_their_files(
    run: Run, path: Path, cases: Path
) -> None:
    status, out, err = run("corpus", "import", path, cases)
    assert (status, out, err) == (0, "3 imported, 0 there already, 0 bad\n", "")
    with open_store(path, create=False) as store:
        assert [each.provenance for each in store.inputs("vm_entry")] == [
            Provenance("import", f"{name}.toml") for name in ("broken", "large", "plain")
        ]
    assert corpus(path) == {encoded(text) for text in (PLAIN, BROKEN, BROKEN_TOO)}
    status, out, _ = run("corpus", "import", path, cases, "--json")
    assert (status, json.loads(out)) == (0, {"imported": 0, "known": 3, "bad": 0})


def test_the_seeds_of_all_harnesses_are_imported_at_once(run: Run, path: Path) -> None:
    assert run("corpus", "import", path, SEEDS)[0] == 0
    with open_store(path, create=False) as store:
        assert {harness for harness, _ in store.count_inputs()} == {
            folder.name for folder in SEEDS.iterdir()
        }


def test_bad_files_are_named_and_the_others_are_imported(run: Run, path: Path, cases: Path) -> None:
    (cases / "bad\n.toml").write_text("base = ")
    (cases / "README.md").write_text("no case, and not taken for one")
    (cases / "huge.toml").write_bytes(bytes((1 << 20) + 1))
    status, out, err = run("corpus", "import", path, cases, cases / "nowhere.toml")
    assert (status, out) == (2, "3 imported, 0 there already, 3 bad\n")
    assert err.count("\n") == 3
    assert "bad\\n.toml" in err
    assert "is larger than 1 MiB" in err
    assert "cannot read" in err


def test_strictly_nothing_is_imported_if_one_is_bad(run: Run, path: Path, cases: Path) -> None:
    (cases / "zzz.toml").write_text("base = ")
    status, out, err = run("corpus", "import", path, cases, "--strict")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "zzz.toml" in err
    assert corpus(path) == set()


def test_encoded_inputs_need_the_name_of_their_harness(
    run: Run, path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "libfuzzer"
    folder.mkdir()
    (folder / "0123abcd").write_bytes(encoded(BROKEN))
    (folder / ".hidden").write_bytes(b"x")
    status, _, err = run("corpus", "import", path, folder)
    assert (status, err.count("\n")) == (2, 1)
    assert "name its harness with --harness" in err
    assert run("corpus", "import", path, folder, "--harness", "vm_entry")[0] == 0
    assert corpus(path) == {encoded(BROKEN)}


def test_a_harness_takes_of_a_folder_what_is_its_own(run: Run, path: Path) -> None:
    status, _, err = run("corpus", "import", path, SEEDS, "--harness", "migration")
    assert (status, err) == (0, "")
    with open_store(path, create=False) as store:
        assert set(store.count_inputs()) == {("migration", "")}
    session = next((SEEDS / "session").iterdir())
    status, _, err = run("corpus", "import", path, session, "--harness", "migration")
    assert (status, "is a session: the harness migration takes none" in err) == (2, True)


def test_a_store_gives_its_corpus_to_another_one(
    run: Run, path: Path, cases: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    run("corpus", "import", other, cases)
    assert run("corpus", "import", path, other)[0] == 0
    assert corpus(path) == corpus(other)


def test_a_store_is_no_source_of_itself(run: Run, cases: Path, tmp_path: Path) -> None:
    path = cases / "store"
    link = tmp_path / "link"
    link.symlink_to(path)
    assert run("corpus", "import", path, cases, "--harness", "vm_entry")[0] == 0
    assert len(corpus(path)) == 3
    for name in (path, link):
        status, _, err = run("corpus", "import", path, name)
        assert (status, "is the store itself" in err) == (2, True)


def test_an_input_for_a_target_is_kept_apart(run: Run, path: Path, cases: Path) -> None:
    assert run("corpus", "import", path, cases, "--target", "kvm-model-6.12")[0] == 0
    assert corpus(path) == set()
    assert len(corpus(path, target="kvm-model-6.12")) == 3


def test_what_is_exported_is_read_back_and_exported_again(
    run: Run, path: Path, cases: Path, tmp_path: Path
) -> None:
    run("corpus", "import", path, cases)
    folder = tmp_path / "out"
    status, out, _ = run("corpus", "export", path, folder, "--json")
    assert (status, json.loads(out)["written"]) == (0, 3)
    files = {file: file.read_bytes() for file in (folder / "vm_entry").iterdir()}
    assert {encoded(text.decode()) for text in files.values()} == corpus(path)
    assert all(file.suffix == ".toml" for file in files)
    status, out, _ = run("corpus", "export", path, folder, "--json")
    assert (json.loads(out)["written"], json.loads(out)["there"]) == (0, 3)
    # The folder of a harness is as good as the one above it.
    _, out, _ = run("corpus", "export", path, folder / "vm_entry", "--json")
    assert json.loads(out)["there"] == 3
    assert {file: file.read_bytes() for file in (folder / "vm_entry").iterdir()} == files


def test_a_file_that_somebody_edited_is_left_alone(
    run: Run, path: Path, cases: Path, tmp_path: Path
) -> None:
    run("corpus", "import", path, cases)
    run("corpus", "export", path, tmp_path / "out")
    edited = next((tmp_path / "out" / "vm_entry").iterdir())
    edited.write_text("mine")
    status, _, err = run("corpus", "export", path, tmp_path / "out")
    assert (status, "has been edited since it was written" in err) == (2, True)
    assert edited.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it likes")
def test_a_folder_that_cannot_be_written_is_a_sentence(
    run: Run, path: Path, cases: Path, tmp_path: Path
) -> None:
    run("corpus", "import", path, cases)
    (tmp_path / "out").mkdir(mode=0o500)
    status, _, err = run("corpus", "export", path, tmp_path / "out")
    assert (status, "cannot be written" in err) == (2, True)


def test_a_place_that_is_no_folder_is_a_sentence(
    run: Run, path: Path, cases: Path, tmp_path: Path
) -> None:
    run("corpus", "import", path, cases)
    (tmp_path / "file").write_text("")
    status, _, err = run("corpus", "export", path, tmp_path / "file")
    assert (status, "cannot be written (Not a directory)" in err) == (2, True)


def test_pruning_keeps_the_behaviours_and_drops_the_rest(run: Run, path: Path, cases: Path) -> None:
    run("corpus", "import", path, cases)
    before = corpus(path)
    status, out, _ = run("corpus", "prune", path, "--dry-run", "--json")
    (told,) = json.loads(out)["corpora"]
    assert (status, told["inputs"], told["kept"]) == (0, 3, 2)
    assert corpus(path) == before
    status, out, _ = run("corpus", "prune", path)
    assert out == f"vm_entry: 2 of 3 inputs kept, {told['behaviours']:,} behaviours\n"
    assert corpus(path) == {encoded(PLAIN), encoded(BROKEN)}
    with open_store(path, create=False) as store:
        seen = {each.behaviour: each.input for each in store.behaviours()}
        numbers = {each.number for each in store.inputs("vm_entry")}
    assert len(seen) == told["behaviours"]
    assert set(seen.values()) <= numbers
    assert Behaviour("guest.rflags.reserved", "sole") in seen
    _, out, _ = run("corpus", "prune", path, "--json")
    assert json.loads(out)["corpora"] == [told | {"inputs": 2}]


def test_pruning_that_fails_halfway_drops_nothing(
    run: Run, path: Path, cases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("corpus", "import", path, cases)
    before = corpus(path)

    def full(*_: object) -> None:
        raise InputError("the disk is full")

    monkeypatch.setattr(Store, "credit", full)
    assert run("corpus", "prune", path)[0] == 2
    assert corpus(path) == before


def test_what_cannot_be_run_is_named_and_stays(run: Run, path: Path, cases: Path) -> None:
    run("corpus", "import", path, cases)
    with open_store(path) as store:
        store.keep_input("vm_entry", "no-such-target", b"1", Provenance("import"))
        store.keep_input("/tmp/not-asked-for.py", "", b"1", Provenance("import"))
    status, out, err = run("corpus", "prune", path)
    assert (status, out.count("\n")) == (2, 3)
    assert "no-such-target" in err
    assert "name it with --harness to have it run" in err
    assert corpus(path, target="no-such-target") == {b"1"}
    assert len(corpus(path)) == 2


def test_a_store_can_name_no_file_to_be_run(run: Run, path: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    with open_store(path) as store:
        store.keep_input(str(trap), "", b"1", Provenance("engine"))
    for arguments in (("prune",), ("export", tmp_path / "out")):
        status, _, _ = run("corpus", arguments[0], path, *arguments[1:])
        assert status == 2
    assert not (tmp_path / "sprung").exists()


def test_a_harness_of_ones_own_is_run_when_it_is_named(run: Run, path: Path, cases: Path) -> None:
    assert run("corpus", "import", path, cases, "--harness", FORGETFUL)[0] == 0
    status, out, _ = run("corpus", "prune", path, "--harness", FORGETFUL)
    assert status == 0
    assert out.startswith("tests/campaign/harnesses/forgetful.py: 2 of 3 inputs kept")


def test_merging_brings_in_what_adds_and_no_more(run: Run, path: Path, cases: Path) -> None:
    (cases / "large.toml").rename(cases.parent / "large.toml")
    run("corpus", "import", path, cases.parent / "large.toml")
    status, out, _ = run("corpus", "merge", path, cases, "--json")
    (told,) = json.loads(out)["corpora"]
    # The large one shows what the broken one shows, and stays, as all do that are there.
    assert (status, told["inputs"], told["added"]) == (0, 2, 1)
    assert corpus(path) == {encoded(BROKEN_TOO), encoded(PLAIN)}
    with open_store(path, create=False) as store:
        (added,) = (each.number for each in store.inputs("vm_entry") if each.data == encoded(PLAIN))
        assert added in {each.input for each in store.behaviours()}
    assert json.loads(run("corpus", "merge", path, cases, "--json")[1])["corpora"][0]["added"] == 0


def test_merging_into_a_folder_writes_cases(
    run: Run, path: Path, cases: Path, tmp_path: Path
) -> None:
    run("corpus", "import", path, cases)
    folder = tmp_path / "seeds"
    (folder / "vm_entry").mkdir(parents=True)
    shutil.copy(cases / "plain.toml", folder / "vm_entry")
    status, out, _ = run("corpus", "merge", folder, path)
    assert (status, out.split(" behaviours")[0].startswith("vm_entry: 1 of 3")) == (0, True)
    files = sorted((folder / "vm_entry").iterdir())
    assert len(files) == 2
    assert {encoded(file.read_text()) for file in files} == {encoded(PLAIN), encoded(BROKEN)}
    assert run("corpus", "merge", folder, path)[1].startswith("vm_entry: 0 of 3")


def test_a_bad_case_in_the_folder_that_is_merged_into_is_named(
    run: Run, cases: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "seeds"
    (folder / "vm_entry").mkdir(parents=True)
    (folder / "vm_entry" / "bad.toml").write_text("base = ")
    status, out, err = run("corpus", "merge", folder, cases)
    assert (status, "bad.toml" in err) == (2, True)
    assert out.startswith("vm_entry: 2 of 3")


def test_the_same_sources_in_another_order_come_to_the_same(run: Run, tmp_path: Path) -> None:
    chosen = []
    parts = [SEEDS / "migration", SEEDS / "capability_config"]
    for name, sources in (("one", parts), ("other", parts[::-1])):
        (tmp_path / name).mkdir()
        assert run("corpus", "merge", tmp_path / name, *sources)[0] == 0
        chosen.append(
            {file.relative_to(tmp_path / name) for file in (tmp_path / name).rglob("*.toml")}
        )
    assert chosen[0] == chosen[1]


def test_a_full_disk_leaves_no_half_a_case(path: Path, tmp_path: Path) -> None:
    with open_store(path) as store:
        huge = (
            PLAIN
            + "[memory]\n"
            + "".join(f'"{0x100000 + 0x1000 * n:#x}" = "{"5a" * 512}"\n' for n in range(120))
        )
        store.keep_input("vm_entry", "", encoded(huge), Provenance("import"))
    done = subprocess.run(
        [sys.executable, "-m", invocation.MODULE, "corpus", "export", path, tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)),
    )
    assert done.returncode == 2
    assert "cannot be written (File too large)" in done.stderr
    assert list((tmp_path / "out").rglob("*")) == [tmp_path / "out" / "vm_entry"]


def test_an_import_that_is_killed_can_be_repeated(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(600):
        (folder / f"{number:04}.toml").write_text(
            f'base = "guest-64"\n[vmcs]\nguest_rip = {number}\n'
        )
    # It stops at the pipe, with two transactions behind it and a third one before it.
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", invocation.MODULE, "corpus", "import", str(path), str(folder)]
    open_store(path).close()
    killed = subprocess.Popen([*command, str(pipe)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if len(corpus(path)) >= 512:
                break
            time.sleep(0.05)
    finally:
        killed.kill()
        killed.wait()
    assert len(corpus(path)) == 512
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "88 imported, 512 there already, 0 bad\n"
    assert len(corpus(path)) == 600


def test_a_store_in_use_is_not_rearranged(run: Run, path: Path, cases: Path) -> None:
    run("corpus", "import", path, cases)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path;"
            "from nvmxfuzz.campaign.store import open_store;"
            "store = open_store(Path(sys.argv[1])); store.claim(); print(1, flush=True);"
            "time.sleep(60)",
            str(path),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        for arguments in (("import", path, cases), ("prune", path), ("merge", path, cases)):
            status, out, err = run("corpus", *arguments)
            assert (status, out) == (2, "")
            assert "is in use by another campaign" in err
        assert run("corpus", "export", path, path.parent / "out")[0] == 0
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_no_store_is_made_to_be_pruned(run: Run, tmp_path: Path) -> None:
    for options in ((), ("--dry-run",)):
        status, out, err = run("corpus", "prune", tmp_path / "mistyped.db", *options)
        assert (status, out, "there is no store" in err) == (2, "", True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("action", ["prune", "export", "import", "merge"])
def test_what_is_no_store_is_a_sentence(run: Run, action: str, cases: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("no store")
    status, out, err = run(
        "corpus", action, other, *({"export": [tmp_path], "prune": []}.get(action, [cases]))
    )
    assert (status, out) == (2, "")
    assert "is not a store" in err


def test_a_folder_that_is_not_there_is_no_store(run: Run, tmp_path: Path, cases: Path) -> None:
    status, out, err = run("corpus", "merge", f"{tmp_path}/nowhere/", cases)
    assert (status, out) == (2, "")
    assert "there is no folder" in err
    assert not (tmp_path / "nowhere").exists()
