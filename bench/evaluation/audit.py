"""The audit of a cell: some of its images are executed, counted, and compared with their rows."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from bench.errors import ContractBroken
from bench.evaluation import cost
from bench.evaluation.outputs import check_output, differing_unit
from bench.evaluation.prepare import Opened
from bench.evaluation.score import SCORING, Scored
from bench.evaluation.seeds import seeded, seeds_of
from bench.evaluation.target_checks import BATCH_TOLERANCE
from bench.files.canonical import canonical
from bench.image import to_float
from bench.store.schema import pack


def audited_places(opened: Opened) -> set[int]:
    """The places whose images are executed and counted, as many as the protocol says.

    They are chosen by hash, so that a target cannot predict them.
    """
    key = canonical(opened.cell.components())

    def lot(place: int) -> bytes:
        return hashlib.sha256(key + opened.dataset.ids[opened.indices[place]].encode()).digest()

    return set(sorted(range(len(opened.indices)), key=lot)[: opened.cell.protocol.audit])


def audit_row(
    opened: Opened, row: dict[str, Any], which: str, image: Tensor, scored: Scored, i: int
) -> None:
    """Execute one image, count it, and compare it with how it was scored.

    The row then says what was executed. Of a random target that is its first draw; its MACs in the
    row are a mean over draws and stay.

    Args:
        opened: the cell, made ready.
        row: of the image; it is changed.
        which: "clean" or "adversarial".
        image: (1, C, H, W) uint8.
        scored: of the batch.
        i: the place of the image in the batch.

    Raises:
        ContractBroken: `execute` decides otherwise than `forward` or costs something else.
    """
    where = f"on the {which} image {row['id']}"
    with seeded(opened.target, seeds_of([row["id"]], opened.cell.protocol.seed, SCORING)):
        result = cost.audit(opened.target, to_float(image).to(opened.device))
    ran = check_output(result.output, opened.target, 1)
    seen = scored.output.rows(torch.tensor([i], device=opened.device))
    unit = differing_unit(
        opened.target, ran.decisions[0], seen.decisions[0], seen.margins[0], opened.noise
    )
    if unit is not None:
        raise ContractBroken(
            f"{where} execute decides {opened.target.units.name[unit]} otherwise than forward "
            "does, beyond float noise",
            hint="execute and forward read the same gates with the same thresholds "
            "and leave out the same units",
        )
    if torch.equal(ran.decisions, seen.decisions):
        apart = float((ran.logits - seen.logits).abs().max())
        if apart > BATCH_TOLERANCE * max(1.0, float(seen.logits.abs().max())):
            raise ContractBroken(
                f"{where} the logits of execute and forward differ by {apart:.3g}",
                hint="let execute compute what forward does where the same units run; it"
                " only leaves work out",
            )
        if int(scored.first[i]) != result.macs:
            raise ContractBroken(
                f"{where} macs(decisions) said {int(scored.first[i])} in its batch, ptflops counts "
                f"{result.macs}",
                hint="let macs(decisions) add up what execute multiplies for these "
                "decisions, biases included",
            )
    if opened.target.draws == 1:
        row[f"{which}_macs"] = result.macs
    row[f"{which}_decisions"] = pack(ran.decisions.cpu())[0]
    row[f"{which}_prediction"] = int(ran.logits.argmax())
