"""The page in a real browser: type, choose a code, see the text change; by keyboard, on a phone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.serve.test_server import served
from vqnmt.errors import VqnmtError
from vqnmt.translate.code_index import write_code_index
from vqnmt.translate.translation import Translation

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Debian's packages chromium and chromium-driver"
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
)
WORDS = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]


class Counter:
    """Translates each word to a number, its length; its codes are the numbers."""

    source_language, target_language, on_long = "en", "de", "refuse"
    folder: Path | None = None

    def decode_codes(self, text: str, codes: list[int], complete: bool = False) -> Translation:
        if max(codes, default=0) >= len(WORDS):
            raise VqnmtError("a code is out of range")
        rest = [len(word) % 10 for word in text.split()] if complete or not codes else []
        found = [*codes, *rest[len(codes) :]]
        return Translation(" ".join(WORDS[code] for code in found), -1.0, found)

    def translate(self, texts: list[str]) -> list[Translation]:
        return [self.decode_codes(text, []) for text in texts]

    def n_best(self, texts: list[str], settings: Any) -> list[list[Translation]]:
        return [[self.decode_codes(text, []), Translation("other", -2.0)] for text in texts]

    def code_alternatives(
        self, text: str, codes: list[int], position: int, count: int
    ) -> list[tuple[int, float]]:
        if position >= len(codes):
            raise VqnmtError("position is out of range")
        return [(codes[position], 0.5), (9, 0.25), (8, 0.125)]

    def code_pieces(self, translation: Translation) -> list[list[str]]:
        return [["▁" + WORDS[code]] for code in translation.codes]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    translator = Counter()
    translator.folder = tmp_path_factory.mktemp("model")
    write_code_index(translator.folder, {2: [(" zwei", 7), ("zwo", 3)]})
    with served(translator, batch_wait=0) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = Options()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


class Page:
    """What a person does on the page."""

    def __init__(self, browser: webdriver.Chrome, address: str, text: str) -> None:
        self.browser = browser
        browser.get(address)
        self.wait(lambda: self.chips())
        field = browser.find_element(By.ID, "source")
        field.clear()
        field.send_keys(text)

    def wait(self, condition: Any) -> None:
        WebDriverWait(self.browser, 30).until(lambda _: condition())

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def chips(self) -> list[str]:
        script = "return [...document.querySelectorAll('.chip .words')].map((e) => e.textContent)"
        return self.browser.execute_script(script)

    def translation(self) -> str:
        return self.browser.execute_script("return document.getElementById('translation').value")

    def focused(self) -> Any:
        return self.browser.switch_to.active_element


def test_a_code_is_changed_and_the_text_changes(browser: webdriver.Chrome, address: str) -> None:
    page = Page(browser, address, "a bb ccc")
    page.wait(lambda: page.translation() == "eins zwei drei")
    assert page.chips() == ["eins", "zwei", "drei"]
    assert page.all("#latency")[0].text.endswith(" ms")
    assert page.all("#others li")[0].text == "other -2"
    page.all(".chip")[1].click()
    page.wait(lambda: len(page.all("#alternatives button")) == 3)
    assert page.all("#panel-title")[0].text == "Instead of code 2:"
    assert page.all("#alternatives button")[1].text.split("\n")[:2] == ["code 9", "25.0 %"]
    assert page.all("#often-title")[0].text == "In the training text code 2 often writes:"
    assert [one.text for one in page.all("#often li")] == ["zwei 7×", "…zwo 3×"]
    page.all("#alternatives button")[1].click()
    page.wait(lambda: page.translation() == "eins neun drei")
    page.all(".chip")[1].click()  # the index does not know this one
    page.wait(lambda: page.all("#panel")[0].is_displayed())
    assert not page.all("#often-section")[0].is_displayed()
    page.all("#reset")[0].click()
    page.wait(lambda: page.translation() == "eins zwei drei")
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert not errors


def test_it_works_by_keyboard_and_for_screen_readers(
    browser: webdriver.Chrome, address: str
) -> None:
    page = Page(browser, address, "a bb")
    page.wait(lambda: page.translation() == "eins zwei")
    chip = page.all(".chip")[0]
    assert chip.accessible_name == "Code 1 writes eins"
    browser.execute_script("arguments[0].focus()", chip)
    page.focused().send_keys(Keys.ENTER)
    page.wait(lambda: page.focused().text.startswith("code 1"))
    page.focused().send_keys(Keys.ESCAPE)
    page.wait(lambda: not page.all("#panel")[0].is_displayed())
    assert page.focused().accessible_name == "Code 1 writes eins"
    page.focused().send_keys(Keys.SPACE)
    page.wait(lambda: page.focused().text.startswith("code 1"))
    page.focused().send_keys(Keys.TAB)
    page.focused().send_keys(Keys.ENTER)
    page.wait(lambda: page.translation() == "neun zwei")
    assert page.focused().accessible_name == "Code 9 writes neun"
    unnamed = [e for e in page.all("button, input, select, textarea") if e.is_displayed()]
    assert all(element.accessible_name for element in unnamed)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_schemes(
    browser: webdriver.Chrome, address: str, scheme: str
) -> None:
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    page = Page(browser, address, "a bb ccc dddd eeeee ffffff ggggggg")
    page.wait(lambda: len(page.chips()) == 7)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 360
    colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))
    assert (light > 380) is (scheme == "light")
    for element in page.all(".chip"):
        back, front = (
            browser.execute_script(f"return getComputedStyle(arguments[0]).{name}", element)
            for name in ("backgroundColor", "color")
        )
        assert contrast(back, front) >= 4.5  # WCAG 2, level AA
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def contrast(*colours: str) -> float:
    """Return the contrast of two colours by WCAG 2."""
    lights = []
    for colour in colours:
        parts = [int(x) / 255 for x in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        lights.append(sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))
    return (max(lights) + 0.05) / (min(lights) + 0.05)
