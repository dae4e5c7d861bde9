"""What `make test` leaves out says why, beside the marker."""

from pathlib import Path

HERE = Path(__file__).parent
MARK = ".mark" + ".slow"  # in two parts: this file marks nothing


def marked():
    """(file:line, text) of every line that marks a test as slow."""
    return [
        (f"{path.relative_to(HERE)}:{number}", line)
        for path in sorted(HERE.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MARK in line
    ]


def test_every_slow_test_gives_its_reason():
    found = marked()
    assert len(found) > 20
    assert not [place for place, line in found if len(line.partition("#")[2].split()) < 2]
