"""The examples of comparisons, verdicts, suites and weights, installed and used as the guides say."""

import hashlib
import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

GUIDES = Path(__file__).parent.parent / "docs/guides"


def blocks(page, language):
    text = (GUIDES / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_every_group_has_an_example():
    from bench.plugins.registry import GROUPS

    shown = set()
    for page in GUIDES.glob("*.md"):
        for text in re.findall(r"^ *```toml\n(.*?)^ *```", page.read_text(), re.M | re.S):
            shown |= set(re.findall(r'entry-points\."([\w.]+)"', text))
    assert shown == set(GROUPS.values())


@pytest.fixture
def installed(tmp_path, monkeypatch, gatebench):
    """Installs files and entry points, as a page shows them, as the distribution my-package."""
    from bench.plugins import registry

    site = tmp_path / "site"

    def install(points, files):
        for name, content in files.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(content, encoding="utf-8")
        info = site / "my_package-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
        lines = []
        for group, entries in tomllib.loads(points)["project"]["entry-points"].items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(site))
        importlib.invalidate_caches()
        registry.providers.cache_clear()
        return site

    yield install
    registry.providers.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        del sys.modules[name]


def test_comparisons_and_verdicts_of_the_guide(gatebench, installed):
    (code,) = [one for one in blocks("report.md", "python") if "Changes" in one]
    (points,) = [one for one in blocks("report.md", "toml") if "comparisons" in one]
    installed(points, {"my_package.py": code})
    for words in (
        ("run", "plan.toml", "--name", "r", "--in-process", "--no-report"),
        ("baseline", "r", "--out", "base.json"),
    ):
        status, _, err = gatebench(*words)
        assert status == 0, err
    status, out, err = gatebench("compare", "r", "r", "--use", "dearer")
    assert status == 0, err
    assert out.splitlines() == ["still: 0 of 6 images dearer", "wander: 0 of 6 images dearer"]
    check = ("check", "--run", "r", "--baseline", "base.json")
    status, out, err = gatebench(*check, "--use", "short")
    assert status == 0, err
    assert re.fullmatch(r"check: \d+ comparisons on 6 images, none worse than allowed: pass\n", out)
    status, _, err = gatebench(*check, "--use", "shrt")
    assert status == 2
    assert "did you mean 'short'?" in err


def test_suites_and_weights_of_the_guide(gatebench, installed):
    import bench
    from targets.skipnet import SkipNet

    points, suite, manifest = blocks("files.md", "toml")
    digest = "SHA256 OF THE FILE"
    site = installed(
        points,
        {
            "my_package/__init__.py": "",
            "my_package/suites/__init__.py": "",
            "my_package/suites/my-trial.toml": suite,
            "my_package/weights/manifest.toml": manifest,
        },
    )
    torch.manual_seed(0)
    network = SkipNet(depth=8, num_classes=10)
    file = site / "my_package/weights/my-skipnet-8.safetensors"
    save_file(network.state_dict(), file)
    path = file.with_name("manifest.toml")
    assert digest in manifest
    path.write_text(manifest.replace(digest, hashlib.sha256(file.read_bytes()).hexdigest()))
    status, _, err = gatebench("weights", "verify", "my-skipnet-8")
    assert status == 0, err
    assert "my-skipnet-8" in gatebench("weights", "list")[1]
    assert "The network of this package, a trial of a minute." in gatebench("list", "suites")[1]
    loaded = bench.load_target("my-skipnet-8")
    images = torch.rand(2, 3, 32, 32)
    network.eval()
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, network(images).logits)
    words = ("run", "my-trial", "--name", "trial", "--in-process", "--no-report")
    status, _, err = gatebench(*words)
    assert status == 0, err
    assert "my-skipnet-8" in gatebench("show", "trial")[1]
    path.write_text(manifest.replace(digest, "0" * 64))
    assert gatebench("weights", "verify", "my-skipnet-8")[0] != 0
