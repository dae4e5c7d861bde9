"""The pages in a browser, from disk with the network off: drawn, sorted, filtered, narrow, dark,
and without scripts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from synthetic import full_board

from reports.leaderboard import Leaderboard

pytestmark = [
    pytest.mark.slow,  # starts a browser
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    board = full_board(n=5)
    hostile = replace(board.cells[1], attack='"><img src=x onerror=alert(1)></script>')
    out = tmp_path_factory.mktemp("disk") / "report"
    Leaderboard().render(replace(board, cells=(board.cells[0], hostile, *board.cells[14:])), out)
    return out


@pytest.fixture(scope="module")
def desktop(pages: Path) -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


ALL_DRAWN = "[...document.querySelectorAll('figure.chart')].every(f => f.classList.contains('drawn') && f.querySelector('.canvas svg'))"
VALUES = "[...document.querySelectorAll('#leaderboard td[data-key=recovery]')].map(c => c.dataset.sort).filter(s => s !== '').map(Number)"


def attacks(browser: Browser) -> list[str]:
    """Names in the leaderboard, those filtered out not among them."""
    visible = "[...document.querySelectorAll('#leaderboard tbody tr')].filter(r => !r.hidden)"
    found = browser.ask(f"{visible}.map(r => r.querySelector('th a').textContent)")
    return list(found)


def test_charts_are_drawn_under_the_policy_and_nothing_is_asked_of_the_network(
    desktop: Browser, pages: Path
) -> None:
    desktop.complaints.clear()
    desktop.requests.clear()
    for page in [pages / "index.html", *sorted((pages / "cells").glob("*.html"))[:4]]:
        desktop.open(page, settle=0.2)
        desktop.wait_for(ALL_DRAWN)
    assert desktop.complaints == []
    assert all(request.startswith(("file://", "data:image/")) for request in desktop.requests)


def test_a_click_sorts_and_the_state_is_announced(desktop: Browser, pages: Path) -> None:
    desktop.open(pages / "index.html", settle=0.2)
    before = attacks(desktop)
    head = "document.querySelector('th[data-key=recovery]')"
    desktop.ask(f"{head}.querySelector('button').click()")
    assert desktop.ask(f"{head}.getAttribute('aria-sort')") == "descending"
    assert desktop.ask(VALUES) == sorted(desktop.ask(VALUES), reverse=True)
    last = "[...document.querySelectorAll('#leaderboard tbody tr')].slice(-7)"
    assert desktop.ask(
        f"{last}.every(r => !r.querySelector('[data-key=recovery]')?.dataset.sort)"
    ), "rows without a recovery come last"
    desktop.ask(f"{head}.querySelector('button').click()")
    assert desktop.ask(VALUES) == sorted(desktop.ask(VALUES))
    desktop.ask(f"{head}.querySelector('button').click()")
    assert attacks(desktop) == before


def test_filters_narrow_the_table(desktop: Browser, pages: Path) -> None:
    desktop.open(pages / "index.html", settle=0.2)
    everything = attacks(desktop)

    def fill(name: str, change: str) -> None:
        element = f"document.querySelector('form.filter').elements['{name}']"
        desktop.ask(
            f"(e => {{ {change}; e.dispatchEvent(new Event('input', {{bubbles: true}})); }})({element})"
        )

    fill("controls", "e.checked = false")
    assert not {"identity", "noise", "contrast"} & set(attacks(desktop))
    fill("unfinished", "e.checked = false")
    assert not [name for name in attacks(desktop) if name.startswith("attack-")]
    fill("target", "e.value = 'sact-like'")
    assert sorted(attacks(desktop)) == ["gradauto", "gradauto:RD", "gradauto:RM", "ilfo"]
    fill("text", "e.value = 'GRADAUTO:r'")
    assert sorted(attacks(desktop)) == ["gradauto:RD", "gradauto:RM"]
    assert (
        desktop.ask("document.querySelector('output').textContent")
        == f"2 of {len(everything)} rows"
    )


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_nothing_is_wider_than_the_screen(pages: Path, dark: bool) -> None:
    with Browser(width=360, height=740, dark=dark) as phone:
        for page in [pages / "index.html", *sorted((pages / "cells").glob("*.html"))[:3]]:
            phone.open(page, settle=0.2)
            phone.wait_for(ALL_DRAWN)
            assert phone.ask("document.documentElement.scrollWidth") == 360
        paper = phone.ask("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in paper[4:-1].split(",")) < 200) == dark
        assert phone.complaints == []


def test_gates_are_drawn_from_their_bits(desktop: Browser, pages: Path) -> None:
    board = full_board(n=5)
    page = pages / "cells" / f"{board.cells[0].key[:12]}.html"
    desktop.complaints.clear()
    desktop.open(page, settle=0.2)
    desktop.wait_for("!!document.querySelector('.exhibit svg.gates')")
    rows = {row.id: row for row in board.cells[0].rows()}
    name = desktop.ask("document.querySelector('.exhibit h3 .quiet-text').textContent")
    drawn = "document.querySelector('.exhibit svg.gates path.state-{}')"
    squares = "((p) => p ? p.getAttribute('d').split('z').length - 1 : 0)"
    row = rows[name]
    opened = sum(
        after and not before
        for before, after in zip(row.clean_decisions, row.adversarial_decisions, strict=True)
    )
    assert desktop.ask(f"{squares}({drawn.format('opened')})") == opened
    kept = sum(row.clean_decisions) + sum(
        before and after
        for before, after in zip(row.clean_decisions, row.adversarial_decisions, strict=True)
    )
    assert desktop.ask(f"{squares}({drawn.format('on')})") == kept
    desktop.ask("document.querySelector('[data-all-gates]').open = true")
    desktop.wait_for("!!document.querySelector('[data-all-gates] svg.gates')")
    assert desktop.complaints == []


def test_without_scripts_tables_and_still_pictures_stand(pages: Path) -> None:
    with Browser(scripts=False) as still:
        still.open(pages / "index.html")
        still.call(
            "Emulation.setScriptExecutionDisabled", value=False
        )  # for the questions below; the page has loaded without
        assert not still.ask("document.documentElement.classList.contains('scripted')")
        assert still.ask(
            "[...document.querySelectorAll('#leaderboard tbody tr')].every(r => r.offsetHeight > 0)"
        )
        assert still.ask(
            "[...document.querySelectorAll('img.still')].every(i => i.complete && i.naturalWidth "
            "> 0 && i.offsetHeight > 100)"
        )
        assert still.ask(
            "[...document.querySelectorAll('.script-only')].every(e => e.offsetHeight === 0)"
        )
