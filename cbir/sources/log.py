"""What an import has to tell beside what it imported."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ImportLog:
    """Lines that are added to while a source is read.

    ``skipped``: pictures, relative captions and lines that were left out, one a line, each with the reason.
    ``remarks``: what was understood otherwise than it may have been meant, or not looked at; they count nothing.
    """

    skipped: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
