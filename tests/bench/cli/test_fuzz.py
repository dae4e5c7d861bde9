"""Random and damaged plans and baselines: one message and a documented exit code, whatever is in
them.

`GATEBENCH_FUZZ=5000` makes that many of each, with new ones each time; by default a few, the same.
"""

import contextlib
import copy
import json
import os
import tomllib

import pytest
from fuzzing import COUNTS, WANTED, WORDS, command, fuzzed, mutated
from hypothesis import given
from hypothesis import strategies as st

from bench.files.toml import dump_document
from bench.plans import suites
from bench.plans.resolve import load_plan
from bench.plans.stored import StoredPlan, read_plan
from bench.regression.baseline import _digest
from bench.store.documents import write_json
from bench.store.folder import RunFolder

PLAN = """schema = 1
[protocol]
dataset = "digits-m:test"
images = 10
batch = 4
threat = [{ norm = "linf", eps = "8/255" }, { norm = "psnr", floor = 35 }, "none"]
budget = [9, 20]
seeds = [0, 1]
audit = 2
[protocol.fit]
split = "train"
images = 20
budget = 3
[run]
device = "cpu"
shard = 3
deadline = "2m"
workers = 2
threads = 1
[[target]]
use = "skipnet"
params = { depth = 20 }
weights = "random:0"
[[target]]
use = "sact"
weights = "random:1"
label = "another"
[[defense]]
use = "jpeg"
params = { quality = 75 }
[[attack]]
use = "gradauto"
label = "sweep"
[attack.sweep]
K = [0.001, 0.1]
[[attack]]
use = "autoenergy"
[[attack]]
use = "noise"
behind = ["jpeg quality=75"]
[[exclude]]
target = "another"
attack = "noise"
reason = "an example"
"""
SUITES = [path.read_text(encoding="utf-8") for path in suites.found().values()]


@st.composite
def plans(draw):
    """Bytes of a plan: a good one with changes in its document or in its text, or anything."""
    text = draw(st.sampled_from([PLAN, PLAN, PLAN, *SUITES]))
    kind = draw(st.sampled_from(["document", "document", "document", "text", "anything"]))
    if kind == "anything":
        alphabet = "[]{}=\"#.\n abxy01:-_\\'targetusek\x00\ufeff"
        return draw(st.text(alphabet, max_size=200)).encode()
    if kind == "document":
        text = dump_document(mutated(draw, tomllib.loads(text)))
    data = bytearray(text.encode())
    for _ in range(draw(st.integers(0 if kind == "document" else 1, 3))):
        place = draw(st.integers(0, len(data)))
        deed = draw(st.sampled_from(["insert", "cut", "flip", "repeat", "mark"]))
        size = draw(st.integers(1, 40))
        if deed == "insert":
            data[place:place] = draw(st.binary(max_size=8))
        elif deed == "cut":
            del data[place : place + size]
        elif deed == "flip" and data:
            data[min(place, len(data) - 1)] ^= 1 << draw(st.integers(0, 7))
        elif deed == "repeat":
            data[place:place] = data[place : place + size] * draw(st.sampled_from([1, 3, 2000]))
        else:
            data[0:0] = draw(st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"]))
    return bytes(data)


@pytest.fixture(scope="module", autouse=True)
def _counts():
    yield
    if WANTED:
        print(f"\nfuzzed: {dict(sorted(COUNTS.items()))}")


@fuzzed
@given(plans(), st.lists(st.sampled_from(["a.b", *WORDS]), max_size=1))
def test_plans(tmp_path_factory, data, overrides):
    folder = _folder(tmp_path_factory)
    (folder / "plan.toml").write_bytes(data)
    extra = [part for text in overrides for part in ("--set", f"protocol.threat={text}")]
    code = command("plan", str(folder / "plan.toml"), *extra)
    assert code in (0, 2, 3, 7)
    if code == 0 and not extra:
        check_stored(folder)


def check_stored(folder):
    """Fail where a plan that is taken cannot be read again from the folder of its run."""
    plan = load_plan(folder / "plan.toml")
    words = dict.fromkeys(("name", "command", "dataset", "subset", "fit_subset"), "x")
    stored = StoredPlan.of(plan, **words)
    write_json(folder / "plan.json", stored.document())
    assert read_plan(RunFolder(folder)) == stored


FOLDERS = []


def _folder(factory):
    if not FOLDERS:
        FOLDERS.append(factory.mktemp("fuzz"))
    return FOLDERS[0]


def test_the_fuzzer_makes_good_plans_too(tmp_path):
    (tmp_path / "plan.toml").write_text(dump_document(tomllib.loads(PLAN)))
    assert command("plan", str(tmp_path / "plan.toml")) == 0
    check_stored(tmp_path)


@st.composite
def baselines(draw, good):
    """A baseline with changes, with the digest that it then should have or without."""
    document = mutated(draw, copy.deepcopy(good))
    if isinstance(document, dict) and draw(st.booleans()):
        document.pop("sha256", None)
        with contextlib.suppress(ValueError, TypeError):
            document["sha256"] = _digest(document)
    data = bytearray(json.dumps(document).encode())
    if draw(st.integers(0, 4)) == 0:
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 9))] = draw(st.binary(max_size=4))
    return bytes(data)


def test_baselines(gatebench, tmp_path):
    code, _, err = gatebench("run", "plan.toml", "--name", "r", "--in-process", "--no-report")
    assert code == 0, err
    assert gatebench("baseline", "r", "--out", "base.json")[0] == 0
    good = json.loads((tmp_path / "base.json").read_bytes())
    place = tmp_path / "mutated.json"

    @fuzzed
    @given(baselines(good))
    def check(data):
        place.write_bytes(data)
        found = command("check", "plan.toml", "--run", "r", "--baseline", str(place))
        assert found in (0, 8, 9)

    check()


def cyclic(tmp_path):
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    return 'extends = "a.toml"\n', "goes round in a circle"


def endless(tmp_path):
    for i in range(40):
        (tmp_path / f"p{i}.toml").write_text(f'extends = "p{i + 1}.toml"\n')
    return 'extends = "p0.toml"\n', "more than 16 plans, one after the other"


def fifo(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    return 'extends = "pipe.toml"\n', "is no regular file"


def large(tmp_path):
    with open(tmp_path / "large.toml", "wb") as file:
        file.truncate(2**33)
    return 'extends = "large.toml"\n', "more than the 4,194,304 allowed"


TEXTS = {
    "null byte": ('extends = "a\\u0000b.toml"\n', "cannot be read: embedded null byte"),
    "long path": (f'extends = "{"x" * 5000}.toml"\n', "cannot be read: File name too long"),
    "no suite": ('extends = "quickstar"\n', "did you mean 'quickstart'?"),
    "a number": ("extends = 3\n", "expected the name of a suite or a file, got a number"),
}


MAKERS = {"cyclic": cyclic, "endless": endless, "fifo": fifo, "large": large}


@pytest.mark.parametrize("case", [*MAKERS, *TEXTS])
def test_what_cannot_be_extended_is_one_mistake_among_others(gatebench, tmp_path, case):
    head, said = MAKERS[case](tmp_path) if case in MAKERS else TEXTS[case]
    (tmp_path / "plan.toml").write_text(head + "[protocol]\nimages = -3\n[run]\nshard = 0\n")
    code, _, err = gatebench("plan", "plan.toml")
    assert code == 2
    assert "extends: " in err
    assert said in err
    assert "protocol.images: at least 1, got -3" in err
    assert "run.shard: at least 1, got 0" in err
    assert "missing" not in err
    assert "at least one" not in err


DEEP = {
    "list": ("protocol.threat = " + "[" * 400 + "]" * 400, "nested"),
    "endless list": ("x = " + "[" * 100_000, "nested too deeply"),
    "tables": ("protocol." + ".".join("a" * 3000) + " = 1", "nested deeper than 12"),
    "digits": (f"protocol.images = {'9' * 5000}", "cannot be read: Exceeds the limit"),
    "hexadecimal": (f"protocol.images = 0x{'f' * 5000}", "a whole number beyond 64 bits"),
    "budget": ("protocol.budget = 9999999999999", "at most 1,000,000,000"),
    "sweep": (
        'attack = [{ use = "noise", sweep = { '
        + ", ".join(f"p{i} = {list(range(100))}" for i in range(9))
        + " } }]",
        "makes 1,000,000,000,000,000,000 attacks; at most 10,000",
    ),
    "boards": (f"protocol.seeds = {list(range(2000))}", "make 2,000 boards; at most 1,000"),
    "seed": ("protocol.seeds = [-1]", "protocol.seeds: at least 0, got -1"),
    "patch": (
        'protocol = { dataset = "digits-m:test", images = 3, budget = 3, threat = { patch = 99 } }',
        "patch99 is larger than the image",
    ),
    "blank label": ('attack = [{ use = "noise", label = "  " }]', "'  ' is blank"),
    "labels alike": (
        'attack = [{ use = "noise", label = "a b" }, '
        '{ use = "identity", label = "a\u200b\u00a0b" }]',
        "looks like 'a b'",
    ),
    "a label like a target with its defense": (
        'target = [{ use = "toy", weights = "random:0", label = "a" }, '
        '{ use = "toy", weights = "random:1", label = "a + b" }]\n'
        'defense = [{ use = "jpeg", label = "b" }]',
        "'a + b' means two things",
    ),
    "a label like a cell": (
        'target = [{ use = "toy", weights = "random:0", label = "a" }, '
        '{ use = "toy", weights = "random:1", label = "a / b" }]\n'
        'attack = [{ use = "noise", label = "b / c" }, { use = "identity", label = "c" }]',
        "'a / b / c' means two cells",
    ),
    "label": (
        'attack = [{ use = "noise", label = "a\\u001b[2Jb" }]',
        "'a\\x1b[2Jb' holds characters that cannot be shown",
    ),
}


@pytest.mark.parametrize("case", DEEP)
def test_depth_and_size_are_mistakes_with_a_place(gatebench, tmp_path, case):
    line, said = DEEP[case]
    document = tomllib.loads((tmp_path / "plan.toml").read_text())
    table = line.partition(" = ")[0].partition(".")[0]
    for name in tomllib.loads(line) if line.count("\n") else [table]:
        document.pop(name, None)
    (tmp_path / "plan.toml").write_text(f"{line}\n{dump_document(document)}")
    code, _, err = gatebench("plan", "plan.toml")
    assert code == 2
    assert said in err


def test_a_byte_order_mark_is_no_mistake(gatebench, tmp_path):
    good = (tmp_path / "plan.toml").read_bytes()
    (tmp_path / "plan.toml").write_bytes(b"\xef\xbb\xbf" + good)
    assert gatebench("plan", "plan.toml")[0] == 0
    (tmp_path / "plan.toml").write_bytes(good.decode().encode("utf-16"))
    code, _, err = gatebench("plan", "plan.toml")
    assert code == 2
    assert "is UTF-16; save it as UTF-8" in err


def test_many_components_are_compared_in_one_pass(tmp_path, monkeypatch):
    """Ten thousand attacks: not fifty million comparisons."""
    from bench.contracts.cell import Component
    from bench.plans import components, problems
    from bench.plans.toml import LineNumbers

    asked = [0]

    class Counting(Component):
        def identity(self):
            asked[0] += 1
            return super().identity()

    made = [("attack", Counting("a", "d", "v", f"label {i}", {"i": i % 4999})) for i in range(5000)]
    found = problems.Problems("plan", LineNumbers(""))
    components._check_distinct(made, found)
    assert found.all() == [
        "plan: attack: 'label 4999' is the same as 'label 0', parameter by parameter"
    ]
    assert asked[0] == 5000
