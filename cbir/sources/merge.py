"""How what a source gives joins what was imported under its name before."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cbir.errors import SourceError
from cbir.progress import follow
from cbir.raw_lists import read_list
from cbir.records import RAW_ITEMS, RAW_RELATIVE, RawItem, RelativeCaption, write_jsonl
from cbir.rows import name_column
from cbir.sources.files import shorten
from cbir.sources.log import ImportLog
from cbir.sources.pictures import IMAGES, delete_unnamed
from cbir.texts import clean_caption, is_unicode

BUILT_IN = "openmoji"  # of which nobody took a picture out
TAKE_AWAY = "`cbir-ops data remove {} IDS` takes them away"
FILE = "file"  # attribute: what a picture's file is called in the source
NESTED = "lists or objects"
TAKEN = "not imported, for the file's name is called so; rename the column"
INFINITE = "which JSON has no number for; null from now on"
HIDDEN = "comes with a hit, but cannot be searched by: the name is one of the table's own"
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import did: items and relative captions added, items already there, and what its log says.

    ``changed``: items that were there with another picture or other words. ``restored``: pictures that were lost or
    damaged since an earlier import, and are whole again. ``deleted``: files that no item has any more.
    """

    name: str
    added: int
    changed: int
    unchanged: int
    skipped: list[str]
    remarks: list[str]
    relative: int = 0
    restored: int = 0
    deleted: int = 0

    @property
    def summary(self) -> str:
        """One line of counts."""
        changed = f", {self.changed} changed" if self.changed else ""
        counts = f"{self.name}: {self.added} added{changed}, {self.unchanged} unchanged, {len(self.skipped)} left out"
        counts += f"; {self.relative} relative captions added" if self.relative else ""
        counts += f"; {self.restored} lost or damaged pictures put back" if self.restored else ""
        return counts + (f"; {self.deleted} files deleted that no item has" if self.deleted else "")


def merge_source(
    found: Iterable[tuple[RawItem, bytes]],
    relative: Iterable[RelativeCaption],
    *,
    name: str,
    folder: Path,
    log: ImportLog,
) -> ImportReport:
    """Add items, their files and relative captions to what lies in ``folder``; no item that is there goes.

    A malformed line of an earlier import is dropped and named in ``log``, and so is text that is no Unicode. Files that
    no item has are deleted, but for those of a line that was dropped now: whoever mends it finds them.

    Raises:
        SourceError: there is no item, before or now; or the source is malformed.
    """
    told = len(log.skipped)
    rows = {row["id"]: row for row in _read_earlier(folder / RAW_ITEMS, RawItem, log=log)}
    whole = len(log.skipped) == told
    pairs = {_key(row): row for row in _read_earlier(folder / RAW_RELATIVE, RelativeCaption, log=log)}
    pairs_before = len(pairs)
    count = _add_items(rows, found, name=name, folder=folder, log=log)
    if not rows:
        first = "".join(f"; the first: {text}" for text in [*log.skipped, *log.remarks][:1])
        raise SourceError(f"There is no picture that can be imported{first}; see the layouts in docs/data.md.")
    write_jsonl(folder / RAW_ITEMS, (rows[key] for key in sorted(rows)))
    _add_relative(pairs, relative, name=name, known=rows.keys(), log=log)
    if pairs or (folder / RAW_RELATIVE).exists():
        write_jsonl(folder / RAW_RELATIVE, pairs.values())
    deleted = delete_unnamed(folder, named=(row["file_name"] for row in rows.values())) if whole else 0
    return ImportReport(
        name=name,
        added=count["added"],
        changed=count["changed"],
        unchanged=len(rows) - count["added"] - count["changed"],
        skipped=_make_printable(log.skipped),
        remarks=_make_printable(log.remarks),
        relative=len(pairs) - pairs_before,
        restored=count["restored"],
        deleted=deleted,
    )


def _read_earlier(path: Path, kind: type[RawItem | RelativeCaption], *, log: ImportLog) -> list[Row]:
    """Rows of an earlier import, without those that ``ingest`` would refuse."""
    rows = []
    for number, _, row in read_list(path, kind) if path.exists() else ():
        if isinstance(row, str):
            log.skipped.append(f"line {number} of the {path.name} that was there: malformed, and dropped: {row}")
        else:
            rows.append(vars(row))
    return rows


def _make_printable(lines: Iterable[str]) -> list[str]:
    """Names of files need not be Unicode."""
    return [text.encode("utf-8", "backslashreplace").decode() for text in lines]


def _key(row: Row) -> tuple[str, str, str]:
    return row["reference_id"], row["caption"], row["target_id"]


def _add_items(
    rows: dict[str, Row], found: Iterable[tuple[RawItem, bytes]], *, name: str, folder: Path, log: ImportLog
) -> Counter[str]:
    """How many rows were added or changed, and of how many others the file had to be written again: restored."""
    count: Counter[str] = Counter()
    absent = dict.fromkeys(rows)
    hidden: dict[str, None] = {}
    infinite: dict[str, list[str]] = {}
    for item, data in follow(found, description=f"import {name}"):
        if not _is_unicode(item):
            log.skipped.append(f"{item.file_name}: its name, its words or an attribute is no valid Unicode")
            continue
        hidden |= dict.fromkeys(key for key in item.attributes if name_column(key) is None)
        if FILE in item.attributes:
            hidden[FILE] = None
        for key in _find_infinite(item.attributes):
            infinite.setdefault(key, []).append(item.file_name)
        row = asdict(_describe(item, data, name=name))
        wrote = _place(data, folder / row["file_name"])
        before = rows.get(row["id"])
        was, now = (one["attributes"].get(FILE) for one in (before or row, row))
        if was and was != now:
            log.remarks.append(
                f"{row['id']}: was {was} and is {now} from now on; name items by an id in metadata to keep them"
            )
        if before != row:
            count["changed" if before else "added"] += 1
        elif wrote:
            count["restored"] += 1
        rows[row["id"]] = row
        absent.pop(row["id"], None)
    if absent and name != BUILT_IN:
        ids = shorten([id_.removeprefix(f"{name}/") for id_ in absent])
        log.remarks.append(f"{len(absent)} items are not in the source, and kept: {ids}; {TAKE_AWAY.format(name)}")
    log.remarks.extend(_name_mixed(rows.values()))
    log.remarks.extend(f"attribute {key!r}: infinite in {_count(files)}, {INFINITE}" for key, files in infinite.items())
    log.remarks.extend(f"attribute {key!r}: {TAKEN if key == FILE else HIDDEN}" for key in hidden)
    return count


def _name_mixed(rows: Iterable[Row]) -> Iterator[str]:
    """Attributes with values of several types, and where the rarest of these is; and those with lists or objects."""
    kinds: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for key, value in row["attributes"].items():
            if value is not None:
                files = kinds.setdefault(key, {}).setdefault(_name_kind(value), [])
                files.append(str(row["attributes"].get(FILE, row["id"])))
    for key, found in kinds.items():
        if len(found) > 1:
            rare = min(found, key=lambda kind: len(found[kind]))
            others = " and ".join(f"{kind} in {len(files)}" for kind, files in found.items() if kind != rare)
            place = f"{rare} in {_count(found[rare])}"
            yield f"attribute {key!r}: {place}, {others}; of several types, it cannot be searched by"
        elif NESTED in found:
            yield f"attribute {key!r}: {NESTED} in {len(found[NESTED])} ({found[NESTED][0]}); it cannot be searched by"


def _find_infinite(attributes: Row) -> list[str]:
    return [key for key, value in attributes.items() if isinstance(value, float) and math.isinf(value)]


def _count(files: list[str]) -> str:
    return f"{len(files)} ({files[0]}{', ...' if len(files) > 1 else ''})"


def _name_kind(value: Any) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "numbers"
        case str():
            return "text"
    return NESTED


def _is_unicode(value: RawItem | RelativeCaption) -> bool:
    return is_unicode(json.dumps(asdict(value), ensure_ascii=False, default=str))


def _describe(item: RawItem, data: bytes, *, name: str) -> RawItem:
    """The item as it lies in the raw folder: its file named by a hash of its bytes, its attributes what JSON has.

    Captions and labels are those that ``ingest`` takes: none that is blank, and each once.
    """
    digest = hashlib.sha256(data).hexdigest()[:24]
    return replace(
        item,
        id=f"{name}/{item.id}",
        captions=[text for text in _strip(item.captions) if clean_caption(text)],
        labels=_strip(item.labels),
        group=f"{name}/{item.group}" if item.group else None,
        file_name=f"{IMAGES}/{digest[:2]}/{digest}{Path(item.file_name).suffix.lower()}",
        attributes=json.loads(
            json.dumps(item.attributes | {FILE: item.file_name}, default=str), parse_constant=lambda _: None
        ),
    )


def _strip(texts: Iterable[str]) -> list[str]:
    """What is not blank, each once, in order."""
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _place(data: bytes, target: Path) -> bool:
    """Make ``target`` hold ``data``, and say whether it did not; a damaged file is replaced, not written through."""
    if target.exists() and target.stat().st_size == len(data) and target.read_bytes() == data:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # it may be a hard link to what is there now
    target.write_bytes(data)
    return True


def _add_relative(
    pairs: dict[tuple[str, str, str], Row],
    relative: Iterable[RelativeCaption],
    *,
    name: str,
    known: Iterable[str],
    log: ImportLog,
) -> None:
    """Those with both ends imported, now or before."""
    ids = set(known)
    for pair in relative:
        row = asdict(replace(pair, reference_id=f"{name}/{pair.reference_id}", target_id=f"{name}/{pair.target_id}"))
        if not ids.issuperset((row["reference_id"], row["target_id"])):
            continue
        if row["reference_id"] == row["target_id"]:
            log.skipped.append(f"relative caption of {pair.reference_id}: it leads to the same picture")
        elif _is_unicode(pair):
            pairs.setdefault(_key(row), row)
        else:
            log.skipped.append(f"relative caption of {pair.reference_id}: no valid Unicode")
