"""Templates into pages: an engine that escapes everything, the policy of a page, its assets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.terminal import counted
from reports.html.cache import RenderCache
from reports.html.encode import clean, json_block
from reports.html.site import File

POLICY = (
    "default-src 'none'; img-src 'self' file: data:; style-src 'self' file:; "
    "script-src 'self' file:; base-uri 'none'; form-action 'none'"
)
"""Scripts and styles come from beside the page only. `file:` says the same as 'self' to browsers
that give pages from disk no origin.
"""

_ASSETS = ("style.css", "icon.svg", "early.js", "page.js", "board.js", "draw.js", "gates.js")


def assets() -> Iterator[File]:
    """What every page needs beside it."""
    template_folder = files("reports.html").joinpath("templates")
    for asset in _ASSETS:
        yield f"assets/{asset}", template_folder.joinpath(asset).read_bytes()


def vega_bundle(cache: RenderCache) -> bytes:
    """Vega, Vega-Lite, Vega-Embed and its expression interpreter in one script.

    It needs no eval and no network. Making it takes two seconds, hence the cache.
    """
    made = cache.files(["vega", version("vl-convert-python")], lambda: [("vega.js", _bundle())])
    return made[0][1]


@lru_cache(maxsize=1)
def _bundle() -> bytes:
    import vl_convert

    return vl_convert.javascript_bundle(snippet="window.vegaEmbed = vegaEmbed;").encode("utf-8")


def _finish(value: Any) -> Any:
    """Every value on its way into a page: strings cleaned, a forgotten None refused."""
    if value is None:
        raise TypeError("a template printed a value that is not there")
    if isinstance(value, str) and not isinstance(value, Markup):
        return clean(value)
    return value


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The template engine: everything escaped, nothing undefined, no way to declare data safe but
    the JSON encoder.
    """
    engine = Environment(
        loader=PackageLoader("reports.html", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finish,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    del engine.filters["safe"], engine.filters["tojson"]
    engine.filters["counted"] = counted
    engine.globals["json_block"] = json_block
    engine.globals["policy"] = POLICY
    return engine


def page(template: str, **context: Any) -> bytes:
    return environment().get_template(template).render(context).encode("utf-8")
