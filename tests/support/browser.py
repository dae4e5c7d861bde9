"""Pages in the Chromium that the system has, driven by Playwright; no browser is downloaded."""

from __future__ import annotations

import atexit
import functools
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)


@functools.cache
def _chromium() -> Any:
    """One browser for all pages of this process."""
    from playwright.sync_api import sync_playwright

    driver = sync_playwright().start()
    browser = driver.chromium.launch(executable_path=CHROMIUM)

    def close() -> None:
        browser.close()
        driver.stop()

    atexit.register(close)
    return browser


class Browser:
    """One page with the network switched off.

    Attributes:
        page: Playwright's, for whatever is not here.
        complaints: console errors, exceptions and refused loads, as they come.
        requests: addresses that the page asked for.
    """

    def __init__(
        self,
        *,
        width: int = 1280,
        height: int = 1600,
        dark: bool = False,
        scripts: bool = True,
        media: str = "screen",
    ) -> None:
        self._context = _chromium().new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
            is_mobile=width < 600,
            has_touch=width < 600,
            offline=True,
        )
        self.page = self._context.new_page()
        self.page.emulate_media(media=media)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", self._note)

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning", "assert"):
            self.complaints.append(message.text)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._context.close()

    def open(self, page: Path, query: str = "") -> None:
        """Open a file, with the query and anchor that follow its address."""
        self.page.goto(page.resolve().as_uri() + query, wait_until="load", timeout=60_000)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.page.evaluate(expression)

    def wait_for(self, expression: str) -> None:
        """Wait until the expression is true."""
        self.page.wait_for_function(expression, timeout=60_000)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Save what the page looks like."""
        self.page.screenshot(path=path, full_page=whole)
