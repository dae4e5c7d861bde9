"""Contract tests of defenses."""

from __future__ import annotations

from torch import Tensor

from bench.contracts.defense import Defense
from bench.contracts.target import Target
from bench.evaluation.learned import digest_of, plain_learned
from bench.evaluation.outputs import check_unchanged, freeze
from bench.evaluation.target_checks import copy_target
from bench.testing.findings import Finding, NotKept, found
from bench.testing.samples import sample_images
from bench.testing.target import check_target
from bench.testing.toy import ToyTarget


def check_defense(defense: Defense, target: Target | None = None) -> list[Finding]:
    """Check a defense against its contract: what it wraps is a target like any other.

    Args:
        defense: to be tested.
        target: to put it around; `ToyTarget` when left out.

    Returns:
        One finding a promise; `problems` lists those that are broken.

    Examples:
        >>> from bench.testing import check_defense, problems
        >>> from targets.defenses.transforms import BitDepth
        >>> problems(check_defense(BitDepth()))
        []
    """
    inner = ToyTarget() if target is None else target
    state, images = freeze(inner), sample_images(inner.image_shape, 12)
    made: list[Target] = []

    def wraps() -> None:
        wrapped = defense.wrap(inner, learned()) if defense.fits else defense.wrap(inner)
        if not isinstance(wrapped, Target):
            raise NotKept(f"wrap returned {type(wrapped).__name__}, no bench.api.Target")
        check_unchanged(inner, state, "the defense")
        copy_target(wrapped)
        made.append(wrapped)

    def learned() -> dict[str, Tensor]:
        """What a fit returns, the same twice."""
        first, again = (
            plain_learned(defense.fit(inner, images), f"{type(defense).__name__}.fit")
            for _ in range(2)
        )
        if digest_of(first) != digest_of(again):
            raise NotKept("fit returned something else for the same network and images")
        return first

    def measured() -> None:
        if made[0].undefended.ceiling != inner.ceiling:
            raise NotKept(
                f"`undefended` has a ceiling of {made[0].undefended.ceiling} MACs, the network one "
                f"of {inner.ceiling}"
            )

    findings = [
        found("fits and wraps without touching the network, and what it makes can be copied", wraps)
    ]
    if made:
        findings.append(found("`undefended` is the network that it was given", measured))
        findings += check_target(made[0], images[:6])
    return findings
