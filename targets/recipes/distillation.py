"""Learning from a teacher's logits, and weights that are kept in half precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import Moment, Part, Target
from bench.errors import PlanError
from targets.recipes.stage import TrainingStage


@dataclass(frozen=True, kw_only=True)
class DistilledStage(TrainingStage):
    """A stage that may learn from a teacher, and whose weights are rounded at the end.

    The loss on logits z is (1 - w) CE(z, label) + w T^2 KL(softmax(teacher / T), softmax(z / T))
    (Hinton et al., Distilling the Knowledge in a Neural Network, 2015).

    Attributes:
        teacher: the name of the teacher's weights; "" trains on labels alone.
        distilled: w, in [0, 1].
        temperature: T, above 0.
        rounded: whether the weights end as half-precision numbers, of which files are half as
            large; what is measured is measured with them.
    """

    teacher: str = ""
    distilled: float = 0.5
    temperature: float = 2.0
    rounded: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.distilled <= 1:
            raise PlanError(f"distilled = {self.distilled}: a share, from 0 to 1")
        if not self.temperature > 0:
            raise PlanError(f"temperature = {self.temperature}: above 0")

    def task_loss(self, logits: Tensor, images: Tensor, labels: Tensor, moment: Moment) -> Tensor:
        """The loss on logits (N, K): of the labels, and of the teacher where there is one."""
        logits = logits.float()
        error = F.cross_entropy(logits, labels)
        if moment.teacher is None:
            return error
        with torch.no_grad():
            taught = moment.teacher(images).logits.float()
        apart = F.kl_div(
            (logits / self.temperature).log_softmax(1),
            (taught / self.temperature).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self.distilled) * error + self.distilled * self.temperature**2 * apart

    def finish(self, target: Target, held: Part) -> None:
        """Round the weights."""
        if self.rounded:
            round_to_half(target)


def round_to_half(network: nn.Module, but: tuple[str, ...] = ()) -> None:
    """Replace every weight and statistic of a network by the nearest half-precision number.

    Args:
        network: changed in place.
        but: prefixes of the names of what stays as it is.
    """
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point() and not name.startswith(but):
                value.copy_(value.to(torch.float16))
