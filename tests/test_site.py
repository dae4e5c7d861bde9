"""The built documentation opens from disk without a network, fits a phone, follows the dark, and
can be searched.

Runs where GATEBENCH_SITE names a site that `make docs` has built, and Chromium is there.
"""

import os
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

SITE = Path(os.environ.get("GATEBENCH_SITE", "nowhere"))
PAGES = (
    "index.html",
    "statistics.html",
    "defenses.html",
    "guides/target.html",
    "reference/plan.html",
    "reference/cli.html",
    "reference/plugins.html",
    "reference/api/attack.html",
    "results/index.html",
    "cards/index.html",
)

pytestmark = [
    pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="GATEBENCH_SITE names no site"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_open_from_disk_and_fit(width, dark):
    with Browser(width=width, height=900, dark=dark) as browser:
        for page in PAGES:
            browser.open(SITE / page)
            assert browser.ask("document.documentElement.scrollWidth") <= width, page
            background = browser.ask("getComputedStyle(document.body).backgroundColor")
            brightness = sum(map(int, background.strip("rgba()").split(",")[:3]))
            assert (brightness < 384) == dark, page
        assert browser.complaints == []
        assert {url.partition(":")[0] for url in browser.requests} <= {"file", "data"}


def test_search_finds_a_page():
    with Browser(width=1280, height=900) as browser:
        browser.open(SITE / "index.html")
        browser.ask("document.querySelector('label[for=__search]').click()")
        browser.wait_for("typeof __index === 'object'")
        browser.ask(
            "(() => { const field = document.querySelector('.md-search__input');"
            "field.value = 'psnr'; field.dispatchEvent(new Event('input'));"
            "field.dispatchEvent(new Event('keyup')); })()"
        )
        browser.wait_for("document.querySelectorAll('.md-search-result__link').length > 0")
        found = browser.ask(
            "[...document.querySelectorAll('.md-search-result__link')].map((link) => link.href)"
        )
        assert any("psnr" in link for link in found)
        assert browser.complaints == []
