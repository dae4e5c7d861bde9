"""Plans: every mistake at once, each with its place; the key knows what matters and nothing else."""

import re
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.errors import GatebenchError, PlanError
from bench.plans.resolve import load_plan
from bench.plugins import registry

GOOD = """
schema = 1

[protocol]
dataset = "toy-pixels:test"
images = 10
batch = 4
threat = { norm = "linf", eps = "8/255" }
budget = 9

[[target]]
use = "toy"
weights = "random:0"

[[attack]]
use = "wander"
"""

pytestmark = pytest.mark.usefixtures("plugins")


@pytest.fixture
def write(tmp_path):
    def make(text, name="plan.toml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return make


def mistakes(source, **options):
    with pytest.raises(PlanError) as caught:
        load_plan(source, **options)
    assert caught.value.exit_code == 2
    return caught.value.problems


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_good_plan(write):
    plan = load_plan(write(GOOD))
    (cell,) = plan.cells
    assert (cell.target.name, cell.target.distribution, cell.target.weights) == (
        "toy",
        "mischief",
        "random:0",
    )
    assert (cell.attack.label, dict(cell.attack.params)) == (
        "wander",
        {"step": 0.02, "start": 0.01},
    )
    assert cell.attack.control is False
    assert cell.protocol.document() == {
        "dataset": "toy-pixels:test",
        "images": 10,
        "batch": 4,
        "threat": {"norm": "linf", "eps": "8/255"},
        "budget": 9,
        "seed": 0,
        "audit": 4,
        "fit": {"split": "train", "images": 256, "budget": 30},
    }
    assert plan.options.deadline == 600


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        (
            "toy-pixels:test",
            "toy-pixel:test",
            5,
            "unknown data set 'toy-pixel'; did you mean 'toy-pixels'?",
        ),
        ("toy-pixels:test", "toy-pixels:tset", 5, "has no split 'tset'; did you mean 'test'?"),
        ("toy-pixels:test", "toy-pixels", 5, "written NAME:SPLIT"),
        ("images = 10", "images = 41", 6, "41 asked for, but toy-pixels:test has 40"),
        ("images = 10", "images = 0", 6, "at least 1"),
        ("images = 10", "images = 10.5", 6, "expected a whole number, got 10.5"),
        ("images = 10", "images = true", 6, "expected a whole number"),
        ("images = 10", 'images = "ten"', 6, "expected a whole number, got 'ten'"),
        ("batch = 4", "bacth = 4", 7, "unknown key 'bacth'; did you mean 'batch'?"),
        ("batch = 4", "batch = 0", 7, "at least 1"),
        ('eps = "8/255"', 'eps = "8/0"', 8, "divides by zero"),
        ('eps = "8/255"', "eps = 0.031", 8, "write eps exactly"),
        ('eps = "8/255"', 'epz = "8/255"', 8, "unknown key 'epz'; did you mean 'eps'?"),
        ('norm = "linf"', 'norm = "linv"', 8, "unknown norm 'linv'; did you mean 'linf'?"),
        ('eps = "8/255"', 'eps = "1/256"', 8, "admits no change"),
        (
            '{ norm = "linf", eps = "8/255" }',
            '{ norm = "psnr", floor = 100 }',
            8,
            "admits no change",
        ),
        ('{ norm = "linf", eps = "8/255" }', "[]", 8, "an empty list makes no board"),
        ('{ norm = "linf", eps = "8/255" }', '["none", "none"]', 8, "twice"),
        ("budget = 9", "budget = []", 9, "an empty list makes no board"),
        ("budget = 9", "budget = [9, 9]", 9, "twice"),
        ("budget = 9", "budget = [9, -1]", 9, "at least 1 forward-equivalent, got -1"),
        ("budget = 9", "budget = [9, 0.5]", 9, "expected a whole number"),
        ("budget = 9", 'budget = "all"', 9, "expected a whole number"),
        ("budget = 9", "budget = 9\nseeds = []", 10, "an empty list makes no board"),
        ("budget = 9", "budget = 9\nseeds = [1, 1]", 10, "twice"),
        ("budget = 9", "budget = 9\naudit = 0", 10, "at least 1"),
        ('use = "toy"', 'use = "toi"', 12, "unknown target 'toi'; did you mean 'toy'?"),
        ('use = "toy"', "use = 3", 12, "expected a string in quotes, got 3"),
        ('weights = "random:0"', 'weights = "random:x"', 13, 'expected "random:SEED"'),
        ('weights = "random:0"', 'weights = "random:00"', 13, 'expected "random:SEED"'),
        (
            'weights = "random:0"',
            'weights = "random:99999999999999999999"',
            13,
            'expected "random:SEED"',
        ),
        (
            'weights = "random:0"',
            'weights = "nobody@nowhere"',
            13,
            "unknown weights 'nobody@nowhere'",
        ),
        ('weights = "random:0"', "", 11, "missing"),
        ('use = "wander"', 'use = "wonder"', 16, "unknown attack 'wonder'; did you mean 'wander'?"),
        (
            'use = "wander"',
            'use = "wander:blod"',
            16,
            "'wander' has no preset 'blod'; did you mean 'bold'?",
        ),
        (
            'use = "wander"',
            'use = "contested"',
            16,
            "write 'mischief/contested' or 'rival/contested'",
        ),
        ('use = "wander"', 'use = "absent"', 16, "cannot be imported"),
        (
            'use = "wander"',
            'use = "wander"\nparams = { stp = 0.1 }',
            17,
            "unknown parameter 'stp'; did you mean 'step'?",
        ),
        (
            'use = "wander"',
            'use = "wander"\nparams = { step = "a" }',
            17,
            "expected step: float = 0.02, got 'a'",
        ),
        (
            'use = "wander"',
            'use = "wander"\nparams = { step = nan }',
            17,
            "step: expected a finite number, got nan",
        ),
        (
            'use = "wander"',
            'use = "wander"\nparams = { step = 1979-05-27 }',
            17,
            "expected step: float = 0.02",
        ),
        ('use = "wander"', 'use = "wander"\nparams = [1]', 17, "expected a table"),
        ('use = "wander"', 'use = "mischief"', 15, "deed: missing; expected deed: 'raise' | 'nan'"),
        (
            'use = "wander"',
            'use = "wander"\nsweep = { step = [] }',
            17,
            "an empty list makes no attack",
        ),
        ('use = "wander"', 'use = "wander"\nsweep = { step = 1 }', 17, "expected a list"),
        (
            'use = "wander"',
            'use = "wander"\nsweep = { step = [0.1, "x"] }',
            17,
            "expected step: float = 0.02, got 'x'",
        ),
        (
            'use = "wander"',
            'use = "wander"\nlabell = "x"',
            17,
            "unknown key 'labell'; did you mean 'label'?",
        ),
        ("schema = 1", "schema = 2", 2, "is 2, this gatebench reads 1"),
        (
            "schema = 1",
            "schema = 1\nprotocoll = 1",
            3,
            "unknown key 'protocoll'; did you mean 'protocol'?",
        ),
        ('use = "wander"', 'use = "wander"\n[run]\ndevice = "gpu"', 18, "unknown device 'gpu'"),
        ('use = "wander"', 'use = "wander"\n[run]\nexecutor = "loca"', 18, "did you mean 'local'?"),
        (
            'use = "wander"',
            'use = "wander"\n[run]\ndeadline = "soon"',
            18,
            'a duration such as "10m"',
        ),
        ('use = "wander"', 'use = "wander"\n[run]\ndeadline = 0', 18, 'a duration such as "10m"'),
        ('use = "wander"', 'use = "wander"\n[run]\nshard = -1', 18, "at least 1"),
        ('use = "wander"', 'use = "wander"\n[run]\nworkers = 0', 18, "at least 1"),
        ('use = "wander"', 'use = "wander"\n[run]\nworkers = "many"', 18, "expected"),
        (
            'use = "wander"',
            'use = "wander"\n[[attack]]\nuse = "wander"',
            17,
            "two of them are labelled 'wander'",
        ),
        (
            'use = "wander"',
            'use = "wander"\n[[attack]]\nuse = "wander"\nlabel = "b"',
            17,
            "'b' is the same as 'wander'",
        ),
        (
            'use = "wander"',
            'use = "wander"\n[[exclude]]\nattack = "wonder"\nreason = "r"',
            18,
            "no attack is labelled 'wonder'; did",
        ),
        ('use = "wander"', 'use = "wander"\n[[exclude]]\nattack = "wander"', 17, "missing"),
    ],
)
def test_a_mistake_has_its_place_and_the_nearest_name(write, old, new, line, said):
    path = write(changed(old, new))
    found = mistakes(path)
    assert len(found) == 1, found
    assert said in found[0]
    assert found[0].startswith(f"{path} (line {line}): "), found[0]
    assert re.search(r"\.(int|str|list\[int\]|literal\[.*\]):", found[0]) is None, (
        "no words of the checker's own"
    )


def test_all_mistakes_at_once(write):
    text = (
        GOOD.replace("images = 10", "imagse = 10")
        .replace('"8/255"', '"8/0"')
        .replace("budget = 9", 'budget = "x"')
        .replace('"toy"', '"toi"')
    )
    text += 'params = { stp = 1, start = "a" }\nlabel = 3\n[[attack]]\nuse = "wonder"\n[[attack]]\nuse = "still"\nparams = { x = 1 }\n'
    text += '[run]\ndevice = "gpu"\nspeed = 9\n[[exclude]]\nattack = "nobody"\n'
    found = "\n".join(mistakes(write(text)))
    for said in (
        "'imagse'",
        "divides by zero",
        "budget: expected",
        "'toi'",
        "'stp'",
        "start: expected",
        "label: expected a string",
        "'wonder'",
        "unknown parameter 'x'",
        "'gpu'",
        "'speed'",
        "exclude[0].reason: missing",
    ):
        assert said in found, (said, found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "protocol: missing"),
        ("schema = 1\n[[target]\n", "is no valid TOML"),
        ("[protocol]\n[protocol]\n", "is no valid TOML"),
        (GOOD.replace("[[target]]\nuse", "[[target]]\nuse = 1\nuse"), "is no valid TOML"),
        (GOOD[: GOOD.index("[[attack]]")], "a plan needs at least one [[attack]]"),
        (
            GOOD[: GOOD.index("[[target]]")] + '[[attack]]\nuse = "still"\n',
            "a plan needs at least one [[target]]",
        ),
        ("extends = 3\n", "expected the name of a suite or a file"),
        ('extends = "quickstar"\n', "did you mean 'quickstart'?"),
        ('extends = "nowhere.toml"\n', "there is no file"),
        ("protocol = 3\n", "expected a table"),
        (GOOD + "[target]\n", "is no valid TOML"),
    ],
)
def test_broken_documents(write, text, said):
    assert said in "\n".join(mistakes(write(text)))


def test_missing_files_and_suites(tmp_path):
    assert "there is no file" in mistakes(str(tmp_path / "x.toml"))[0]
    assert "did you mean 'quickstart'?" in mistakes("quikstart")[0]
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    assert "cannot be read" in mistakes(str(tmp_path / "latin.toml"))[0]
    (tmp_path / "folder.toml").mkdir()
    assert "cannot be read" in mistakes(str(tmp_path / "folder.toml"))[0]


def test_extending(write, tmp_path):
    write(GOOD, "base.toml")
    path = write(
        'extends = "base.toml"\n[protocol]\nimages = 5\n[[attack]]\nuse = "still"\n', "top.toml"
    )
    plan = load_plan(path)
    assert [cell.attack.label for cell in plan.cells] == ["still"], (
        "a list replaces the one it extends"
    )
    assert (plan.cells[0].protocol.images, plan.cells[0].protocol.batch) == (5, 4), (
        "tables are merged key by key"
    )
    (tmp_path / "sub").mkdir()
    write('extends = "../top.toml"\n', "sub/deep.toml")
    assert load_plan(str(tmp_path / "sub" / "deep.toml")).digest == plan.digest


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"a.toml": "a.toml"}, id="itself"),
        pytest.param({"a.toml": "b.toml", "b.toml": "a.toml"}, id="two"),
        pytest.param(
            {"a.toml": "sub/b.toml", "sub/b.toml": "../c.toml", "c.toml": "a.toml"}, id="three"
        ),
        pytest.param({"a.toml": "./a.toml"}, id="itself-by-a-dot"),
    ],
)
def test_extending_in_a_circle(write, tmp_path, files):
    (tmp_path / "sub").mkdir()
    for name, base in files.items():
        write(f'extends = "{base}"\n', name)
    assert "goes round in a circle" in mistakes(str(tmp_path / "a.toml"))[0]


def test_overrides(write):
    path = write(GOOD)
    plan = load_plan(
        path,
        overrides=["protocol.images=5", 'protocol.threat={norm="l2",eps="1/2"}', "run.device=cpu"],
    )
    assert (
        plan.cells[0].protocol.images,
        str(plan.cells[0].protocol.threat),
        plan.options.device,
    ) == (5, "l2<=1/2", "cpu")
    for bad, said in [
        ("protocol.images", "expected key=value"),
        ("=3", "expected key=value"),
        ("protocol..images=3", "expected key=value"),
        ("protocol.imagse=3", "did you mean 'images'?"),
        ("target.use=x", "only tables"),
        ("protocol.images.x=3", "only tables"),
        ("protocol=3", "expected a table"),
        ("protocol.images=lots", "expected a whole number, got 'lots'"),
        ("protocol.images=5\nbatch=3", "expected a whole number, got '5\\nbatch=3'"),
        ('extends="quickstart"', "written in the plan itself"),
        (
            'protocol.threat=[{norm="psnr",floor=35},{norm="psnr",floor=35.0000001}]',
            "psnr>=35 is there twice",
        ),
    ]:
        assert said in mistakes(path, overrides=[bad])[0], bad


def test_only(write):
    path = write(GOOD + '[[attack]]\nuse = "still"\n')
    assert [cell.attack.label for cell in load_plan(path, only=["still"]).cells] == ["still"]
    assert [cell.attack.label for cell in load_plan(path, only=["still", "wander"]).cells] == [
        "wander",
        "still",
    ]
    assert "no cell has that in its label" in mistakes(path, only=["stil1"])[0]


def test_lists_make_boards(write):
    text = changed(
        'threat = { norm = "linf", eps = "8/255" }',
        'threat = ["none", { norm = "psnr", floor = 30 }]',
    )
    plan = load_plan(write(text.replace("budget = 9", "budget = [5, 9]\nseeds = [0, 7]")))
    boards = [
        (str(b[0].protocol.threat), b[0].protocol.budget, b[0].protocol.seed) for b in plan.boards
    ]
    assert boards == [(t, b, s) for t in ("none", "psnr>=30") for b in (5, 9) for s in (0, 7)]
    assert len({cell.key("x", "c") for cell in plan.cells}) == 8


def test_sweeps_presets_and_their_labels(write):
    text = GOOD.replace(
        'use = "wander"',
        'use = "wander:bold"\nparams = { start = 0.5 }\nsweep = { step = [0.1, 1] }\nlabel = "w"',
    )
    plan = load_plan(write(text + '[[attack]]\nuse = "wander:bold"\n'))
    assert [
        (c.attack.label, c.attack.params["step"], c.attack.params["start"], c.attack.preset)
        for c in plan.cells
    ] == [
        ("w step=0.1", 0.1, 0.5, "bold"),
        ("w step=1", 1.0, 0.5, "bold"),
        ("wander:bold", 0.05, 0.01, "bold"),
    ]
    assert "is set in params too" in mistakes(write(text.replace("start = 0.5", "step = 0.5")))[0]


def test_exclusions(write):
    plan = load_plan(
        write(GOOD + '[[attack]]\nuse = "still"\n[[exclude]]\nattack = "still"\nreason = "dull"\n')
    )
    assert [cell.excluded for cell in plan.cells] == ["", "dull"]


def test_an_attack_made_for_some_defenses_runs_behind_those_alone(write):
    defended = GOOD + '[[defense]]\nuse = "jpeg"\n[[defense]]\nuse = "median"\nlabel = "m"\n'
    plan = load_plan(write(defended + '[[attack]]\nuse = "still"\nbehind = ["m"]\n'))
    assert [
        (cell.defense.label if cell.defense else "", cell.attack.name) for cell in plan.cells
    ] == [
        ("", "wander"),
        ("jpeg", "wander"),
        ("m", "wander"),
        ("m", "still"),
    ]
    (problem,) = mistakes(write(defended + '[[attack]]\nuse = "still"\nbehind = ["jpg"]\n'))
    assert "attack[1].behind: no defense is labelled 'jpg'" in problem
    assert "jpeg" in problem
    assert (
        "leaves the attack no cell"
        in mistakes(write(defended + '[[attack]]\nuse = "still"\nbehind = []\n'))[0]
    )


def key(text, write):
    (cell,) = load_plan(write(text)).cells
    return cell.key("subset", "cost")


def test_the_key_ignores_what_changes_no_number(write):
    kept = key(GOOD, write)
    reordered = """
# a comment
[[attack]]
label = "anything else"
use = "mischief/wander"   # the same by its full name
params = { start = 0.01 }
[[target]]
weights = "random:0"
label = "my net"
use = "toy"
[run]
device = "cpu"
shard = 7
workers = 3
deadline = "9s"
[protocol]
seeds = [0]
budget = [9]
threat = { eps = "16/510", norm = "linf" }
batch = 4
dataset = "toy-pixels:test"
images = 10
"""
    assert key(reordered, write) == kept
    assert (
        key(changed('use = "wander"', 'use = "wander"\nparams = { step = 0.020 }'), write) == kept
    )
    assert (
        load_plan(write(changed("schema = 1", "schema = 1\n# nothing"))).digest
        == load_plan(write(GOOD)).digest
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("images = 10", "images = 11"),
        ("batch = 4", "batch = 5"),
        ("8/255", "9/255"),
        ("budget = 9", "budget = 10"),
        ("budget = 9", "budget = 9\nseeds = [1]"),
        ("budget = 9", "budget = 9\naudit = 2"),
        ("random:0", "random:1"),
        ('use = "toy"', 'use = "toy"\nparams = { seed = 1 }'),
        ('use = "wander"', 'use = "wander:bold"'),
        ('use = "wander"', 'use = "still"'),
        ('use = "wander"', 'use = "rival/contested"'),
    ],
)
def test_the_key_knows_what_changes_numbers(write, old, new):
    assert key(changed(old, new), write) != key(GOOD, write)


def test_a_preset_is_its_parameters(write):
    spelled = changed('use = "wander"', 'use = "wander"\nparams = { step = 0.05 }')
    assert key(changed('use = "wander"', 'use = "wander:bold"'), write) == key(spelled, write)


def test_the_key_holds_subset_and_cost_model(write):
    (cell,) = load_plan(write(GOOD)).cells
    assert len({cell.key(subset, cost) for subset in "ab" for cost in "xy"}) == 4
    assert re.fullmatch(r"[0-9a-f]{64}", cell.key("a", "x"))


SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=6),
    st.dates(),
    st.sampled_from(
        [
            "toy",
            "wander",
            "wander:bold",
            "random:0",
            "toy-pixels:test",
            "none",
            "linf",
            "8/255",
            "psnr",
            "auto",
            "10m",
            "still",
        ]
    ),
)
KEYS = st.sampled_from(
    "schema extends protocol run target defense attack exclude dataset images batch threat budget seeds audit device shard deadline "
    "workers threads executor use params weights label sweep behind reason norm eps floor patch step start deed x".split()
) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    document=st.dictionaries(KEYS, VALUES, max_size=6),
    graft=st.booleans(),
    place=st.tuples(KEYS, KEYS),
    value=VALUES,
)
def test_any_document_is_a_plan_or_a_plan_error(document, graft, place, value, monkeypatch):
    """Random documents, and random values put into a good one."""
    if graft:
        document = tomllib.loads(GOOD)
        inner = document.get(place[0])
        if isinstance(inner, list):
            inner = inner[0]
        if isinstance(inner, dict):
            inner[place[1]] = value
        else:
            document[place[0]] = value
    document.pop("extends", None)
    monkeypatch.setattr("bench.plans.toml._parse", lambda text, place: document)
    monkeypatch.setattr("bench.plans.toml.read_text", lambda source: ("", source))
    try:
        plan = load_plan("random.toml")
    except PlanError:
        return
    assert plan.cells
    assert all(re.fullmatch("[0-9a-f]{64}", cell.key("s", "c")) for cell in plan.cells)
    assert str(plan.boards[0][0].protocol.threat)


@settings(max_examples=100)
@given(st.text(alphabet='[]{}="#.\n abxy01:-_\\', max_size=60))
def test_any_text_is_a_plan_or_a_plan_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "random.toml"
    path.write_text(text)
    with pytest.raises(PlanError):
        load_plan(str(path))


def test_every_declared_parameter_read_from_source_is_what_python_sees():
    """Parameters are read with ast so that plans need not import torch; they must be what the class really takes."""
    from bench.plugins.declarations import _inspect, read_class

    seen = 0
    for kind in ("target", "attack", "defense", "recipe"):
        for provider in registry.providers(kind):
            try:
                loaded = provider.load()
            except GatebenchError:
                continue
            module, _, name = provider.value.partition(":")
            read = read_class(
                module,
                name,
                fallback=lambda value=provider.value: pytest.fail(
                    f"{value} cannot be read without importing it"
                ),
            )
            runtime = _inspect(loaded)
            assert {n: (p.annotation, p.default) for n, p in read.parameters.items()} == {
                n: (p.annotation, p.default) for n, p in runtime.parameters.items()
            }, provider.value
            assert list(read.parameters) == list(runtime.parameters)
            for constant, value in read.constants.items():
                assert getattr(loaded, constant) == value, (provider.value, constant)
            assert read.doc == runtime.doc
            for preset, params in read.presets.items():
                assert set(params) <= set(read.parameters), (provider.value, preset)
            seen += 1
    assert seen >= 15


def test_every_preset_of_every_plugin_resolves(write):
    for provider in registry.providers("attack"):
        if provider.conflict or provider.name in ("absent", "broken"):
            continue
        for preset in provider.facts().presets:
            (cell,) = load_plan(
                write(changed('use = "wander"', f'use = "{provider.name}:{preset}"'))
            ).cells
            assert cell.attack.preset == preset


def test_the_suites_and_the_default_plan_are_good():
    from pathlib import Path

    from bench.plans import suites

    for name, path in suites.found().items():
        assert suites.summary(path), name
        if name.endswith(
            "-imagenet"
        ):  # needs weights that a user has to import: that, and nothing else, is missing
            (problem,) = mistakes(name)
            assert "unknown weights 'skipnet-101-hrl@imagenet'" in problem
        else:
            assert load_plan(name).cells, name
    home = Path(suites.__file__).resolve().parents[2]
    assert load_plan(str(home / "bench.toml")).digest == load_plan("quickstart").digest


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ("steps = 0", "steps: at least 1, got 0"),
        ("K = -1.0", "K: at least 0, got -1.0"),
        ("rd_start = 1.5", "rd_start: between 0 and 1, got 1.5"),
    ],
)
def test_values_out_of_range_are_mistakes_of_the_plan(tmp_path, params, said):
    path = tmp_path / "range.toml"
    path.write_text(
        f'extends = "quickstart"\n[[attack]]\nuse = "gradauto"\nparams = {{ {params} }}\n',
        encoding="utf-8",
    )
    with pytest.raises(PlanError, match=said):
        load_plan(path)


def test_an_exclusion_that_names_nothing_is_a_mistake(tmp_path):
    path = tmp_path / "exclude.toml"
    path.write_text('extends = "quickstart"\n[[exclude]]\nreason = "why"\n', encoding="utf-8")
    with pytest.raises(PlanError, match="exclude everything"):
        load_plan(path)


def test_an_exact_label_is_not_part_of_another(tmp_path):
    plan = load_plan("digits-m", only=["skipnet-20-budget / autoenergy"])
    assert len(plan.cells) == 5, (
        "the ensemble and its four members, so that the command on its page repeats it"
    )
    plan = load_plan("digits-m", only=["skipnet-20-budget / ilfo"])
    assert [cell.label for cell in plan.cells] == ["skipnet-20-budget / ilfo"]


def test_eps_in_grey_levels_is_told(tmp_path):
    with pytest.raises(PlanError, match='did you mean "8/255"'):
        load_plan("quickstart", overrides=['protocol.threat={norm="linf",eps="8"}'])
