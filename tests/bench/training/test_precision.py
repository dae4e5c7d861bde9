import pytest
import torch

from bench.training.precision import _ROUNDS, choose_precision, step_seconds

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("half", "single", "expected"),
    [
        pytest.param(15.0, 1.0, "fp32", id="emulated"),
        pytest.param(0.5, 1.0, "bf16", id="native"),
        pytest.param(1.0, 1.0, "fp32", id="equal"),
    ],
)
def test_auto_takes_what_is_faster(half, single, expected):
    seconds = {"bf16": half, "fp32": single}
    measure = lambda precision, device: seconds[precision]  # noqa: E731
    assert choose_precision("auto", CPU, measure=measure) == expected


def test_what_is_asked_for_is_taken_without_measuring():
    def never(precision, device):
        raise AssertionError("measured")

    for choice in ("bf16", "fp32"):
        assert choose_precision(choice, CPU, measure=never) == choice
    assert choose_precision("auto", torch.device("mps"), measure=never) == "fp32"


@pytest.mark.parametrize("native", [True, False])
def test_cuda_is_asked(native, monkeypatch):
    asked = []

    def supported(including_emulation=True):
        asked.append(including_emulation)
        return native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    expected = "bf16" if native else "fp32"
    assert choose_precision("auto", torch.device("cuda")) == expected
    assert asked == [False]


def test_measuring_leaves_threads_and_random_numbers_alone():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    assert step_seconds.__wrapped__("bf16", CPU) > 0
    assert step_seconds.__wrapped__("fp32", CPU) > 0
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_a_program_measures_once(monkeypatch):
    timed = []

    def once(network, images, precision):
        timed.append(precision)
        return 1.0

    monkeypatch.setattr("bench.training.precision._timed", once)
    step_seconds.cache_clear()
    assert choose_precision("auto", CPU) == choose_precision("auto", CPU) == "fp32"
    step_seconds.cache_clear()
    assert set(timed) == {"bf16", "fp32"}
    assert len(timed) == 2 * _ROUNDS
