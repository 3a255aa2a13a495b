# SPDX-License-Identifier: GPL-2.0-only
"""The HTML report as a real browser has it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.reports.campaign import gather, html
from nvmxfuzz.reports.campaign.content import Report
from nvmxfuzz.reports.campaign.html import ranges, to_html

if TYPE_CHECKING:
    from tests.reports.conftest import Browser

OPEN_ALL = "document.querySelectorAll('details').forEach((each) => { each.open = true; })"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
RULES = "document.querySelector('#rules ~ .wide table')"
GROUPS = "document.querySelector('#findings ~ .wide table')"
CONTRAST = """
(() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((each) => each / 255)
    .map((each) => each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, index) => sum + each * [0.2126, 0.7152, 0.0722][index], 0);
  const back = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const found = parts(getComputedStyle(each).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  let least = 21;
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const colour = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(parts(colour)), light(back(element))];
    least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return least;
})()
"""


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(to_html(report), encoding="utf-8")
    return path


def column(browser: Browser, table: str, number: int) -> list[str]:
    found: list[str] = browser.ask(
        f"[...{table}.tBodies[0].rows].map((row) => row.cells[{number}].textContent.trim())"
    )
    return found


def filtered(browser: Browser, table: str, words: str) -> Any:  # noqa: ANN401 - texts and a number
    tools = f"{table}.parentElement.previousElementSibling"
    browser.ask(f"{tools}.querySelector('input').value = {words!r}")
    browser.ask(f"{tools}.querySelector('input').dispatchEvent(new Event('input'))")
    return browser.ask(
        f"[{tools}.querySelector('output').textContent,"
        f" [...{table}.tBodies[0].rows].filter((row) => row.offsetHeight > 0).length]"
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_it_opens_in_both_lights_on_a_phone_and_a_screen(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.complaints == []
    assert browser.requests == [page.as_uri()]
    browser.ask(OPEN_ALL)
    assert browser.ask("innerWidth") == width
    assert browser.ask(WIDER) <= 0
    shade = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (shade == "rgb(255, 255, 255)") is not dark
    assert browser.ask(CONTRAST) >= 4.5


def test_what_is_looked_for_would_be_seen(browser: Browser, page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    path = tmp_path / "bad.html"
    wide = '<div style="width: 900px; color: #888; background: #777">x</div>'
    other = (tmp_path / "other.png").as_uri()
    path.write_text(
        text.replace("<main>", f'<main>{wide}<img src="{other}">').replace(
            "http-equiv", "data-no-policy"
        )
    )
    browser.open(path, width=400)
    assert other in browser.requests
    assert browser.complaints != []
    assert browser.ask(WIDER) > 0
    assert browser.ask(CONTRAST) < 2


def test_the_policy_lets_nothing_else_run_or_load(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    path = tmp_path / "injected.html"
    path.write_text(
        page.read_text().replace("</main>", "<script>document.title = 'owned'</script></main>")
    )
    browser.open(path)
    assert browser.ask("document.title") != "owned"
    assert any("Content Security Policy" in each for each in browser.complaints)


def test_what_is_in_a_store_is_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.ask(OPEN_ALL)
    assert browser.ask("document.title").startswith("nvmxfuzz: campaign 2 of ")
    assert browser.ask("[document.scripts.length, document.images.length]") == [1, 0]
    assert browser.ask("document.querySelectorAll('main b').length") > 0
    own = ["What was to hold:", "What was seen:"]
    bold = browser.ask("[...document.querySelectorAll('main b')].map((b) => b.textContent)")
    assert not {"bold", "it is not run", ""} & set(bold) - {""}
    assert set(own) <= set(bold)
    assert "<script>document.title" in browser.ask("document.body.innerText")
    assert "\\x1b[2J" in browser.ask("document.body.innerText")
    assert page.stat().st_size < 4_000_000


def test_tables_sort_by_number_and_by_name(browser: Browser, page: Path) -> None:
    browser.open(page)
    head = f"{GROUPS}.tHead.rows[0].cells"
    before = column(browser, GROUPS, 3)
    browser.ask(f"{head}[3].querySelector('button').click()")
    assert browser.ask(f"{head}[3].getAttribute('aria-sort')") == "ascending"
    assert column(browser, GROUPS, 3) == ["1", "1,234", "9,223,372,036,854,775,807"]
    browser.ask(f"{head}[3].querySelector('button').click()")
    assert browser.ask(f"{head}[3].getAttribute('aria-sort')") == "descending"
    assert column(browser, GROUPS, 3) == ["9,223,372,036,854,775,807", "1,234", "1"]
    browser.ask(f"{head}[0].querySelector('button').click()")
    assert browser.ask(f"{head}[3].getAttribute('aria-sort')") is None
    names = column(browser, GROUPS, 0)
    assert names == sorted(names, key=str.lower)
    assert sorted(before) == sorted(column(browser, GROUPS, 3))


def test_tables_filter_by_words(browser: Browser, page: Path) -> None:
    browser.open(page)
    rules = len(CHAPTER.rules)
    assert filtered(browser, RULES, "") == [f"{rules} of {rules}", rules]
    assert filtered(browser, RULES, "not seen") == [f"{rules - 90} of {rules}", rules - 90]
    without = rules - 30
    assert filtered(browser, RULES, "-n/aheldbroken") == [f"{without} of {rules}", without]
    assert filtered(browser, RULES, "BASIC.CPL.ZERO")[1] == 1
    assert filtered(browser, RULES, "nothing is called so") == [f"0 of {rules}", 0]


def test_headings_and_tables_are_for_everybody(browser: Browser, page: Path) -> None:
    browser.open(page)
    levels = browser.ask(
        "[...document.querySelectorAll('h1,h2,h3,h4')].map((each) => Number(each.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    # Those of a page are within its details, one level further down.
    assert all(later - one <= 1 for one, later in pairwise(levels))
    tables = "[...document.querySelectorAll('table')]"
    assert browser.ask(f"{tables}.every((each) => each.caption.textContent.trim())")
    assert browser.ask(f"{tables}.every((each) => each.querySelector('th[scope=col]'))")
    assert browser.ask("document.documentElement.lang") == "en"
    assert browser.ask("[...document.querySelectorAll('input')].every((each) => each.labels[0])")
    assert browser.ask("new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size") == (
        browser.ask("document.querySelectorAll('[id]').length")
    )


def test_a_link_to_a_finding_opens_it(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.ask(f"{GROUPS}.querySelectorAll('a')[1].click()")
    browser.ask("0")
    link = browser.ask(f"decodeURIComponent({GROUPS}.querySelectorAll('a')[1].hash.slice(1))")
    assert browser.ask(f"document.getElementById({link!r}).open")


def test_the_page_of_a_finding_tells_what_repro_does(browser: Browser, page: Path) -> None:
    browser.open(page, width=400)
    browser.ask(OPEN_ALL)
    text = " ".join(browser.ask("document.body.innerText").split())
    for told in (
        "VMLAUNCH, launch state clear, on a processor like skylake-x, with a valid VMCS",
        "0x8000000000041000",
        "CR3 sets no bit beyond the physical-address width",
        'SDM, "Checks on Host Control Registers, MSRs, and SSP" (host.cr3.width)',
        "Linux 6.19, modelled (kvm-model-6.19): fail-valid 8",
        "The finding is still there.",
        "5 of 5 runs show it",
        "Reproducer: selftest",
        "export entry.dry-run-c72d20b58ae4",
        "No page: <b>it is not run</b> in this test.",
        "kvm.guest.segments",
        "It was killed",
        "1 findings are new since campaign 1.",
    ):
        assert told in text, told


def test_a_long_list_is_cut_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.reports.campaign_store import ODD, make_store

    monkeypatch.setattr(gather, "MOST_ROWS", 20)
    monkeypatch.setattr(gather, "MOST_GROUPS", 2)
    sources = gather.Sources(lambda _: gather.Told(None, "", {}), 0, lambda _: ((), ""), "")
    path = make_store(tmp_path / "store.db")
    with open_store(path, create=False) as store:
        report = gather.gather(store, "store", None, None, sources)
    (odd,) = report.matrices[1:]
    assert (len(odd.points), odd.left_out) == (20, ODD - 20)
    text = to_html(report)
    assert f"{ODD - 20} more are left out" in text
    assert "1 more are listed by" in text


def test_without_escaping_it_would_be_no_text(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "<img" not in to_html(report)
    careless = html.environment().overlay(autoescape=False)
    monkeypatch.setattr(html, "environment", lambda: careless)
    assert "<img src=x" in to_html(report)


def test_ranges() -> None:
    assert ranges((1, 2, 3, 5, 7, 8)) == "1-3, 5, 7-8"
    assert ranges(()) == ""
    assert ranges(tuple(range(0, 1000, 2))).endswith("398 ...")
