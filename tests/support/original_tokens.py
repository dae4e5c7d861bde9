"""A-ViT and DynamicViT written again from their rules, slowly and without timm: one image, one
token, one block at a time, for released state dictionaries."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SIZES = {"tiny": (192, 3), "small": (384, 6)}
"""(width, heads) of a DeiT."""


def random_state(
    width: int, depth: int, classes: int, seed: int, *, patch: int = 16, tokens: int = 197
) -> dict[str, Tensor]:
    """A transformer's state in released names, with weights large enough to move tokens."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64) * scale

    state = {
        "cls_token": normal(1, 1, width, scale=0.5),
        "pos_embed": normal(1, tokens, width, scale=0.5),
        "patch_embed.proj.weight": normal(width, 3, patch, patch, scale=1 / patch),
        "patch_embed.proj.bias": normal(width, scale=0.1),
        "norm.weight": 1 + normal(width, scale=0.1),
        "norm.bias": normal(width, scale=0.1),
        "head.weight": normal(classes, width, scale=width**-0.5),
        "head.bias": normal(classes, scale=0.1),
    }
    for block in range(depth):
        at = f"blocks.{block}"
        for name in ("norm1", "norm2"):
            state[f"{at}.{name}.weight"] = 1 + normal(width, scale=0.1)
            state[f"{at}.{name}.bias"] = normal(width, scale=0.1)
        layers = {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }
        for name, (outputs, inputs) in layers.items():
            state[f"{at}.{name}.weight"] = normal(outputs, inputs, scale=inputs**-0.5)
            state[f"{at}.{name}.bias"] = normal(outputs, scale=0.1)
    return state


def predictor_state(width: int, odds: tuple[float, ...], seed: int) -> dict[str, Tensor]:
    """The predictors of DynamicViT in released names, `odds` in favour of keeping at each stage."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for stage, bias in enumerate(odds):
        at = f"score_predictor.{stage}"
        state[f"{at}.in_conv.0.weight"] = torch.ones(width, dtype=torch.float64)
        state[f"{at}.in_conv.0.bias"] = torch.zeros(width, dtype=torch.float64)
        layers = {
            "in_conv.1": (width, width),
            "out_conv.0": (width // 2, width),
            "out_conv.2": (width // 4, width // 2),
            "out_conv.4": (2, width // 4),
        }
        for name, (outputs, inputs) in layers.items():
            state[f"{at}.{name}.weight"] = (
                torch.randn((outputs, inputs), generator=draw, dtype=torch.float64)
                * 2
                * inputs**-0.5
            )
            state[f"{at}.{name}.bias"] = (
                torch.randn(outputs, generator=draw, dtype=torch.float64) * 0.1
            )
        state[f"{at}.out_conv.4.bias"][0] += bias
    return state


class Original:
    """A released state, evaluated on one normalized image at a time.

    Args:
        state: in released names, float64.
        heads: of attention.
    """

    def __init__(self, state: dict[str, Tensor], heads: int) -> None:
        self.state, self.heads = state, heads
        self.depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        self.width = state["head.weight"].shape[1]

    def embed(self, image: Tensor) -> Tensor:
        """(T, D) tokens of a normalized image (3, H, W), patch by patch."""
        weight, bias = self.state["patch_embed.proj.weight"], self.state["patch_embed.proj.bias"]
        side = weight.shape[2]
        patches = [
            (weight * image[:, y : y + side, x : x + side]).sum((1, 2, 3)) + bias
            for y in range(0, image.shape[1], side)
            for x in range(0, image.shape[2], side)
        ]
        return torch.stack([self.state["cls_token"][0, 0], *patches]) + self.state["pos_embed"][0]

    def block(self, index: int, x: Tensor) -> Tensor:
        """(n, D) the tokens that are there, behind a block; query by query."""
        at = f"blocks.{index}"
        own = self._linear(f"{at}.attn.qkv", self._norm(f"{at}.norm1", x))
        query, key, value = own.split(self.width, 1)
        size, mixed = self.width // self.heads, []
        for row in range(len(x)):
            parts = []
            for head in range(self.heads):
                part = slice(head * size, (head + 1) * size)
                weight = (key[:, part] @ query[row, part] / math.sqrt(size)).exp()
                parts.append((weight[:, None] * value[:, part]).sum(0) / weight.sum())
            mixed.append(torch.cat(parts))
        x = x + self._linear(f"{at}.attn.proj", torch.stack(mixed))
        inner = self._linear(f"{at}.mlp.fc1", self._norm(f"{at}.norm2", x))
        return x + self._linear(f"{at}.mlp.fc2", F.gelu(inner))

    def head(self, state: Tensor) -> Tensor:
        """(K,) logits from the class token's (D,) state."""
        return self._linear("head", self._norm("norm", state[None]))[0]

    def halt(self, image: Tensor, scale: float, center: float) -> tuple[Tensor, Tensor, Tensor]:
        """A-ViT: ((K,) logits, (L - 1, T) sums of scores, (L - 1, T) bool what ran)."""
        states = list(self.embed(image))
        alive = list(range(len(states)))
        total = [0.0] * len(states)
        answer = torch.zeros(self.width, dtype=torch.float64)
        sums, ran = [], []
        for block in range(self.depth):
            if alive:
                for token, state in zip(
                    alive, self.block(block, torch.stack([states[t] for t in alive])), strict=True
                ):
                    states[token] = state
            if block == self.depth - 1:
                if 0 in alive:
                    answer = answer + (1 - total[0]) * states[0]
                break
            onward = []
            for token in alive:
                score = 1 / (1 + (center - scale * states[token][0]).exp())
                if float(total[token] + score) < 0.99:
                    onward.append(token)
                    share = score
                else:
                    share = 1 - total[token]
                if token == 0:
                    answer = answer + share * states[0]
                total[token] = total[token] + score
            alive = onward
            sums.append(torch.stack([torch.as_tensor(s, dtype=torch.float64) for s in total]))
            ran.append(torch.tensor([token in alive for token in range(len(states))]))
        return self.head(answer), torch.stack(sums), torch.stack(ran)

    def drop(
        self, image: Tensor, stages: tuple[int, ...], keep: float | list[int]
    ) -> tuple[Tensor, list[tuple[list[int], Tensor, list[int]]]]:
        """DynamicViT: ((K,) logits, [(patch tokens that a stage saw, log p(keep), kept ones)]).

        Args:
            image: (3, H, W), normalized.
            stages: blocks in front of which tokens are dropped.
            keep: a threshold of p(keep) below 1, or a list of how many are kept.
        """
        x = self.embed(image)
        there = list(range(len(x) - 1))
        seen = []
        for block in range(self.depth):
            if block in stages:
                stage = stages.index(block)
                logs = self._predict(stage, x[1:])
                if isinstance(keep, float):
                    chosen = [i for i in range(len(there)) if float(logs[i].exp()) > keep]
                else:
                    count = keep[stage]
                    ranked = sorted(range(len(there)), key=lambda i: (-float(logs[i]), i))
                    chosen = sorted(ranked[:count])
                seen.append((list(there), logs, [there[i] for i in chosen]))
                there = [there[i] for i in chosen]
                x = x[[0, *[i + 1 for i in chosen]]]
            x = self.block(block, x)
        return self.head(x[0]), seen

    def _predict(self, stage: int, patches: Tensor) -> Tensor:
        """(n,) log p(keep) of patch tokens (n, D)."""
        at = f"score_predictor.{stage}"
        inner = F.gelu(
            self._linear(f"{at}.in_conv.1", self._norm(f"{at}.in_conv.0", patches, eps=1e-5))
        )
        half = self.width // 2
        mean = inner[:, half:].sum(0) / len(inner)
        found = []
        for token in inner:
            hidden = torch.cat([token[:half], mean])[None]
            hidden = F.gelu(self._linear(f"{at}.out_conv.0", hidden))
            hidden = F.gelu(self._linear(f"{at}.out_conv.2", hidden))
            found.append(self._linear(f"{at}.out_conv.4", hidden).log_softmax(1)[0, 0])
        return torch.stack(found)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def _norm(self, name: str, x: Tensor, eps: float = 1e-6) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + eps).sqrt()
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]
