"""The commands that documents show."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
CARDS = [page for page in PAGES if page.parent.name == "cards" and "@" in page.stem]
GENERATED = ROOT / "docs" / "reference"


def blocks(text):
    """The lines of blocks of commands: continued ones put together, one command each."""
    found = re.findall(
        r"^ *```(?:text|sh|bash|console)?\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE
    )
    indented = re.findall(r"^ {4}(?:\$ )?gatebench (?:.*\\\n)*.*\n", text, re.MULTILINE)
    lines = "".join([*found, *indented]).replace("\\\n", " ").splitlines()
    return [
        part for line in lines for part in line.replace("; gatebench", "\ngatebench").split("\n")
    ]


def commands(page):
    """(words, whole) of every command of gatebench on a page; inline ones may be a part only."""
    text = page.read_text(encoding="utf-8")
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for lines, whole in ((blocks(text), True), (inline, False)):
        for line in lines:
            line = re.sub(r"\s{3,}[a-z#].*$|\s+#\s.*$", "", line.strip().removeprefix("$ "))
            line = re.sub(r"\s{2,}", " ", line)
            if line.startswith("gatebench "):
                yield shlex.split(line)[1:], whole


ALL = {
    (tuple(words), whole): page
    for page in PAGES
    if GENERATED not in page.parents
    for words, whole in commands(page)
    if not {"…", "..."} & set(" ".join(words).split())
}
