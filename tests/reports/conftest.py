# SPDX-License-Identifier: GPL-2.0-only
"""A report on a store with a bit of everything, and a real browser to look at it.

The browser is headless Chromium, driven by its own protocol over two pipes.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nvmxfuzz.campaign.store import StoredFinding, open_store
from nvmxfuzz.cli import repro
from nvmxfuzz.cli.finding import of_stored
from nvmxfuzz.reports.campaign.content import Coverage, Report
from nvmxfuzz.reports.campaign.gather import Sources, Told, gather
from nvmxfuzz.targets.kvm_native.line_coverage import FunctionLines
from nvmxfuzz.targets.registry import TARGETS

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the modules that are beside the tests

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE = 60.0
COMPLAINTS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


class Browser:
    """One tab. `complaints` are what its console has, `requests` what was asked of any address."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        to_it, ours = os.pipe()
        theirs, from_it = os.pipe()
        # Beyond the two numbers that Chromium reads and writes.
        inside = [fcntl.fcntl(each, fcntl.F_DUPFD, 20) for each in (to_it, from_it)]
        os.close(to_it)
        os.close(from_it)
        script = f'exec "$@" 3<&{inside[0]} 4>&{inside[1]} {inside[0]}<&- {inside[1]}>&-'
        words = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", script, "bash", *words],
                pass_fds=inside,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for each in inside:
            os.close(each)
        self._out, self._in = ours, theirs
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        self._open_tab()

    @property
    def complaints(self) -> list[str]:
        """What the console of the page has, whatever its level."""
        return [json.dumps(each["params"]) for each in self._events if each["method"] in COMPLAINTS]

    @property
    def requests(self) -> list[str]:
        """The addresses that the page has asked for."""
        sent = (each for each in self._events if each["method"] == "Network.requestWillBeSent")
        return [each["params"]["request"]["url"] for each in sent]

    def call(self, method: str, **parameters: object) -> Any:  # noqa: ANN401 - as the method has it
        """Call a method of the protocol; return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive()
            if reply.get("id") == self._number:
                assert "error" not in reply, reply["error"]
                return reply["result"]
            self._events.append(reply)

    def open(self, path: Path, *, width: int = 1200, dark: bool = False) -> None:
        """Open a page, and wait until it is loaded."""
        self._events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Page.navigate", url=path.as_uri())
        while not any(each["method"] == "Page.loadEventFired" for each in self._events):
            self._events.append(self._receive())

    def ask(self, expression: str) -> Any:  # noqa: ANN401 - any value of JSON
        """Return what an expression is in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, path: Path, height: int = 3000) -> None:
        """Write what the page looks like from its top."""
        width = self.ask("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser, and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def _open_tab(self) -> None:
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=tab, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], PATIENCE)
            assert ready, "the browser does not answer"
            found = os.read(self._in, 1 << 16)
            assert found, "the browser has ended"
            self._rest += found
        message, _, self._rest = self._rest.partition(b"\0")
        reply: dict[str, Any] = json.loads(message)
        return reply


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser, which the tests of a session share."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: ci/run browser installs it")
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


COVERAGE = Coverage(
    "6.12.1", 4, (FunctionLines("one", (1, 2, 3, 7), (5,)), FunctionLines("two", (), (9, 10)))
)


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report on such a store, with one page, for which two targets have run a finding."""
    from tests.reports.campaign_store import FORGETFUL, make_store

    path = make_store(tmp_path_factory.mktemp("store") / "store.db")
    few = {name: TARGETS[name] for name in ("python-model", "kvm-model-6.19")}

    def again(stored: StoredFinding) -> Told:
        if stored.harness != str(FORGETFUL):
            return Told(None, "<b>it is not run</b> in this test", {})
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(repro, "all_targets", lambda: few)
            told = repro.reproduction(of_stored(stored, path))
        return Told(told, "", {"selftest": "int main(void) { /* <b> */ }"})

    sources = Sources(again, 5, lambda _: ((COVERAGE,), ""), "nvmxfuzz report <b>")
    with open_store(path, create=False) as store:
        return gather(store, str(path), None, None, sources)
