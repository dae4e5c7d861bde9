"""The wheel: what `pip install` brings has every extra that documents name, and every file that the
product reads."""

import re
import subprocess
import sys
import zipfile
from email.parser import Parser

import pytest
from documents import PAGES, ROOT

PACKAGES = ("bench", "attacks", "targets", "reports")
HINTS = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*")
    if path.suffix in (".py", ".toml")
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, built as a user's pip builds it, with what is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    made = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    (path,) = folder.glob("gatebench-*.whl")
    return path


def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def extras_named():
    """(file, extra) of every extra of gatebench in documents, hints and manifests."""
    for path in (*PAGES, *HINTS):
        text = path.read_text(encoding="utf-8")
        for extras in re.findall(r"(?:gatebench|WHEEL|\.)\[([a-z]+(?:,[a-z]+)*)\]['\"]", text):
            yield from ((path.relative_to(ROOT), extra) for extra in extras.split(","))


def test_a_wheel_has_every_extra_that_is_named(wheel):
    named = set(extras_named())
    assert {extra for _, extra in named} >= {"imagenet", "ray", "dev"}
    offered = set(metadata(wheel).get_all("Provides-Extra"))
    assert {(path, extra) for path, extra in named if extra not in offered} == set()
    needed = " ".join(metadata(wheel).get_all("Requires-Dist"))
    for extra in offered:
        assert re.search(rf"extra == ['\"]{extra}['\"]", needed), extra


def test_a_wheel_has_every_file_of_the_product(wheel):
    tracked = subprocess.run(
        ["git", "ls-files", "-z", *PACKAGES], cwd=ROOT, capture_output=True, text=True
    )
    if tracked.returncode:
        pytest.skip("this tree is no clone: what belongs to it is not known")
    wanted = {name for name in tracked.stdout.split("\0") if name and (ROOT / name).is_file()}
    assert {"bench/suites/quickstart.toml", "targets/weights/manifest.toml"} <= wanted
    assert len([name for name in wanted if name.endswith(".safetensors")]) > 10
    found = names(wheel)
    assert wanted - found == set()
    outside = {name for name in found if name.split("/")[0] not in PACKAGES}
    assert all(".dist-info/" in name for name in outside), outside


def test_pip_takes_the_wheel(wheel):
    code, said = _pip("--no-deps", "--ignore-installed", str(wheel))
    assert code == 0, said
    assert re.search(r"Would install .*gatebench-\d", said)


@pytest.mark.parametrize("extra", ["imagenet", "ray"])
def test_an_extra_is_added_to_what_is_installed(extra):
    """pip takes the gatebench that is there: only what the extra brings may be missing."""
    code, said = _pip(f"gatebench[{extra}]")
    missing = re.findall(r"No matching distribution found for ([\w.-]+)", said)
    assert code == 0 or missing, said
    assert "gatebench" not in missing
    assert re.search(rf"already satisfied: gatebench\[{extra}\]", said), said


def _pip(*arguments):
    """(exit code, output) of a `pip install` that installs nothing and asks no index."""
    ran = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return ran.returncode, ran.stdout + ran.stderr
