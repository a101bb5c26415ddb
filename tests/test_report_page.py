"""The page of lab report, in a browser."""

import pytest

from lab.cli.report import main
from tests.browser import DRIVER, open_browser
from tests.run_directories import write_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DRIVER, reason="no chromedriver: apt-get install chromium-driver"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for lr in (0.3, 0.01, 0.1):
        for width in (8, 16):
            for seed in range(3):
                values = {"optimizer.lr": lr, "model.width": width}
                write_run(folder / "runs", values, seed, {"accuracy": 0.5 + lr + 0.01 * seed + width / 100})
    write_run(folder / "runs", {"optimizer.lr": 9, "model.width": 8}, 0, None, state="diverged")
    main([str(folder / "runs"), "--to", "html", "--out", str(folder)])
    with open_browser() as browser:
        browser.open(folder / "report.html")
        yield browser


def column(browser, table, place):
    return browser.run(
        f"return [...document.querySelectorAll('#{table} tbody tr')].filter(r => !r.hidden)"
        f".map(r => r.cells[{place}].textContent)"
    )


def test_tables_sort_by_a_click(browser):
    heads = browser.run("return [...document.querySelectorAll('#runs th')].map(h => h.textContent)")
    place = heads.index("optimizer.lr")
    click = f"document.querySelectorAll('#runs th button')[{place}].click()"
    browser.run(click)
    up = [float(text) for text in column(browser, "runs", place)]
    browser.run(click)
    down = [float(text) for text in column(browser, "runs", place)]
    assert up == sorted(up)
    assert down == sorted(up, reverse=True)
    assert len(up) == 19


def test_rows_are_filtered_by_words(browser):
    browser.run(
        "const f = document.querySelector('input[data-filters=runs]'); f.value = 'diverged';"
        "f.dispatchEvent(new Event('input'))"
    )
    assert column(browser, "runs", 1) == ["diverged"]
    browser.run(
        "const f = document.querySelector('input[data-filters=runs]'); f.value = '';f.dispatchEvent(new Event('input'))"
    )
    assert len(column(browser, "runs", 1)) == 19


def test_what_is_pointed_at_is_named(browser):
    shown = browser.run(
        "const spot = document.querySelector('svg .mean'); spot.scrollIntoView();"
        "const box = spot.getBoundingClientRect();"
        "spot.dispatchEvent(new PointerEvent('pointermove', {bubbles: true, clientX: box.x, clientY: box.y}));"
        "return [document.getElementById('tip').style.display, document.getElementById('tip').textContent]"
    )
    assert shown[0] == "block"
    assert "n = 3" in shown[1]


def test_every_drawing_is_there_and_nothing_breaks_the_policy(browser):
    captions = browser.run("return [...document.querySelectorAll('figcaption')].map(c => c.textContent)")
    assert len(captions) == 6, captions
    assert browser.run("return [...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().height > 20)")
    assert browser.complaints() == []


def test_on_a_phone_the_page_does_not_scroll_sideways(browser):
    browser.emulate("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=2, mobile=True)
    try:
        assert browser.run("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.emulate("Emulation.clearDeviceMetricsOverride")


def test_it_follows_a_dark_theme(browser):
    look = "return getComputedStyle(document.body).backgroundColor + getComputedStyle(document.body).color"
    seen = {}
    for theme in ("light", "dark"):
        browser.emulate("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        seen[theme] = browser.run(look)
    assert seen["light"] == "rgb(255, 255, 255)rgb(27, 31, 36)"
    assert seen["dark"] == "rgb(20, 23, 27)rgb(230, 232, 235)"
