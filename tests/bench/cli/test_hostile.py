"""Text of others reaches no terminal as anything but text: labels, reasons, docstrings, names."""

import pytest

from bench.plugins import registry
from bench.terminal import printable

PAINT = "\\x1b[2J\\x1b[31m\\rverify: everything holds\\x07\\u202e\\x9b1m"

PLUGIN = f'''
from dataclasses import dataclass
from bench.api import Attack

@dataclass(frozen=True, kw_only=True)
class Painter(Attack):
    """Paints {PAINT} first.

    And {PAINT} later.
    """

    presets = {{"loud": {{"word": "{PAINT}"}}}}

    word: str = "{PAINT}"
    fails: bool = True

    def perturb(self, view, images, labels, job):
        if self.fails:
            raise ValueError("{PAINT}" + "\\nverify: everything holds" * 5000)
        return images.clone()
'''


@pytest.fixture
def painter(tmp_path, monkeypatch, plugins):
    site = tmp_path / "site"
    info = site / "painter-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: painter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gatebench.attacks]\npainter = painter:Painter\n")
    (site / "painter.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(site))
    registry.providers.cache_clear()


def looked_at(*texts):
    for text in texts:
        assert text == printable(text)
        assert not [line for line in text.split("\n") if line.startswith("verify: everything")]
        assert len(text) < 50_000


def test_no_command_prints_a_control_character(gatebench, painter, tmp_path):
    path = tmp_path / "plan.toml"
    escaped = PAINT.replace("\\x", "\\u00")
    params = f'params = {{ word = "{escaped}", fails = FAILS }}\n'
    path.write_text(
        path.read_text()
        + '[[attack]]\nuse = "painter"\n'
        + params.replace("FAILS", "true")
        + '[[attack]]\nuse = "painter"\n'
        + params.replace("FAILS", "false")
    )
    assert "\\u001b" in path.read_text()
    run = ("run", "plan.toml", "--name", "r", "--in-process")
    code, out, err = gatebench(*run)
    assert code == 4
    assert "\\x1b[2J" in err
    looked_at(out, err)
    commands = [
        ("list", "attacks"),
        ("list", "attacks", "painter"),
        ("plan", "plan.toml"),
        ("plan", "\x1b[2J.toml"),
        ("show", "r"),
        ("show", "\x1b[2J\nverify: everything holds"),
        ("run", "plan.toml", "--name", "\x1b[2J"),
        ("run", "plan.toml", "--images", "\x1b[2J"),
        ("run", "plan.toml", "--\x1b[2J"),
        ("plan", "plan.toml", "--only", "\x1b[2J"),
        ("plan", "plan.toml", "--set", "\x1b[2J=1"),
        ("\x1b[2J",),
        ("verify", "r", "--images", "1"),
        ("compare", "r", "r"),
        ("cite", "\x1b[2J"),
        ("weights", "verify", "\x1b[2J"),
        ("plugin", "test", "\x1b[2J:X"),
        ("report", "r", "--use", "\x1b[2J"),
    ]
    for command in commands:
        code, out, err = gatebench(*command)
        assert out or err, command
        assert code != 1, (command, err)
        looked_at(out, err)
