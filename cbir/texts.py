"""How a caption is made ready for the text tower, the original being kept beside it; what is text, and one line."""

from __future__ import annotations

import html
import re
import unicodedata

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\ufeff]+")
_SPACE = re.compile(r"\s+")


def clean_caption(text: str) -> str:
    """Normalise to NFKC, unescape HTML entities, drop control characters, join white space."""
    return flatten_line(unicodedata.normalize("NFKC", html.unescape(text)))


def flatten_line(text: str) -> str:
    """One line: line breaks, and control characters, which would steer a terminal, are spaces."""
    return _SPACE.sub(" ", _CONTROL.sub(" ", text)).strip()


def is_unicode(text: str) -> bool:
    """Half a pair of surrogates, as of bytes that are not UTF-8, can be in a text, but not in a file of text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
