"""Write the generated pages of the reference: `make reference`."""

from __future__ import annotations

from pathlib import Path

import cli
import plan
import plugins

REFERENCE = Path(__file__).resolve().parent.parent / "reference"
PAGES = {"cli.md": cli.render, "plan.md": plan.render, "plugins.md": plugins.render}
"""File under docs/reference -> what writes it."""


def main() -> None:
    """Write every page."""
    for name, render in PAGES.items():
        (REFERENCE / name).write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
