"""The page of a report in headless Chromium: no errors, no requests, choosing, comparing, sorting, links, thousands.

Debian's ``chromium`` and ``chromium-driver`` are used; where they are not installed the tests are skipped, and say so.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest

from bitmosaic.report_page.model import Report
from bitmosaic.report_page.page import page_html, plotly_script, report_of
from bitmosaic.views.front_frames import hypervolume_frame, mark_front
from tests import report_results as results

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra test")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None,
                       reason="needs Chromium and its driver: apt-get install chromium chromium-driver"),
]
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
           "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
           "--window-size=1280,1000")
WAIT_SECONDS = 60
# For a machine that does other things too: drawing all points again would take longer.
MOST_CLICK_MS = 2000
MANY = 5000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests of the file, which stand in the order of their pages: each is opened once."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Report, str]]:
    """Name → a report and the address of its page."""
    folder, plotly = tmp_path_factory.mktemp("pages"), plotly_script()
    records = results.point_records()
    explored = report_of(results.write_exploration(folder / "explored", records))
    nasty = '<img src=x onerror="document.title=1">'
    points = (explored.points[0].model_copy(update={"label": nasty, "origin": nasty}), *explored.points[1:])
    reports = {
        "explored": explored,
        "compared": report_of(results.write_comparison(folder / "compared", records)),
        "swept": report_of(results.write_sweep(folder / "swept")),
        "nasty": explored.model_copy(update={"points": points, "title": nasty, "notes": (nasty,)}),
        "many": results.large_report(MANY),
    }
    found = {}
    for name, report in reports.items():
        (folder / f"{name}.html").write_text(page_html(report, plotly), encoding="utf-8")
        found[name] = (report, (folder / f"{name}.html").as_uri())
    return found


Open = Callable[..., Report]


@pytest.fixture(scope="module")
def opened(browser: Any, pages: dict[str, tuple[Report, str]]) -> Open:
    """Opens a page with a fragment; where it is open already, the fragment alone is another one, as by a link."""
    numbers = count()

    def open_page(name: str, fragment: str = "") -> Report:
        report, address = pages[name]
        if browser.current_url.split("#")[0] == address:
            drawn = browser.execute_script("return document.body.dataset.drawn")
            # A number that the page does not know makes any fragment a new one.
            browser.execute_script("location.hash = arguments[0]", f"{fragment}&number={next(numbers)}")
            _wait(browser, f"return document.body.dataset.drawn > {drawn}")
            return report
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get(f"{address}#{fragment}")
        _wait(browser, "return document.body.dataset.drawn === '1'")
        _opens_alone(browser, report, address)
        return report

    return open_page


def _opens_alone(browser: Any, report: Report, address: str) -> None:
    """No error, nothing asked of anyone, nothing wider than the window, and no name taken for markup."""
    assert _errors(browser) == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in sent if each["method"] == "Network.requestWillBeSent"]
    assert {each.split("#")[0] for each in asked if not each.startswith(("data:", "blob:"))} == {address}
    assert _text(browser, "#title") == report.title == browser.title
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.execute_script("return document.querySelectorAll('main img, footer img').length") == 0


def _wait(browser: Any, script: str) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not browser.execute_script(script):
        assert time.monotonic() < end, f"{script}: {browser.get_log('browser')}"
        time.sleep(0.05)


def _errors(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def _fragment(browser: Any) -> dict[str, str]:
    return {key: value for key, (value,) in parse_qs(urlsplit(browser.current_url).fragment).items()}


def _find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def _text(browser: Any, selector: str) -> str:
    return str(browser.execute_script("return document.querySelector(arguments[0]).textContent", selector))


def _click_point(browser: Any, place: int, with_shift: bool = False) -> None:
    """Click on a point of the front, where Plotly drew it."""
    node = _find(browser, "#front")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", node)
    x, y = browser.execute_script(
        """
        const node = document.getElementById("front"), {xaxis, yaxis} = node._fullLayout;
        for (const trace of node.data) {
          const at = (trace.customdata ?? []).indexOf(arguments[0]);
          if (at >= 0) {
            const box = node.getBoundingClientRect();
            const across = xaxis._offset + xaxis.d2p(trace.x[at]), down = yaxis._offset + yaxis.d2p(trace.y[at]);
            return [box.left + across, box.top + down];
          }
        }
        """, place)
    keys = webdriver.common.keys.Keys
    moved = webdriver.ActionChains(browser)
    moved.w3c_actions.pointer_action.move_to_location(round(x), round(y))
    moved.perform()
    if with_shift:
        webdriver.ActionChains(browser).key_down(keys.SHIFT).click().key_up(keys.SHIFT).perform()
    else:
        webdriver.ActionChains(browser).click().perform()


def _shown(browser: Any) -> list[str]:
    return list(browser.execute_script(
        "return [...document.querySelectorAll('#details article')].map((article) => article.dataset.point)"
    ))


@pytest.mark.parametrize("name", ["nasty", "swept"])
def test_it_opens_without_errors_and_asks_nobody(browser: Any, opened: Open, name: str) -> None:
    report = opened(name)
    assert len(browser.find_elements("css selector", "#points tbody tr")) == len(report.points)
    assert _shown(browser) == [report.first]


def test_what_the_page_saves_is_what_the_report_holds(browser: Any, opened: Open) -> None:
    """A sweep's machine is its base with the changes."""
    report = opened("swept")
    point = report.points[-1]
    opened("swept", f"a={point.id}")
    assert _shown(browser) == [point.id]
    browser.execute_script(
        "window.saved = []; URL.createObjectURL = (blob) => { blob.text().then((text) => saved.push(text)); "
        "return 'data:,saved'; };"
    )
    (button,) = [each for each in browser.find_elements("css selector", "#details button") if "Save" in each.text]
    button.click()
    _wait(browser, "return saved.length === 1")
    assert point.machine is not None
    machine = report.machines[point.machine]
    description = json.loads(json.dumps(report.descriptions[machine.base]))
    for change in machine.changes:
        here: Any = description
        for key in change.place[:-1]:
            here = here[key]
        here[change.place[-1]] = change.value
    assert json.loads(browser.execute_script("return saved[0]")) == description
    assert machine.changes and button.text == f"Save {machine.file}"


def test_a_click_shows_that_point_and_a_second_one_beside_it(browser: Any, opened: Open) -> None:
    report = opened("explored")
    assert _shown(browser) == [report.first] == ["w8a8"]
    _click_point(browser, 2)
    _wait(browser, "return document.querySelector('#details article').dataset.point === 'm1'")
    assert _text(browser, "#details .js-command") == report.points[2].command
    layers = [report.layers[place] for place in report.points[2].layers]
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#details .layers tbody tr')].map((row) => [...row.cells].map((cell) => "
        "cell.textContent))"
    )
    names = [f"{layer.name} ×{layer.count}" if layer.kind == "vector" else layer.name for layer in layers]
    assert [row[0] for row in rows] == names
    assert [row[1] for row in rows] == [layer.precision for layer in layers]
    assert [int(row[2].replace(",", "")) for row in rows] == [sum(layer.cycles) for layer in layers]
    for selector in ("#details .charts .js-plotly-plot", "#map .heatmaplayer", "#details .xy"):
        assert browser.find_elements("css selector", selector)
    assert "512" in _text(browser, "#details article")
    _click_point(browser, 0, with_shift=True)
    _wait(browser, "return document.querySelectorAll('#details article').length === 2")
    assert _shown(browser) == ["m1", "w8a8"] and _fragment(browser) == {"a": "m1", "b": "w8a8"}
    _find(browser, "#target-b").click()
    _click_point(browser, 1)
    _wait(browser, "return document.querySelectorAll('#details article')[1].dataset.point === 'w2a8'")
    _find(browser, "#swap").click()
    assert _shown(browser) == ["w2a8", "m1"]
    _find(browser, "#clear-b").click()
    assert _shown(browser) == ["w2a8"] and _errors(browser) == []


def test_links_survive_a_reload_and_wrong_ones_do_no_harm(browser: Any, opened: Open) -> None:
    fragment = "x=energy_uj&y=weight_kib&a=m1&b=w2a8&sort=-energy_uj&layers=-cycles&front=1&map=input"
    opened("explored", fragment)
    expected = {key: value for key, (value,) in parse_qs(fragment).items()}

    def look() -> list[Any]:
        return list(browser.execute_script(
            "return [document.getElementById('x').value, document.getElementById('y').value, document.getElementById("
            "'map-of').value, document.getElementById('only-front').checked, document.querySelector('#points "
            "[aria-sort]').textContent, document.querySelector('.layers [aria-sort]').ariaSort]"
        ))

    first = look()
    assert first == ["energy_uj", "weight_kib", "input", True, "energy (µJ)", "descending"]
    assert _shown(browser) == ["m1", "w2a8"]
    _find(browser, "#points tbody tr").send_keys("b")
    browser.refresh()
    _wait(browser, "return document.body.dataset.drawn === '1'")
    assert look() == first and _fragment(browser).items() >= {**expected, "b": _shown(browser)[-1]}.items()
    opened("explored", "x=speed&y=&a=m99&b=%3Cscript%3E&sort=nothing&objectives=speed,,&subject=moon")
    assert _shown(browser) == ["w8a8"] and _errors(browser) == []


def test_colours_follow_the_reader_s_scheme(browser: Any, opened: Open) -> None:
    opened("explored")
    found = []
    for scheme in ("dark", "light"):
        drawn = browser.execute_script("return document.body.dataset.drawn")
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        _wait(browser, f"return document.body.dataset.drawn > {drawn}")
        found.append(browser.execute_script(
            "return [getComputedStyle(document.body).backgroundColor, "
            "document.getElementById('front').layout.font.color]"
        ))
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1]


def test_the_table_sorts_filters_and_is_used_with_the_keyboard(browser: Any, opened: Open) -> None:
    report = opened("compared")
    keys = webdriver.common.keys.Keys

    def rows() -> list[str]:
        return list(browser.execute_script(
            "return [...document.querySelectorAll('#points tbody tr')].map((row) => row.dataset.id)"
        ))

    def values(key: str) -> list[float]:
        place = [measure.key for measure in report.measures].index(key)
        by_id = {point.id: point.values[place] for point in report.points}
        return [by_id[each] or 0.0 for each in rows()]

    assert len(rows()) == len(report.points) and _shown(browser) == [report.first]
    assert values("energy_uj") != sorted(values("energy_uj"))
    for descending in (False, True):
        heading = _find(browser, "#points [data-key=energy_uj]")
        heading.send_keys(keys.ENTER)
        assert values("energy_uj") == sorted(values("energy_uj"), reverse=descending)
        assert browser.switch_to.active_element.get_attribute("data-key") == "energy_uj", "the focus stays"
    _find(browser, "#find").send_keys("amp")
    assert set(rows()) == {"amp-1", "amp-2"}
    row = _find(browser, "#points tbody tr")
    row.send_keys(keys.ENTER)
    row.send_keys(keys.ARROW_DOWN)
    browser.switch_to.active_element.send_keys("b")
    assert _shown(browser) == rows() and _fragment(browser)["find"] == "amp"


def test_fronts_and_hypervolumes_are_those_of_the_frames(browser: Any, opened: Open) -> None:
    for name, fragment, objectives in (
        ("compared", "", {"latency_ms": "min", "accuracy_percent": "max"}),
        ("many", "", {"latency_ms": "min", "energy_uj": "min"}),
        ("many", "objectives=latency_ms,energy_uj,accuracy_percent",
         {"latency_ms": "min", "energy_uj": "min", "accuracy_percent": "max"}),
    ):
        report = opened(name, fragment)
        frame = pd.DataFrame([point.values for point in report.points],
                             columns=[measure.key for measure in report.measures])
        frame["group"] = [point.group for point in report.points]
        marked = mark_front(frame, objectives)  # type: ignore[arg-type]
        drawn = browser.execute_script(
            "return document.getElementById('front').data.filter((trace) => trace.meta === 'on the front')"
            ".flatMap((trace) => [...trace.customdata])"
        )
        assert sorted(drawn) == marked.index[marked["on_front"]].tolist()
        shares = browser.execute_script(
            "return Object.fromEntries([...document.querySelectorAll('#hypervolume tbody tr')].map((row) => "
            "[row.cells[0].textContent, Number(row.dataset.percent)]))"
        )
        expected = hypervolume_frame(frame, objectives, by="group")  # type: ignore[arg-type]
        whole = hypervolume_frame(frame, objectives)["hypervolume_percent"][0]  # type: ignore[arg-type]
        assert shares == pytest.approx({**dict(zip(expected["group"], expected["hypervolume_percent"], strict=True)),
                                        "all": whole}, rel=1e-9)


def test_five_thousand_points_stay_fluid(browser: Any, opened: Open) -> None:
    """A click neither draws the points again nor builds more than its own rows; its time is taken in the browser."""
    report = opened("many")
    assert _errors(browser) == []
    nodes = browser.execute_script("return document.querySelectorAll('*').length")
    assert nodes < 2500, "no node for each of 5,000 points"
    browser.execute_script(
        """
        window.touched = 0;
        new MutationObserver((changes) => { for (const change of changes) touched += change.addedNodes.length; })
          .observe(document.getElementById("points"), { childList: true, subtree: true });
        window.before = document.getElementById("front").data.slice(0, -2).map((trace) => trace.x);
        """)
    elapsed = []
    for place in (17, 4711, 2500):
        elapsed.append(browser.execute_script(
            """
            const node = document.getElementById("front"), start = performance.now();
            node.emit("plotly_click", { points: [{ customdata: arguments[0] }], event: { shiftKey: false } });
            return performance.now() - start;
            """, place))
        assert _shown(browser) == [f"p{place}"]
        assert _text(browser, "#details .js-command") == report.points[place].command
    assert browser.execute_script("return touched") == 0, "no row of the table is made anew"
    assert browser.execute_script(
        "return before.every((numbers, trace) => numbers === document.getElementById('front').data[trace].x)"
    )
    assert browser.execute_script("return document.querySelectorAll('*').length") < nodes + 300
    print(f"{MANY} points, {nodes} nodes, clicks of {', '.join(f'{each:.0f}' for each in elapsed)} ms")
    assert min(elapsed) < MOST_CLICK_MS
    _find(browser, "#behind").click()
    assert len(browser.find_elements("css selector", "#points tbody tr")) == 50
    assert _text(browser, "#rows").strip() == "51–100 of 5,000" and _errors(browser) == []
