"""The counter against hand counts; every operator counted, hooked, free or named."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.api import Output, Target, Units
from bench.errors import ContractBroken
from bench.evaluation import cost
from bench.testing import ToyTarget, sample_images

STEM = 8 * 8 * (3 * 3 * 3 * 4 + 4)
BLOCK = 8 * 8 * (4 * 3 * 3 * 4 + 4)
GATE = 4 * 1 + 1
HEAD = 4 * 4 + 4


@pytest.fixture
def target():
    return ToyTarget().eval()


@pytest.fixture
def image(target):
    return sample_images(target.image_shape)[:1]


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(pattern, id="".join("-x"[ran] for ran in pattern))
        for pattern in itertools.product([False, True], repeat=3)
    ],
)
def test_every_decision_pattern_counts_what_the_hand_counts(target, image, pattern):
    expected = STEM + 3 * GATE + HEAD + sum(pattern) * BLOCK
    found = cost.audit(target, image, torch.tensor([pattern]))
    assert found.macs == expected
    assert type(found.macs) is int
    assert int(target.macs(torch.tensor([pattern]))) == expected
    assert found.output.decisions.tolist() == [list(pattern)]
    biases = 8 * 8 * 4 + 3 + 4 + sum(pattern) * 8 * 8 * 4
    assert found.second == expected - biases, "torch's own counter leaves biases out"


def test_floor_and_ceiling_by_hand(target, image):
    assert (STEM, BLOCK, GATE, HEAD) == (7168, 9472, 5, 20)
    assert cost.audit_extremes(target, image) == (7203, 35619) == (target.floor, target.ceiling)


def test_real_images_cost_what_their_decisions_cost(target):
    images = sample_images(target.image_shape, 24)
    counts = {cost.audit(target, images[i : i + 1]).macs for i in range(len(images))}
    assert len(counts) > 1, "the toy is dynamic: its cost varies from image to image"
    assert counts <= {7203 + k * 9472 for k in range(4)}


class Extra(Target):
    """One operator more than nothing."""

    def __init__(self, run, macs):
        super().__init__()
        self.run, self.price = run, macs
        self.image_shape, self.classes = (3, 2, 2), 2
        self.units = Units.gated([], [], [])

    def forward(self, images, decisions=None):
        self.run()
        none = torch.zeros(len(images), 0)
        return Output(images.flatten(1)[:, :2], none, none, none.bool())

    execute = forward

    def macs(self, decisions):
        return torch.full((len(decisions),), self.price)


def tensor(*shape):
    return torch.ones(shape)


@pytest.mark.parametrize(
    ("run", "macs"),
    [
        pytest.param(lambda: torch.mv(tensor(5, 7), tensor(7)), 35, id="mv"),
        pytest.param(lambda: torch.addmv(tensor(5), tensor(5, 7), tensor(7)), 35 + 5, id="addmv"),
        pytest.param(lambda: torch.dot(tensor(9), tensor(9)), 9, id="dot"),
        pytest.param(lambda: torch.vdot(tensor(9), tensor(9)), 9, id="vdot"),
        pytest.param(lambda: torch.mm(tensor(2, 3), tensor(3, 4)), 24, id="mm"),
        pytest.param(
            lambda: torch.addmm(tensor(4), tensor(2, 3), tensor(3, 4)), 24 + 8, id="addmm"
        ),
        pytest.param(lambda: torch.bmm(tensor(5, 2, 3), tensor(5, 3, 4)), 120, id="bmm"),
        pytest.param(
            lambda: torch.baddbmm(tensor(5, 2, 4), tensor(5, 2, 3), tensor(5, 3, 4)),
            120 + 40,
            id="baddbmm",
        ),
        pytest.param(
            lambda: torch.addbmm(tensor(2, 4), tensor(5, 2, 3), tensor(5, 3, 4)),
            120 + 8,
            id="addbmm",
        ),
        pytest.param(
            lambda: torch.einsum("nij,njk->nik", tensor(5, 2, 3), tensor(5, 3, 4)), 120, id="einsum"
        ),
        pytest.param(lambda: tensor(5, 7) @ tensor(7), 35, id="matrix-vector"),
        pytest.param(lambda: tensor(9) @ tensor(9), 9, id="vector-vector"),
        pytest.param(
            lambda: torch.matmul(tensor(6, 5, 2, 3), tensor(3, 4)), 6 * 5 * 24, id="matmul-batched"
        ),
        pytest.param(lambda: F.linear(tensor(2, 3), tensor(4, 3)), 24, id="linear"),
        pytest.param(
            lambda: F.linear(tensor(2, 5, 3), tensor(4, 3), tensor(4)),
            2 * 5 * (12 + 4),
            id="linear-bias",
        ),
        pytest.param(
            lambda: F.conv2d(tensor(1, 3, 8, 8), tensor(6, 3, 3, 3)), 6 * 6 * 6 * 27, id="conv2d"
        ),
        pytest.param(
            lambda: F.conv2d(
                tensor(1, 3, 8, 8), tensor(6, 3, 3, 3), tensor(6), stride=2, padding=1
            ),
            4 * 4 * 6 * (27 + 1),
            id="conv2d-bias-stride",
        ),
        pytest.param(
            lambda: F.conv2d(tensor(1, 6, 8, 8), tensor(6, 1, 3, 3), groups=6, padding=1),
            8 * 8 * 6 * 9,
            id="conv2d-groups",
        ),
        pytest.param(
            lambda: F.conv2d(tensor(1, 6, 8, 8)[:, :2], tensor(6, 6, 1, 1)[:3, :2]),
            8 * 8 * 3 * 2,
            id="conv2d-slices",
        ),
        pytest.param(
            lambda: F.conv2d(
                tensor(1, 3, 8, 8).to(memory_format=torch.channels_last), tensor(6, 3, 1, 1)
            ),
            8 * 8 * 6 * 3,
            id="conv2d-channels-last",
        ),
        pytest.param(
            lambda: torch.ops.aten._convolution(
                *(tensor(1, 3, 8, 8), tensor(6, 3, 3, 3), tensor(6)),
                *([1, 1], [0, 0], [1, 1], False, [0, 0], 1, False, False, True, True),
            ),
            6 * 6 * 6 * 28,
            id="conv2d-traced",
        ),
        pytest.param(lambda: F.conv1d(tensor(1, 3, 8), tensor(6, 3, 3)), 6 * 6 * 9, id="conv1d"),
        pytest.param(
            lambda: nn.LSTMCell(3, 4)(tensor(1, 3)), 16 * (3 + 1) + 16 * (4 + 1), id="lstm-cell"
        ),
        pytest.param(
            lambda: nn.GRUCell(3, 4)(tensor(1, 3)), 12 * (3 + 1) + 12 * (4 + 1), id="gru-cell"
        ),
        pytest.param(
            lambda: F.scaled_dot_product_attention(
                tensor(1, 2, 5, 4), tensor(1, 2, 7, 4), tensor(1, 2, 7, 4)
            ),
            2 * 2 * 5 * 7 * 4,
            id="attention",
        ),
        pytest.param(
            lambda: F.scaled_dot_product_attention(
                tensor(1, 2, 5, 4), tensor(1, 2, 7, 4), tensor(1, 2, 7, 4), attn_mask=tensor(5, 7)
            ),
            2 * 2 * 5 * 7 * 4,
            id="attention-mask",
        ),
    ],
)
def test_operators_against_hand_counts(run, macs):
    target = Extra(run, macs).eval()
    found = cost.audit(target, torch.zeros(1, 3, 2, 2))
    assert found.macs == macs
    assert found.second <= macs


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(nn.ReLU(), id="relu"),
        pytest.param(nn.GELU(), id="gelu"),
        pytest.param(nn.SiLU(), id="silu"),
        pytest.param(nn.Hardswish(), id="hardswish"),
        pytest.param(nn.PReLU(), id="prelu"),
        pytest.param(nn.Softmax(1), id="softmax"),
        pytest.param(nn.BatchNorm2d(4), id="batchnorm2d"),
        pytest.param(nn.GroupNorm(2, 4), id="groupnorm"),
        pytest.param(nn.LayerNorm(4), id="layernorm"),
        pytest.param(nn.MaxPool2d(2), id="maxpool2d"),
        pytest.param(nn.AvgPool2d(2), id="avgpool2d"),
        pytest.param(nn.AdaptiveAvgPool2d(2), id="adaptiveavgpool2d"),
        pytest.param(nn.Upsample(scale_factor=2), id="upsample"),
        pytest.param(nn.Dropout(), id="dropout"),
        pytest.param(nn.Flatten(), id="flatten"),
        pytest.param(nn.PixelShuffle(2), id="pixelshuffle"),
        pytest.param(nn.ReflectionPad2d(1), id="reflectionpad2d"),
    ],
)
def test_what_multiplies_nothing_worth_counting_is_free(module):
    target = Extra(lambda: module(tensor(1, 4, 4, 4)), 0).eval()
    module.eval()
    assert cost.audit(target, torch.zeros(1, 3, 2, 2)).macs == 0


@pytest.mark.parametrize(
    ("run", "operator"),
    [
        pytest.param(
            lambda: F.bilinear(tensor(1, 3), tensor(1, 4), tensor(2, 3, 4)),
            "aten._trilinear",
            id="bilinear",
        ),
        pytest.param(lambda: torch.linalg.inv(torch.eye(3)), "aten.linalg_inv", id="inverse"),
        pytest.param(lambda: torch.fft.fft(tensor(8)), "aten._fft", id="fft"),
        pytest.param(lambda: torch.cdist(tensor(3, 2), tensor(4, 2)), "cdist", id="cdist"),
    ],
)
def test_operators_that_nobody_counts_are_named(run, operator):
    with pytest.raises(ContractBroken, match="ptflops does not count") as caught:
        cost.audit(Extra(run, 0).eval(), torch.zeros(1, 3, 2, 2))
    assert operator in caught.value.message


def test_inference_mode_hides_nothing(target, image):
    """Under inference mode ptflops counts nothing; what ran there is named, even where a price of
    nothing is declared."""

    class Hidden(ToyTarget):
        def execute(self, image, decisions=None):
            with torch.inference_mode():
                return super().execute(image, decisions)

        def macs(self, decisions):
            return torch.zeros(len(decisions), dtype=torch.int64)

    with pytest.raises(ContractBroken, match="inference_mode"):
        cost.audit_extremes(Hidden().eval(), image)


def test_a_second_run_counts_the_same_and_leaves_nothing_behind(target, image):
    hooks = sum(len(module._forward_hooks) for module in target.modules())
    on = torch.ones(1, 3, dtype=torch.bool)
    assert [cost.count(target, image, on).macs for _ in range(3)] == [35619] * 3
    assert sum(len(module._forward_hooks) for module in target.modules()) == hooks
    with pytest.raises(RuntimeError):
        cost.count(target, image[:, :2], on)
    assert cost.count(target, image, on).macs == 35619, "an exception inside leaves no mode behind"


def test_off_by_one_is_a_lie(target, image):
    class Off(ToyTarget):
        def macs(self, decisions):
            return super().macs(decisions) + (decisions.sum(1) == 3)

    with pytest.raises(
        ContractBroken, match=r"macs.decisions. says 35620, but ptflops counts 35619"
    ):
        cost.audit_extremes(Off().eval(), image)


def test_masking_instead_of_skipping_is_a_lie(image):
    class Masked(ToyTarget):
        def execute(self, image, decisions=None):
            return self.forward(image, decisions)

    with pytest.raises(ContractBroken, match="ptflops counts 35619"):
        cost.audit_extremes(Masked().eval(), image)


def test_forced_decisions_must_be_followed(image):
    class Deaf(ToyTarget):
        def execute(self, image, decisions=None):
            return super().execute(image)

    with pytest.raises(ContractBroken, match="told which units to run and ran others"):
        cost.audit_extremes(Deaf().eval(), image)


def test_declared_bounds_are_held_against_the_count(image):
    class Low(ToyTarget):
        floor = 7202

    class High(ToyTarget):
        ceiling = 35620

    with pytest.raises(
        ContractBroken, match="the floor is declared as 7202 MACs, but ptflops counts 7203"
    ):
        cost.audit_extremes(Low().eval(), image)
    with pytest.raises(
        ContractBroken, match="the ceiling is declared as 35620 MACs, but ptflops counts 35619"
    ):
        cost.audit_extremes(High().eval(), image)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_counts_are_the_same_on_cuda(target, image):
    assert cost.audit_extremes(target.cuda(), image.cuda()) == (7203, 35619)
    attention = [
        torch.ones(1, 2, 64, 32, device="cuda", dtype=kind)
        for kind in (torch.float32, torch.float16)
    ]
    for q in attention:
        run = Extra(lambda q=q: F.scaled_dot_product_attention(q, q, q), 2 * 2 * 64 * 64 * 32)
        assert cost.audit(run, torch.zeros(1, 3, 2, 2)).macs == 2 * 2 * 64 * 64 * 32
    cell = nn.LSTMCell(3, 4).cuda()
    assert (
        cost.audit(
            Extra(lambda: cell(torch.ones(1, 3, device="cuda")), 16 * 4 + 16 * 5),
            torch.zeros(1, 3, 2, 2),
        ).macs
        == 144
    )
