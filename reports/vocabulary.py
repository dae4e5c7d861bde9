"""What the report says in words: threats, flags, statuses, columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.contracts.threat import Threat, parse_threat
from bench.errors import GatebenchError
from reports.numbers import levels

STATUSES = {
    "ok": "finished and believed",
    "skipped": "the attack says that it does not apply here",
    "invalid": "a contract was broken or the cost audit failed; its numbers are not shown",
    "failed": "it raised an error",
    "timeout": "it ran past its deadline",
    "oom": "it ran out of memory",
    "withdrawn": "its numbers were taken back, for the reason given",
    "missing": "it has not been run yet",
}

FLAGS = {
    ("left-threat"): (
        "The attack returned images outside the threat. They were pulled back before anything "
        "was measured."
    ),
    ("near-threshold"): (
        "Some gates lay so close to their threshold that float noise could decide them; images "
        "say how many."
    ),
    ("mixed-environment"): (
        "Its shards were computed under different versions, devices or thread counts, which was "
        "asked for with --keep."
    ),
    ("continued"): (
        "It began at the saved images of another row, whose work comes on top of its own budget."
    ),
    ("zero-gradient"): (
        "On some clean images the margins of closed units have no gradient at all: attacks that "
        "follow gradients are blind there."
    ),
    ("misleading-gradient"): (
        "On most clean images no step along the gradient, from half a gray level to eight, opens "
        "anything: it leads nowhere."
    ),
    ("saturated-gates"): (
        "On some clean images more than half of the gates are so sure (logits beyond 20, or "
        "values at an end of their range) that no slope is left."
    ),
    ("not-converged"): (
        "The second half of what was spent still won a point of recovery or more: with twice the "
        "steps the number would be higher."
    ),
    ("stuck"): (
        "On the first images a short attack of the harness's own (25 steps on a concave loss) "
        "executes at least two points more than this attack does with a larger budget: the number "
        "is about the attack, not about the target."
    ),
    ("black-box-leads"): (
        "The random search, which sees executed MACs alone, won more than every attack that sees "
        "gradients: a sign that gradients mislead here."
    ),
    ("transfer-leads"): (
        "An attack that knows the network but not its defense won more than every attack that "
        "knows both: the defense hides its gradient rather than its gates."
    ),
    ("randomised"): (
        "The target draws at random. MACs are means over fresh draws; predictions and decisions "
        "are those of the first."
    ),
    ("hard-masks"): (
        "The defense switched off the straight-through masks that the network has, or swallows "
        "them: attacks follow less of the gradient."
    ),
    ("shrinks-with-radius"): (
        "The same attack recovered more inside a smaller ball. A larger ball holds the smaller "
        "one, so this number is too low."
    ),
    ("trained-elsewhere"): (
        "The weights were trained on another data set than this: accuracy and saving say little "
        "of the network where it belongs."
    ),
}


def flag_words(flag: str) -> str:
    """What a flag means; flags of plugins explain themselves by their name only."""
    return FLAGS.get(flag, "A remark of the run; this report has no longer word for it.")


def threat_words(document: Any) -> str:
    """A threat from a protocol as a sentence part, whatever form it is kept in."""
    if isinstance(document, Threat):
        return _threat(document)
    try:
        return _threat(parse_threat(document))
    except GatebenchError:
        return str(document)


def _threat(threat: Threat) -> str:
    amount = threat.amount
    if threat.norm == "none":
        return "no bound but the pixel range"
    if threat.norm == "linf":
        return (
            f"every value changes by at most {int(255 * amount // 1)} of 255 gray levels (eps "
            f"{amount})"
        )
    if threat.norm == "l2":
        return f"Euclidean distance at most {amount} (pixel values in [0,1])"
    if threat.norm == "psnr":
        return (
            f"PSNR of at least {float(amount):g} dB (error of at most {levels(float(amount))} "
            "gray levels, root mean square)"
        )
    return f"one square of {int(amount)} pixels a side"


@dataclass(frozen=True)
class TableColumn:
    """A column of the leaderboard.

    Attributes:
        key: its name in the page.
        label: its head.
        hint: explains it.
        unit: of its numbers: "share" is shown in per cent, "macs" in MACs, "db" in decibels,
            "number" as it is; "" for text.
    """

    key: str
    label: str
    hint: str
    unit: str = ""

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers."""
        return bool(self.unit)


WIDE_HEADROOM = 0.02
"""Recovery from which a board's headroom is called wide."""

COLUMNS = (
    TableColumn(
        "rank",
        "Rank",
        "of the attack on this target, 1 is strongest; attacks that cannot be told apart share a "
        "rank",
        unit="number",
    ),
    TableColumn("target", "Target", "the dynamic network, with its defense"),
    TableColumn(
        "attack",
        "Attack",
        "with its label; controls are marked and ranked with nobody",
    ),
    TableColumn(
        "recovery",
        "Recovery",
        "(adversarial − clean) / (ceiling − clean) in executed MACs, ratio of means over images; "
        "the ceiling is the undefended network's",
        unit="share",
    ),
    TableColumn(
        "float_recovery",
        "Float",
        "recovery of the float image that the attack returned, before it was saved with 8 bits",
        unit="share",
    ),
    TableColumn(
        "jpeg_recovery",
        "JPEG-90",
        "recovery of the saved image after one more save as JPEG of quality 90 and reload",
        unit="share",
    ),
    TableColumn(
        "adversarial_macs",
        "Adversarial MACs",
        "executed on the saved adversarial image, mean; multiply-accumulates, not FLOPs",
        unit="macs",
    ),
    TableColumn("surviving_saving", "Saving left", "1 − adversarial / ceiling", unit="share"),
    TableColumn(
        "adversarial_accuracy", "Accuracy, adv.", "on the adversarial images", unit="share"
    ),
    TableColumn(
        "psnr",
        "PSNR",
        "of the saved image against the clean one, from the mean squared error over all images; "
        "higher is harder to see",
        unit="db",
    ),
    TableColumn(
        "ssim", "SSIM", "structural similarity of the same pair, 1 is equal", unit="number"
    ),
    TableColumn(
        "evaluations",
        "Evals",
        "evaluations used: forward-equivalents an image: forward 1, backward 2",
        unit="number",
    ),
)

READING = (
    (
        "Floor, ceiling",
        "MACs of the cheapest and of the dearest decisions that the network's own rule allows.",
    ),
    (
        "Forward-equivalent",
        "What an attack's budget is counted in: a forward of one image is 1, a backward 2.",
    ),
    (
        "MACs",
        "Multiply-accumulates that were really executed, counted one image at a time with the "
        "left-out work left out. One MAC is often "
        "printed as two FLOPs; no FLOPs are printed here.",
    ),
    (
        "Recovery",
        "How much of the computation that the network saved on clean images the attack wins back: "
        "0 % changes nothing, 100 % makes the "
        "network run everything. It is never clipped: an attack that makes the network cheaper is "
        "negative. A dash stands where there is "
        "less than 1 % of the ceiling to win back.",
    ),
    (
        "Saving left",
        "What remains of the point of a dynamic network under attack: one minus adversarial MACs "
        "over the MACs of everything switched on. "
        "Under a defense that is still the undefended network's: what a defense costs itself "
        "counts against it. "
        "Targets are ranked by it, under the strongest attack on each.",
    ),
    (
        "Adversarial image",
        "All numbers are those of the image as it would be saved: 8 bits a value, inside the "
        "threat. The difference to the float image is "
        "on each cell's page.",
    ),
    (
        "Float, JPEG-90",
        "The same recovery before saving, and after saving as JPEG of quality 90 and loading "
        "again: what survives. JPEG alone changes "
        "MACs too; the row of the identity shows by how much.",
    ),
    (
        "Ensemble",
        "AutoEnergy takes, image by image, the strongest of its members' saved images, each made "
        "at the full budget; what it used is "
        "their sum. "
        "It has no rank among attacks of one budget, but a target's saving is measured under it.",
    ),
    (
        "Headroom",
        "How far the strongest attack is from converged: what a reference run with a multiple of "
        "the budget adds to the recovery of the strongest images, on some of the board's images. "
        "A small number says that more steps of that attack win little more. "
        "'gatebench headroom RUN' measures it.",
    ),
    (
        "PSNR",
        "20 log10(255 / root mean squared error in gray levels), against the true clean image. "
        "Noise from rounding alone is at 58.9 dB. "
        "It is pooled: taken from the mean squared error over all images. The mean of the images' "
        "own PSNRs, shown below it where the two "
        "differ, counts an unchanged image as 120 dB and so says little where an attack left some "
        "images alone.",
    ),
    (
        "Rank",
        "Attacks are ranked per target by recovery, and only under a bound that all share. Rows "
        "whose paired difference is not significant "
        "share a rank.",
    ),
    (
        "Control",
        "A row that shows what is not the attack's doing (identity, noise, contrast): an attack "
        "that does no better has found nothing. "
        "Controls are ranked with nobody.",
    ),
)
