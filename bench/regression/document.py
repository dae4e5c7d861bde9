"""The schema of a baseline's file: what is read of it has the types that it was written with."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.contracts.cell import Precision

Count = Annotated[int, Field(ge=0, lt=2**53)]
"""A number of MACs or images; exact as a float, too."""
Bits = Annotated[str, Field(pattern="^[01]*$")]
"""One character an image."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Component(_Strict):
    name: str
    params: dict[str, Any]
    version: int
    weights: str = ""


class _Inputs(_Strict):
    target: _Component
    defense: _Component | None
    attack: _Component


class _Protocol(_Strict):
    dataset: str
    subset: str
    images: Count
    batch: Count
    budget: Count
    seed: int
    audit: Count
    threat: str | dict[str, Any]
    precision: Precision | None = None


class _Clean(_Strict):
    clean_macs: list[Count]
    clean_correct: Bits


class _Cell(_Strict):
    target: str
    defense: str
    attack: str
    key: str = ""
    control: bool
    reference: Annotated[int, Field(gt=0, lt=2**53)]
    floor: Count = 0
    ceiling: Count
    inputs: _Inputs
    adversarial_macs: list[Count]
    adversarial_correct: Bits


class _Part(_Strict):
    protocol: _Protocol
    ids: list[str]
    clean: dict[str, _Clean]
    cells: list[_Cell]

    @model_validator(mode="after")
    def _each_image_once(self) -> _Part:
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("an image is there twice")
        return self


class _Environment(_Strict):
    device: str | None = None
    threads: int | None = None
    gatebench: str | None = None
    versions: dict[str, str] | None = None


class _Timing(_Strict):
    target: str
    defense: str
    median_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Latency(_Strict):
    machine: dict[str, Any] | None = None
    entries: list[_Timing] = []


class _Document(_Strict):
    gatebench: str
    plan: str
    environment: _Environment
    latency: _Latency
    boards: list[_Part]


def check_document(document: object) -> None:
    """Hold a baseline's document against its schema.

    Raises:
        ValueError: something in it has another type, or is missing; the message names the place.
    """
    try:
        _Document.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        raise ValueError(f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error
