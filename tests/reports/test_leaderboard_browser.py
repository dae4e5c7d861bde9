"""The pages in a browser, from disk with the network off: drawn, sorted, filtered, narrow, dark,
and without scripts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import axe_playwright_python
import pytest
from browser import CHROMIUM, Browser
from synthetic import full_board

from bench.results.records import Transferred
from bench.results.stats import Estimate
from reports.leaderboard import Leaderboard
from reports.publication import Publication

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
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two boards of one run, with every page that a report can have."""
    board = full_board(n=5)
    pairs = tuple(
        Transferred(source, "gradauto", victim, Estimate(0.2, 0.1, 0.3), 2e7)
        for source in ("sact-like", "skipnet-20-budget")
        for victim in ("sact-like", "skipnet-20-budget")
    )
    farther = [replace(cell, pooled_psnr=(cell.psnr or 0) + 5) for cell in board.cells]
    out = tmp_path_factory.mktemp("disk") / "report"
    Leaderboard().render_all(
        [
            replace(board, transfers=pairs),
            replace(board, name="digits-m-psnr40-4d5e6f", cells=tuple(farther)),
        ],
        out,
    )
    return out


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("disk") / "site"
    Publication(title="Boards").render_all([full_board(n=5)], out)
    return out


@pytest.fixture(scope="module")
def desktop(pages: Path) -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


BOARD_FOLDER = "01-digits-m-psnr35-1a2b3c"
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
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
        desktop.open(page)
        desktop.wait_for(ALL_DRAWN)
    assert desktop.complaints == []
    assert all(request.startswith(("file://", "data:image/")) for request in desktop.requests)


def test_a_click_sorts_and_the_state_is_announced(desktop: Browser, pages: Path) -> None:
    desktop.open(pages / "index.html")
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
    desktop.open(pages / "index.html")
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
    assert attacks(desktop) == ["gradauto", "gradauto:RM", "ilfo", "gradauto:RD"]
    fill("text", "e.value = 'GRADAUTO:r'")
    assert sorted(attacks(desktop)) == ["gradauto:RD", "gradauto:RM"]
    assert (
        desktop.ask("document.querySelector('form.filter output').textContent")
        == f"2 of {len(everything)} rows"
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(pages: Path, dark: bool) -> None:
    with Browser(width=360, height=740, dark=dark) as phone:
        for page in [pages / "index.html", *sorted((pages / "cells").glob("*.html"))[:3]]:
            phone.open(page)
            phone.wait_for(ALL_DRAWN)
            assert phone.ask("document.documentElement.scrollWidth") == 360
        paper = phone.ask("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in paper[4:-1].split(",")) < 200) == dark
        assert phone.complaints == []


LOOKS = {
    "desktop": {"width": 1280},
    "dark": {"width": 1280, "dark": True},
    "phone": {"width": 390, "height": 800},
}


@pytest.mark.parametrize("look", list(LOOKS.values()), ids=list(LOOKS))
def test_axe_finds_nothing_on_any_kind_of_page(published: Path, whole: Path, look: dict) -> None:
    board = f"{BOARD_FOLDER}/"
    kinds = [
        *(whole / name for name in ("index.html", "fronts.html")),
        *(whole / board / f"{name}.html" for name in ("index", "defenses", "curves", "transfer")),
        next((whole / board / "cells").glob("*.html")),
        *(published / board / name for name in ("index.html", "pictures.html")),
    ]
    with Browser(**look) as browser:
        for page in kinds:
            browser.open(page)
            browser.page.evaluate(AXE)
            found = browser.ask(
                "axe.run().then(r => r.violations.map(v => [v.id, v.nodes[0].html]))"
            )
            assert found == [], page


def test_the_view_is_in_the_address_and_back_leads_to_it(desktop: Browser, pages: Path) -> None:
    desktop.open(pages / "index.html")
    desktop.page.click("th[data-key=recovery] button")
    desktop.page.fill("form.filter [name=text]", "gradauto")
    desktop.page.uncheck("#standings tr[data-target='sact-like'] input")
    seen = attacks(desktop)
    assert seen
    assert "sact-like" not in desktop.ask(
        "[...document.querySelectorAll('#leaderboard tbody tr')].filter(r => !r.hidden)"
        ".map(r => r.dataset.target)"
    )
    address = desktop.page.url
    assert {"find=gradauto", "sort=-recovery", "without=sact-like"} <= set(
        address.partition("?")[2].split("&")
    )
    desktop.page.click("#leaderboard tbody tr:not([hidden]) th a")
    desktop.page.wait_for_url("**/cells/*")
    desktop.page.go_back()
    assert desktop.page.url == address
    assert attacks(desktop) == seen
    desktop.open(pages / "index.html", "?" + address.partition("?")[2])
    assert attacks(desktop) == seen
    assert desktop.page.get_attribute("th[data-key=recovery]", "aria-sort") == "descending"


def test_an_address_that_means_nothing_shows_the_whole_board(desktop: Browser, pages: Path) -> None:
    desktop.complaints.clear()
    desktop.open(pages / "index.html")
    whole = attacks(desktop)
    odd = "?sort=-%3Cimg%3E&target=nobody&without=nobody&pair=x&pair=__proto__&columns=%00#row-zz"
    desktop.open(pages / "index.html", odd)
    assert attacks(desktop) == whole
    assert desktop.complaints == []


def test_a_row_has_an_address_of_its_own(desktop: Browser, pages: Path) -> None:
    desktop.open(pages / "index.html")
    name = desktop.ask("document.querySelectorAll('#leaderboard tbody tr')[6].id")
    assert name.startswith("row-")
    desktop.open(pages / "index.html", f"#{name}")
    place = desktop.page.locator(f"#{name}").bounding_box()
    assert place is not None
    assert 0 <= place["y"] < 1600
    assert desktop.ask(f"document.getElementById('{name}').matches(':target')")


def test_ranks_are_among_the_targets_that_are_kept(desktop: Browser, pages: Path) -> None:
    desktop.open(pages / "index.html")
    ranks = (
        "Object.fromEntries([...document.querySelectorAll('#standings tbody tr')]"
        ".map(r => [r.dataset.target, r.querySelector('.rank').textContent]))"
    )
    whole = desktop.ask(ranks)
    best = next(name for name, rank in whole.items() if rank == "1")
    second = next(name for name, rank in whole.items() if rank == "2")
    desktop.page.uncheck(f"#standings tr[data-target='{best}'] input")
    now = desktop.ask(ranks)
    assert (now[best], now[second]) == ("–", "1")
    said = desktop.page.inner_text("#kept")
    assert f"{len(whole) - 1} of {len(whole)} targets kept" in said
    assert "In a first place on" in said
    desktop.page.click("[data-keep=none]")
    assert attacks(desktop) == []
    desktop.page.click("[data-keep=all]")
    assert desktop.ask(ranks) == whole


def test_two_rows_stand_side_by_side(desktop: Browser, pages: Path) -> None:
    desktop.open(pages / "index.html")
    ticks = desktop.page.locator("#leaderboard .tick input")
    assert not desktop.page.is_visible("#pair")
    for place in (0, 1, 2):  # a third takes the place of the first
        ticks.nth(place).check()
    heads = desktop.ask("[...document.querySelectorAll('#pair thead th')].map(h => h.textContent)")
    names = desktop.ask(
        "[...document.querySelectorAll('#leaderboard tbody tr:has(.tick input)')].slice(1, 3)"
        ".map(r => r.querySelector('th').dataset.sort + ' on ' + r.dataset.target)"
    )
    assert heads[1:3] == names
    values = desktop.ask(VALUES)
    assert len(values) >= 3
    line = desktop.ask(
        "[...document.querySelectorAll('#pair tbody tr')].find(r => r.cells[0].textContent === "
        "'Recovery').cells[3].textContent"
    )
    difference = 100 * (values[2] - values[1])
    assert line == f"{difference:+.1f} points".replace("-", "\u2212")
    assert desktop.page.url.count("pair=") == 2


def test_long_remarks_below_numbers_make_no_table_wider(tmp_path: Path) -> None:
    """The mean PSNR of the images that changed, and how many did not."""
    board = full_board(n=5)
    cells = [
        replace(cell, unchanged=2, pooled_psnr=cell.psnr - 3) if cell.psnr else cell
        for cell in board.cells
    ]
    Leaderboard(cells=False).render(replace(board, cells=tuple(cells)), tmp_path / "report")
    with Browser(width=1280) as browser:
        browser.open(tmp_path / "report" / "index.html")
        assert "of 5 unchanged" in browser.page.inner_text("#leaderboard")
        assert browser.ask("document.documentElement.scrollWidth") == 1280


def test_the_head_stays_and_nothing_is_cut(desktop: Browser, pages: Path) -> None:
    desktop.open(pages / "index.html")
    desktop.wait_for(ALL_DRAWN)
    assert desktop.ask("document.documentElement.scrollWidth") == 1280
    assert desktop.ask(
        "[...document.querySelectorAll('.scroll')].every(e => e.scrollWidth <= e.clientWidth)"
    )
    desktop.page.set_viewport_size({"width": 1280, "height": 500})
    desktop.ask("document.querySelector('#leaderboard tbody tr:last-child').scrollIntoView()")
    assert (
        desktop.ask("document.querySelector('#leaderboard thead th').getBoundingClientRect().top")
        == 0
    )
    desktop.page.set_viewport_size({"width": 1280, "height": 1600})


def test_on_paper_nothing_is_cut_and_no_control_is_left(pages: Path) -> None:
    with Browser(width=1047, media="print") as paper:
        paper.open(pages / "index.html")
        assert paper.ask("document.documentElement.scrollWidth") == 1047
        assert paper.ask(
            "[...document.querySelectorAll('button:not(thead button), input, form')].every(e => e.offsetHeight === 0)"
        )
        assert paper.page.pdf(landscape=True)[:4] == b"%PDF"


def test_a_figure_is_saved_as_a_file(desktop: Browser, pages: Path, tmp_path: Path) -> None:
    desktop.complaints.clear()
    desktop.open(pages / "index.html")
    desktop.wait_for(ALL_DRAWN)
    for kind, start in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        with desktop.page.expect_download() as saved:
            desktop.page.click(f"figure.chart >> text={kind}")
        assert saved.value.suggested_filename == f"front.{kind.lower()}"
        saved.value.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_bytes().startswith(start)
    assert desktop.complaints == []


def test_a_name_in_the_legend_puts_its_attack_in_front(desktop: Browser, pages: Path) -> None:
    desktop.complaints.clear()
    desktop.open(pages / "index.html")
    desktop.wait_for(ALL_DRAWN)
    marks = "[...document.querySelectorAll('figure.chart .mark-symbol.role-mark path')]"
    faint = f"{marks}.filter(p => p.getAttribute('opacity') === '0.1').length"
    assert desktop.ask(faint) == 0
    desktop.page.locator("figure.chart .role-legend-label text").first.click()
    desktop.wait_for(f"{faint} > 0")
    assert desktop.complaints == []


def test_a_long_board_stays_short_on_a_phone(tmp_path: Path) -> None:
    board = full_board(n=5)
    rows = tuple(
        replace(board.cells[0], key=f"{place:064x}", attack=f"attack {place}")
        for place in range(126)
    )
    Leaderboard(cells=False).render(replace(board, cells=rows), tmp_path / "report")
    with Browser(width=390, height=800) as phone:
        phone.open(tmp_path / "report" / "index.html")
        height = phone.ask("document.getElementById('leaderboard').offsetHeight")
        assert height < 126 * 110
        phone.page.check("form.filter [name=columns]")
        assert phone.ask("document.getElementById('leaderboard').offsetHeight") > 2 * height
        assert phone.ask("document.documentElement.scrollWidth") == 390


def test_rows_of_a_published_board_lead_to_their_pictures(published: Path) -> None:
    with Browser() as browser:
        browser.open(published / BOARD_FOLDER / "index.html")
        browser.page.click("#leaderboard tbody tr th a")
        browser.page.wait_for_url("**/pictures.html#row-*")
        name = browser.page.url.partition("#")[2]
        box = browser.page.locator(f"#{name}").bounding_box()
        assert box is not None
        assert 0 <= box["y"] < 1600


def test_gates_are_drawn_from_their_bits(desktop: Browser, pages: Path) -> None:
    board = full_board(n=5)
    page = pages / "cells" / f"{board.cells[0].key[:12]}.html"
    desktop.complaints.clear()
    desktop.open(page)
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
