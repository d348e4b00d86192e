"""What a list of a source in the raw folder holds, line by line: rows, or what is wrong with them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from cbir.records import RawItem, RelativeCaption

T = TypeVar("T", bound=RawItem | RelativeCaption)


def read_list(path: Path, kind: type[T]) -> Iterator[tuple[int, bytes, T | str]]:
    """The number of each line that is not blank, the line, and its row, or what is wrong with it.

    It is wrong where it is no JSON, has another key than ``kind`` or a value of another type, or its file is not in the
    folder. A key that is left out has the default of ``kind``. Nulls among captions and labels are none, and numbers
    that JSON does not have are null: an older import may have left them.

    Raises:
        OSError: the list cannot be read.
    """
    adapter = TypeAdapter(kind)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line.removesuffix(b"\n"), _read_line(line, adapter)


def _read_line(line: bytes, adapter: TypeAdapter[T]) -> T | str:
    try:
        row = _parse_line(line, adapter)
    except ValidationError as error:
        return _explain(error)
    if isinstance(row, RawItem) and _leads_out(row.file_name):
        return f"{row.file_name} is not in the source's folder, where a copy of it must lie"
    return row


def _parse_line(line: bytes, adapter: TypeAdapter[T]) -> T:
    if b"NaN" in line or b"Infinity" in line:
        with suppress(ValueError):
            line = json.dumps(json.loads(line, parse_constant=lambda _: None)).encode()
    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        if not any(fault["input"] is None and len(fault["loc"]) > 1 for fault in error.errors()):
            raise
    listed = json.loads(line)
    told = {
        name: [one for one in value if one is not None] for name, value in listed.items() if isinstance(value, list)
    }
    return adapter.validate_json(json.dumps(listed | told))


def _leads_out(file_name: str) -> bool:
    return os.path.isabs(file_name) or ".." in file_name.split("/")  # by hand: a Path for each item takes long


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
