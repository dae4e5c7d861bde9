"""Links that come from strangers: an allow-list of schemes."""

from __future__ import annotations

import unicodedata
from urllib.parse import urlsplit

SCHEMES = frozenset({"http", "https", "mailto"})
"""The only schemes that a link from data may have."""

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"})
"""Categories of characters that are not seen, or that reorder what is read."""


def safe_link(url: str) -> str | None:
    """The link itself if its scheme is allowed and it names a place, else None (show it as text
    then).

    Examples:
        >>> safe_link("https://example.org/paper")
        'https://example.org/paper'
        >>> safe_link("javascript:alert(1)") is None
        True
    """
    if any(c == "\\" or unicodedata.category(c) in _HIDDEN for c in url):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme.lower() not in SCHEMES:
        return None
    return url if parts.netloc or parts.scheme.lower() == "mailto" else None
