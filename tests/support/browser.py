"""Headless Chromium for the tests of pages, and what they ask of it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


@contextmanager
def chromium_at(folder: Path) -> Iterator[Any]:
    """A browser that keeps its profile in a folder; the test skips where none is installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser and is not installed")
    driver = shutil.which("chromedriver")
    if CHROMIUM is None or driver is None:
        pytest.skip("needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield browser
    finally:
        browser.quit()


def open_anew(browser: Any, page: Path) -> None:
    """The page as if it had not been open before."""
    browser.get("about:blank")
    browser.get(page.as_uri())


def check_quiet(browser: Any) -> None:
    """The page's console is empty, and nothing was fetched."""
    assert browser.get_log("browser") == []
    names = browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert [name for name in names if not name.startswith("data:")] == []


def css(browser: Any, selector: str) -> Any:
    """The first element of a selector."""
    return browser.find_element("css selector", selector)


def every(browser: Any, selector: str) -> list[Any]:
    """All elements of a selector."""
    return browser.find_elements("css selector", selector)


def soon(browser: Any, holds: Callable[[], bool]) -> None:
    """Wait until it holds: a browser answers an address or the wheel in its own time."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    redrawn = (StaleElementReferenceException,)  # what was found may be replaced before it is read
    WebDriverWait(browser, 20, ignored_exceptions=redrawn).until(lambda _: holds())


#: Texts on plain backgrounds whose contrast is too small; images are left alone, their text has a halo.
CONTRASTS = """
const rgb = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const linear = (c) => c / 255 > 0.04045 ? ((c / 255 + 0.055) / 1.055) ** 2.4 : c / 255 / 12.92;
const light = (text) => rgb(text).slice(0, 3).map(linear)
  .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
const ground = (one) => {
  for (let place = one; place; place = place.parentElement) {
    const colour = getComputedStyle(place).backgroundColor;
    if ((rgb(colour)[3] ?? 1) > 0.99) return colour;
  }
  return "rgb(255, 255, 255)";
};
return [...document.querySelectorAll("body *")]
  .filter((one) => !one.closest("svg, script, style, .film, .stage") && one.offsetParent
    && !one.matches(":disabled") && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
  .map((one) => [light(getComputedStyle(one).color), light(ground(one)), one.outerHTML.slice(0, 120)])
  .filter(([ink, paper]) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05) < 4.5);
"""
