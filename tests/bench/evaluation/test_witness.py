"""Work that a counter alone overlooks: refused where it can be seen."""

import sys
import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.codec import telling, through_jpeg
from bench.errors import ContractBroken
from bench.evaluation import cost, outside
from bench.evaluation.outputs import freeze
from bench.evaluation.target_checks import examine
from bench.image import to_float, to_grid
from bench.testing import ToyTarget, sample_images


class Sneaky(ToyTarget):
    """Does the work of its last block in a way of its own, and declares nothing for it."""

    def execute(self, image, decisions=None):
        x = torch.relu(self.stem(image - 0.5))
        logits, taken = [], []
        for i, (block, gate) in enumerate(zip(self.blocks, self.gates, strict=True)):
            logit = gate(x.mean((2, 3)) - 0.1)[:, 0]
            on = logit > 0 if decisions is None else decisions[:, i]
            if bool(on):
                x = x + torch.relu(block(x) if i < 2 else self.sneak(block, x))
            logits.append(logit)
            taken.append(on)
        return self._output(self.head(x.mean((2, 3))), logits, taken)

    def macs(self, decisions):
        return 7203 + 9472 * decisions[:, :2].to(torch.int64).sum(1)

    def sneak(self, block, x):
        raise NotImplementedError


class Broadcast(Sneaky):
    def sneak(self, block, x):
        windows = F.unfold(x, 3, padding=1).view(1, 1, 36, 64)
        product = block.weight.view(1, 4, 36, 1) * windows
        return product.sum(2).view(1, 4, 8, 8) + block.bias.view(1, 4, 1, 1)


class Matrix(Sneaky):
    """A linear map with the input expanded first, so that no shape is broadcast by the product."""

    def sneak(self, block, x):
        windows = F.unfold(x, 3, padding=1).view(1, 1, 36, 64).expand(1, 4, 36, 64)
        scaled = torch.relu((windows * block.weight.view(1, 4, 36, 1)).contiguous() + 0.0)
        signed = scaled - torch.relu(-(windows * block.weight.view(1, 4, 36, 1)))
        return signed.mean(2).view(1, 4, 8, 8) * 36 + block.bias.view(1, 4, 1, 1)


class Distances(Sneaky):
    """2 a b = a^2 + b^2 - (a - b)^2, the last one summed as a distance."""

    def sneak(self, block, x):
        windows = F.unfold(x, 3, padding=1).view(1, 1, 36, 64)
        weights = block.weight.view(1, 4, 36, 1)
        apart = self.squared(windows - weights)
        own = windows.square().sum(2) + weights.square().sum(2)
        return ((own - apart) / 2).view(1, 4, 8, 8) + block.bias.view(1, 4, 1, 1)

    def squared(self, gaps):
        return gaps.square().sum(2)


class Multiplied(Distances):
    def squared(self, gaps):
        return (gaps * gaps).sum(2)


class Normed(Distances):
    def squared(self, gaps):
        return torch.linalg.vector_norm(gaps, dim=2) ** 2


class Varied(Distances):
    def squared(self, gaps):
        return 36 * (gaps.var(2, correction=0) + gaps.mean(2) ** 2)


class Scattered(Sneaky):
    """Adds up by writing to one place many times."""

    def sneak(self, block, x):
        windows = F.unfold(x, 3, padding=1).view(1, 1, 36, 64)
        product = block.weight.view(1, 4, 36, 1) * windows
        place = torch.arange(4)[:, None, None].expand(4, 36, 64)
        column = torch.arange(64).expand(4, 36, 64)
        total = torch.zeros(4, 64).index_put((place, column), product[0], accumulate=True)
        return total.view(1, 4, 8, 8) + block.bias.view(1, 4, 1, 1)


class Logarithms(Sneaky):
    """a b = exp(log a + log b), by sign."""

    def sneak(self, block, x):
        windows = F.unfold(x, 3, padding=1).view(1, 1, 36, 64)
        weights, total = block.weight.view(1, 4, 36, 1), 0.0
        for sign in (1, -1):
            logs = windows.clamp(min=1e-30).log() + (sign * weights).clamp(min=1e-30).log()
            total = total + sign * torch.logsumexp(logs, 2).exp()
        return total.view(1, 4, 8, 8) + block.bias.view(1, 4, 1, 1)


class Normalized(Sneaky):
    """The mean that a layer's normalization returns beside its values is a sum."""

    def sneak(self, block, x):
        windows = F.unfold(x, 3, padding=1).view(1, 1, 36, 64)
        product = (block.weight.view(1, 4, 36, 1) * windows).transpose(2, 3).contiguous()
        _, means, _ = torch.native_layer_norm(product, [36], None, None, 1e-5)
        return 36 * means.view(1, 4, 8, 8) + block.bias.view(1, 4, 1, 1)


class NumPy(Sneaky):
    def sneak(self, block, x):
        windows = F.unfold(x, 3, padding=1)[0].numpy()
        found = block.weight.detach().numpy().reshape(4, 36) @ windows
        found = found + block.bias.detach().numpy()[:, None]
        return torch.from_numpy(np.ascontiguousarray(found)).view(1, 4, 8, 8)


class Threaded(Sneaky):
    def sneak(self, block, x):
        found = []

        def work():
            with torch.no_grad():
                found.append(block(x))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return found[0]


class Repeated(Sneaky):
    """The image is copied first, so that no operand of the product is broadcast."""

    def sneak(self, block, x):
        windows = self.copied(F.unfold(x, 3, padding=1).view(36, 64))
        product = windows * block.weight.view(4, 36, 1)
        return product.sum(1).view(1, 4, 8, 8) + block.bias.view(1, 4, 1, 1)

    def copied(self, windows):
        return windows.repeat(4, 1, 1)


class Stacked(Repeated):
    def copied(self, windows):
        return torch.stack([windows] * 4)


class Picked(Repeated):
    def copied(self, windows):
        return windows[torch.arange(36).repeat(4)].view(4, 36, 64)


class OneByOne(Sneaky):
    """One output channel after the other: each weight meets 64 places of 9 shifted copies."""

    def sneak(self, block, x):
        windows = F.unfold(x, 3, padding=1).view(36, 64)
        sums = [(windows * weight.view(36, 1)).sum(0) for weight in block.weight]
        return torch.stack(sums).view(1, 4, 8, 8) + block.bias.view(1, 4, 1, 1)


def convolved(x, weight, bias):
    return F.conv2d(x, weight, bias, padding=1)


@pytest.fixture
def operators():
    """Operators of a plugin's own in namespaces of torch's."""
    libraries = []
    for namespace, tags in (("profiler", ()), ("aten", (torch.Tag.pointwise,))):
        library = torch.library.Library(namespace, "FRAGMENT")
        library.define("sneak(Tensor x, Tensor weight, Tensor bias) -> Tensor", tags=tags)
        library.impl("sneak", convolved, "CompositeExplicitAutograd")
        libraries.append(library)
    yield
    for library in libraries:
        library._destroy()


class Weighted(Sneaky):
    """Each output channel is a sum over the whole, with weights of its own: a linear layer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 4, 8, 8))

    def sneak(self, block, x):
        sums = [(x[0] * weight + 0.0).sum() for weight in self.weight]
        return x * torch.stack(sums).view(1, 4, 1, 1)


class Windows(Sneaky):
    """One filter for each channel over windows that are views."""

    def sneak(self, block, x):
        padded = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
        return (padded * block.weight[:, 0].view(1, 4, 1, 1, 3, 3)).sum((-2, -1))


class Filled(Repeated):
    def copied(self, windows):
        memory = torch.zeros(4, 36, 64)
        memory[:] = windows
        return memory


class Enlarged(Repeated):
    def copied(self, windows):
        return (
            F.interpolate(windows.reshape(1, 36 * 64, 1), size=4).permute(2, 0, 1).view(4, 36, 64)
        )


class Looked(Repeated):
    def copied(self, windows):
        flat = windows.reshape(1, 36 * 64)
        return F.embedding(torch.zeros(4, dtype=torch.int64), flat).view(4, 36, 64)


class Binned(Sneaky):
    """The sums of the products are those of a histogram; a counted operator follows."""

    def sneak(self, block, x):
        windows = F.unfold(x, 3, padding=1).view(1, 36, 64)
        product = (block.weight.view(4, 36, 1) * windows).transpose(1, 2).flatten()
        sums = self.added(torch.arange(256).repeat_interleave(36), product)
        return F.conv2d(sums.view(1, 4, 8, 8), torch.ones(4, 4, 1, 1))

    def macs(self, decisions):
        return super().macs(decisions) + 4 * 4 * 64 * decisions[:, 2].to(torch.int64)

    def added(self, places, product):
        return torch.bincount(places, weights=product)


class Put(Binned):
    def added(self, places, product):
        return torch.zeros(256).scatter(0, places, product, reduce="add")


class BatchNormalized(Binned):
    def added(self, places, product):
        columns = F.batch_norm(product.view(256, 36).t().contiguous(), None, None, training=True)
        return columns[0]


class Powers(Distances):
    def squared(self, gaps):
        return torch.ops.aten.linalg__powsum(gaps, 2, [2])


class Complex(Sneaky):
    """A product of complex numbers is four of real ones."""

    def sneak(self, block, x):
        pair = x[0, :2].to(torch.complex64) + 1j * x[0, 2:]
        return x + torch.matmul(pair, torch.ones(8, 8, dtype=torch.complex64)).abs().mean()


class Profiled(Sneaky):
    def sneak(self, block, x):
        return torch.ops.profiler.sneak(x, block.weight, block.bias)


class Tagged(Sneaky):
    def sneak(self, block, x):
        return torch.ops.aten.sneak(x, block.weight, block.bias)


class Doubled(Sneaky):
    """NumPy works on what an operator of torch made of weights and features."""

    def sneak(self, block, x):
        windows = F.unfold(x, 3, padding=1)[0].double().numpy()
        found = block.weight.double().numpy().reshape(4, 36) @ windows
        found = found + block.bias.double().numpy()[:, None]
        return torch.from_numpy(found.astype(np.float32)).view(1, 4, 8, 8)


class Written(Sneaky):
    """NumPy writes to memory that torch made."""

    def sneak(self, block, x):
        found = torch.relu(x)
        windows = F.unfold(x, 3, padding=1)[0].numpy()
        weights, bias = block.weight.clone().numpy(), block.bias.clone().numpy()
        found.numpy()[...] = (weights.reshape(4, 36) @ windows + bias[:, None]).reshape(1, 4, 8, 8)
        return found + 0


class Returned(Sneaky):
    """Another thread writes to memory that torch made."""

    def sneak(self, block, x):
        weight, bias, found = block.weight.clone(), block.bias.clone(), torch.zeros(1, 4, 8, 8)

        def work():
            with torch.no_grad():
                found.copy_(convolved(x, weight, bias))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return found


class Hidden(Sneaky):
    """The modes that count are put aside."""

    def sneak(self, block, x):
        weight, bias = block.weight.clone(), block.bias.clone()
        with torch.utils._python_dispatch._disable_current_modes():
            return convolved(x, weight, bias)


class Listed(Sneaky):
    """Computed in lists of Python numbers."""

    def table(self, block, x):
        windows = F.unfold(x, 3, padding=1)[0].t().tolist()
        rows, biases = block.weight.clone().view(4, 36).tolist(), block.bias.tolist()
        return [
            [sum(map(float.__mul__, row, window)) + bias for window in windows]
            for row, bias in zip(rows, biases, strict=True)
        ]

    def sneak(self, block, x):
        return torch.tensor(self.table(block, x)).view(1, 4, 8, 8)


class Numbers(Listed):
    """Written into a tensor number by number."""

    def sneak(self, block, x):
        found = torch.zeros(4, 64)
        for i, row in enumerate(self.table(block, x)):
            for j, value in enumerate(row):
                found[i, j] = value
        return found.view(1, 4, 8, 8)


OUTSIDE = "computes with .* numbers that depend on the image and that no operator made"
WRITTEN = "memory that something else than the operators that the counters see has written to"


class Remembering(ToyTarget):
    """`forward` keeps its results by image, and `execute` looks them up."""

    met = {}  # noqa: RUF012 - shared by all copies, on purpose

    def forward(self, images, decisions=None):
        output = super().forward(images, decisions)
        if decisions is None:
            for i, image in enumerate(images):
                self.met[image.detach().numpy().tobytes()] = output.detach().rows(torch.tensor([i]))
        return output

    def execute(self, image, decisions=None):
        known = self.met.get(image.numpy().tobytes()) if decisions is None else None
        return super().execute(image, decisions) if known is None else known


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param(Broadcast, "adds up a product of broadcast operands", id="broadcast"),
        pytest.param(Matrix, "adds up a product of broadcast operands", id="expanded"),
        pytest.param(Distances, "adds up a product of broadcast operands", id="distances"),
        pytest.param(Multiplied, "adds up a product of broadcast operands", id="gaps-times-gaps"),
        pytest.param(Normed, "adds up a product of broadcast operands", id="norms"),
        pytest.param(Varied, "adds up a product of broadcast operands", id="variances"),
        pytest.param(Scattered, "adds up a product of broadcast operands", id="index-put"),
        pytest.param(Logarithms, "adds up a product of broadcast operands", id="logarithms"),
        pytest.param(Normalized, "adds up a product of broadcast operands", id="layer-norm"),
        pytest.param(Repeated, "adds up a product of broadcast operands", id="repeated"),
        pytest.param(Stacked, "adds up a product of broadcast operands", id="stacked"),
        pytest.param(Picked, "adds up a product of broadcast operands", id="indexed"),
        pytest.param(OneByOne, "adds up a product of broadcast operands", id="windows"),
        pytest.param(Weighted, "adds up a product with weights", id="dot-products"),
        pytest.param(Windows, "adds up a product of broadcast operands", id="windows-as-views"),
        pytest.param(Filled, "adds up a product of broadcast operands", id="written-repeatedly"),
        pytest.param(Enlarged, "adds up a product of broadcast operands", id="enlarged"),
        pytest.param(Looked, "adds up a product of broadcast operands", id="embedding"),
        pytest.param(Binned, "adds up a product of broadcast operands", id="bincount"),
        pytest.param(
            Put,
            "adds up a product of broadcast operands",
            id="scatter-that-adds",
            marks=pytest.mark.filterwarnings("ignore:The reduce argument:UserWarning"),
        ),
        pytest.param(BatchNormalized, "adds up a product of broadcast", id="batch-norm"),
        pytest.param(Powers, "adds up a product of broadcast operands", id="sums-of-powers"),
        pytest.param(Complex, r"uses aten\.\w+ of complex numbers", id="complex-numbers"),
        pytest.param(Profiled, r"uses profiler\.sneak", id="named-after-the-profiler"),
        pytest.param(Tagged, r"uses aten\.sneak", id="said-to-be-elementwise"),
        pytest.param(NumPy, OUTSIDE, id="numpy"),
        pytest.param(Doubled, OUTSIDE, id="numpy-from-copies"),
        pytest.param(Written, WRITTEN, id="numpy-in-place"),
        pytest.param(Threaded, OUTSIDE, id="thread"),
        pytest.param(Returned, WRITTEN, id="thread-in-place"),
        pytest.param(Hidden, OUTSIDE, id="modes-off"),
        pytest.param(Listed, OUTSIDE, id="lists"),
        pytest.param(Numbers, "computes with 256 numbers", id="numbers"),
    ],
)
def test_uncounted_work_is_refused(operators, kind, said):
    target = kind()
    freeze(target)
    with pytest.raises(ContractBroken, match=said) as caught:
        examine(target, sample_images((3, 8, 8)))
    assert caught.value.hint


def test_results_that_are_looked_up_are_refused():
    target = Remembering()
    freeze(target)
    with pytest.raises(ContractBroken, match="ptflops counts 0 when the image is executed"):
        examine(target, sample_images((3, 8, 8)))


class Outside(ToyTarget):
    """All of it is computed in NumPy."""

    def execute(self, image, decisions=None):
        return type(super().execute(image))(
            torch.from_numpy(super().execute(image, decisions).logits.numpy() * 2),
            *(
                getattr(super(Outside, self).execute(image, decisions), name)
                for name in ("margins", "logit_margins", "decisions")
            ),
        )


def test_logits_that_come_from_elsewhere_are_refused():
    class Declared(Outside):
        def macs(self, decisions):
            return super().macs(decisions) * 5

    frozen = Declared().eval().requires_grad_(False)
    with pytest.raises(ContractBroken, match="computes with 4 numbers that depend on the image"):
        cost.check_first_execution(frozen, sample_images((3, 8, 8))[:1])


def test_gates_may_be_read_in_python_and_constants_be_anybodys():
    class Careful(ToyTarget):
        def __init__(self):
            super().__init__()
            self.table = np.linspace(0, 1, 64).reshape(8, 8)
            self.scratch = torch.zeros(1, 3, 8, 8)

        def forward(self, images, decisions=None):
            return super().forward(images + torch.from_numpy(self.table).float(), decisions)

        def execute(self, image, decisions=None):
            self.scratch.copy_(image + torch.from_numpy(self.table).float())
            output = super().execute(self.scratch, decisions)
            margins = torch.tensor([[float(each) for each in output.margins[0]]])
            on = torch.tensor(output.decisions.tolist())
            scale = float(output.margins[0, 0])
            return type(output)(
                output.logits + scale - scale, margins, output.logit_margins, on, output.exits
            )

    target = Careful()
    freeze(target)
    assert examine(target, sample_images((3, 8, 8))).ceiling == 35619


def test_scaling_by_channel_or_by_image_before_pooling_is_free():
    class Scaled(ToyTarget):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.rand(3, 1, 1))

        def change(self, images):
            attention = torch.sigmoid(images.mean((2, 3), keepdim=True))
            return images * attention * self.gain / (1 + images.mean((2, 3), keepdim=True))

        def forward(self, images, decisions=None):
            return super().forward(self.change(images), decisions)

        def execute(self, image, decisions=None):
            return super().execute(self.change(image), decisions)

    target = Scaled()
    freeze(target)
    assert examine(target, sample_images((3, 8, 8))).ceiling == 35619


def canvas(images, target):
    """Computed at some places only, zero at the others."""
    places = torch.zeros(len(images), 3, 64)
    places[:, :, :10] = images.flatten(2)[:, :, 20:30] - 0.5
    return places.view_as(images) * target.gain


def code(images, target):
    """An entry of a table, chosen by the image, in place of each pixel."""
    entries = target.table[(images[:, 0] > 0.5).to(torch.int64)].permute(0, 3, 1, 2)
    return entries * target.gain


def rows(images, target):
    """Memory that is filled row after row, several times."""
    memory = torch.zeros_like(images)
    for _ in range(3):
        for row in range(8):
            memory[:, :, row].copy_(images[:, :, row] * 0.5)
    return memory * target.gain


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(canvas, id="places"),
        pytest.param(code, id="code-book"),
        pytest.param(rows, id="rows"),
    ],
)
def test_values_that_are_moved_and_scaled_by_channel_are_free(change):
    class Changed(ToyTarget):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.rand(3, 1, 1))
            self.table = nn.Parameter(torch.rand(2, 3))

        def changed(self, images):
            return images + 0.1 * change(images, self).mean((2, 3), keepdim=True)

        def forward(self, images, decisions=None):
            return super().forward(self.changed(images), decisions)

        def execute(self, image, decisions=None):
            return super().execute(self.changed(image), decisions)

    target = Changed()
    freeze(target)
    assert examine(target, sample_images((3, 8, 8))).ceiling == 35619


class Sequence(ToyTarget):
    """Ends in a module over the 64 positions of its features, whose MACs are given."""

    def __init__(self, module, extra):
        super().__init__()
        self.module, self.extra = module, extra

    def finish(self, x, logits, taken):
        found = self.module(x.flatten(2).transpose(1, 2).contiguous())
        found = found[0] if isinstance(found, tuple) else found
        return self._output(self.head(found.mean(1)), logits, taken)

    def execute(self, image, decisions=None):
        x = torch.relu(self.stem(image - 0.5))
        logits, taken = [], []
        for i, (block, gate) in enumerate(zip(self.blocks, self.gates, strict=True)):
            logit = gate(x.mean((2, 3)) - 0.1)[:, 0]
            on = logit > 0 if decisions is None else decisions[:, i]
            if bool(on):
                x = x + torch.relu(block(x))
            logits.append(logit)
            taken.append(on)
        return self.finish(x, logits, taken)

    def macs(self, decisions):
        return super().macs(decisions) + self.extra


class SelfAttention(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.inner, self.weights = nn.MultiheadAttention(4, 2, batch_first=True), weights

    def forward(self, x):
        return self.inner(x, x, x, need_weights=self.weights)[0]


PROJECTIONS = 64 * (4 * 12 + 12) + 64 * (4 * 4 + 4)
ATTENTION = PROJECTIONS + 2 * 64 * 64 * 4
LAYER = ATTENTION + 64 * (4 * 8 + 8) + 64 * (8 * 4 + 4)


@pytest.mark.parametrize(
    ("make", "extra"),
    [
        pytest.param(lambda: SelfAttention(True), ATTENTION, id="attention-with-weights"),
        pytest.param(lambda: SelfAttention(False), ATTENTION, id="attention"),
        pytest.param(
            lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), LAYER, id="encoder-layer"
        ),
        pytest.param(
            lambda: nn.LSTM(4, 4, batch_first=True), 64 * (16 * 4 + 16 * 4 + 32), id="lstm"
        ),
        pytest.param(
            lambda: nn.LSTM(4, 4, bias=False, batch_first=True), 64 * 2 * 16 * 4, id="lstm-no-bias"
        ),
        pytest.param(lambda: nn.GRU(4, 4, batch_first=True), 64 * (24 * 4 + 24), id="gru"),
        pytest.param(lambda: nn.DataParallel(nn.Linear(4, 4)), 64 * (16 + 4), id="data-parallel"),
    ],
)
def test_attention_transformers_and_recurrent_layers_are_counted(make, extra):
    torch.manual_seed(0)
    target = Sequence(make(), extra).eval().requires_grad_(False)
    fast = torch.backends.mha.get_fastpath_enabled()
    on = torch.ones(1, 3, dtype=torch.bool)
    assert cost.audit(target, sample_images((3, 8, 8))[:1], on).macs == 35619 + extra
    assert torch.backends.mha.get_fastpath_enabled() is fast


@pytest.mark.parametrize(
    "norm",
    [
        pytest.param(lambda: nn.InstanceNorm2d(3, affine=True), id="instance-norm"),
        pytest.param(lambda: nn.GroupNorm(1, 3), id="group-norm"),
        pytest.param(lambda: nn.LayerNorm((3, 8, 8)), id="layer-norm"),
    ],
)
def test_weights_of_ones_are_constants_whatever_an_image_comes_to(norm):
    """An image may come to a 1 somewhere, and its negative not."""
    target = ToyTarget().eval().requires_grad_(False)
    image, first = sample_images((3, 8, 8))[:1], norm().requires_grad_(False)
    execute = target.execute
    target.execute = lambda image, decisions: execute(first(image), decisions)
    outside.check_nothing_outside(target, image, torch.ones(1, 3, dtype=torch.bool))


def test_a_compiled_module_is_counted_operator_by_operator(monkeypatch):
    stances = []
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    monkeypatch.setattr(
        torch.compiler, "set_stance", lambda name: stances.append(name) or nullcontext()
    )
    assert cost.count(ToyTarget().eval(), sample_images((3, 8, 8))[:1]).macs > 0
    assert stances == ["force_eager"]


def test_labels_for_a_profiler_are_free():
    class Labelled(ToyTarget):
        def execute(self, image, decisions=None):
            with torch.profiler.record_function("everything"):
                return super().execute(image, decisions)

    assert cost.audit_extremes(Labelled().eval(), sample_images((3, 8, 8))[:1]) == (7203, 35619)


def test_pictures_of_the_known_coder_are_seen_and_what_it_is_given_is_held_against_the_rule():
    class Recoded(ToyTarget):
        def shown(self, image):
            return to_grid(image)

        def execute(self, image, decisions=None):
            return super().execute(to_float(through_jpeg(self.shown(image))), decisions)

    class Smuggled(Recoded):
        def shown(self, image):
            return torch.from_numpy((image.numpy()[:, ::-1] * 255).astype(np.uint8))

    image, on = sample_images((3, 8, 8))[:1], torch.ones(1, 3, dtype=torch.bool)
    outside.check_nothing_outside(Recoded().eval(), image, on)
    with pytest.raises(ContractBroken, match="192 numbers that depend on the image"):
        outside.check_nothing_outside(Smuggled().eval(), image, on)


def test_a_block_that_is_told_of_pictures_ends():
    seen, images = [], to_grid(sample_images((3, 8, 8)))
    with telling(lambda before, after: seen.append((before, after))):
        found = through_jpeg(images)
    assert torch.equal(found, through_jpeg(images))
    assert len(seen) == 1
    assert seen[0][0] is images
    assert seen[0][1] is found
