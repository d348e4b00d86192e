"""Whether the ingested rows are what the expectations say; an error stops everything below."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from cbir.errors import CbirError, ValidationError, hint_at
from cbir.expectations import ROW, run_suite
from cbir.params import ValidateParams
from cbir.params.file import load_section
from cbir.records import read_items, read_quarantine, replace_folder, write_json

NAMED = 10
SEVERITIES = ("error", "warning")
ABOUT_COLUMNS = ("expect_column_to_exist", "expect_table_columns")


def validate(ingested: Path, suites: Path, out: Path, *, suite: str, report: Path) -> dict[str, Any]:
    """Run the expectations of ``suites/SUITE.json``; write ``validation.json`` and Data Docs into ``out``.

    Where the rows are refused, ``out`` stays as it was and the Data Docs are left in ``report`` instead.

    Raises:
        ValidationError: the suite is missing or malformed, or an expectation of severity error failed.
    """
    expectations = _read_suite(suites / f"{suite}.json")
    frame = describe_items(ingested)
    _check_columns(expectations, list(frame.columns), path=suites / f"{suite}.json")
    with replace_folder(out) as folder:
        results = [_summarise(r) for r in run_suite(frame, expectations, name=suite, docs=folder / "docs")]
        if len(results) != len(expectations):
            raise ValidationError(
                f"{suites / suite}.json: some expectations were not run; correct their type and kwargs."
            )
        shutil.rmtree(report, ignore_errors=True)
        failed = [r for r in results if not r["success"] and r["severity"] == "error"]
        if failed:
            report.parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / "docs", report)
            said = "\n".join(map(_explain, failed))
            raise ValidationError(f"The data is not valid:\n{said}\n  Data Docs: {report / 'index.html'}")
        document = {"suite": suite, "rows": len(frame), "success": True, "results": results}
        write_json(folder / "validation.json", document)
    return document


def describe_items(ingested: Path) -> pd.DataFrame:
    """What expectations are stated over: one row an item, no image bytes."""
    columns = ["id", "source", "captions", "labels", "sha256", "phash", "width", "height"]
    frame = read_items(ingested, columns=columns).to_pandas()
    bad = read_quarantine(ingested).num_rows
    captions, labels = frame.pop("captions"), frame.pop("labels")
    return frame.assign(
        caption_count=captions.map(len),
        caption_length=captions.map(lambda texts: max(map(len, texts), default=0)),
        label_count=labels.map(len),
        quarantined_share=bad / (bad + len(frame)),
    )


def _read_suite(path: Path) -> list[dict[str, Any]]:
    try:
        expectations = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValidationError(f"{path} is not there; validate.suite names a file under {path.parent}/.") from None
    except ValueError as error:
        raise ValidationError(f"{path} is not JSON in UTF-8: {error}") from None
    if not isinstance(expectations, list) or not expectations:
        raise ValidationError(f"{path} is not a list of expectations; see expectations/items.json.")
    for number, expectation in enumerate(expectations, start=1):
        whole = isinstance(expectation, dict) and isinstance(expectation.get("kwargs"), dict)
        if not whole or not isinstance(expectation.get("type"), str):
            raise ValidationError(f"{path}: expectation {number} lacks type or kwargs.")
        meta = expectation.get("meta", {})
        if not isinstance(meta, dict) or meta.get("severity", "error") not in SEVERITIES:
            raise ValidationError(f"{path}: expectation {number}: severity is one of {', '.join(SEVERITIES)}.")
    return expectations


def _check_columns(expectations: list[dict[str, Any]], known: list[str], *, path: Path) -> None:
    """Refuse an expectation on a column that is not there, unless it is about which there are."""
    for number, expectation in enumerate(expectations, start=1):
        kwargs = expectation["kwargs"]
        named = [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs]
        for column in [*named, *kwargs.get("column_list", [])]:
            if column not in known and not expectation["type"].startswith(ABOUT_COLUMNS):
                hint = hint_at(str(column), known)
                raise ValidationError(f"{path}: expectation {number}: there is no column {column}; {hint}")


def _summarise(result: Any) -> dict[str, Any]:
    config = result.expectation_config
    column = config.kwargs.get("column")
    rows = result.result.get("unexpected_index_list") or []
    if column == "quarantined_share":  # a figure of the whole table: no row is to blame
        rows = []
    return {
        "expectation": config.type,
        "kwargs": {key: value for key, value in config.kwargs.items() if key != "batch_id"},
        "severity": (config.meta or {}).get("severity", "error"),
        "remedy": (config.meta or {}).get("remedy", ""),
        "success": bool(result.success),
        "column": column,
        "failing": len(rows),
        "failing_ids": [str(row[ROW]) for row in rows[:NAMED]],
    }


def _explain(result: dict[str, Any]) -> str:
    kwargs = ", ".join(f"{key}={value}" for key, value in result["kwargs"].items())
    rows = f" ({result['failing']} rows: {', '.join(result['failing_ids'])})" if result["failing"] else ""
    return f"  {result['expectation']}({kwargs}) failed{rows}. To do: {result['remedy']}."


def main() -> None:
    """Run the stage: ``python -m cbir.validate INGESTED SUITES OUT REPORT``."""
    ingested, suites, out, report = map(Path, sys.argv[1:5])
    try:
        params = load_section(Path("params.yaml"), "validate", ValidateParams)
        document = validate(ingested, suites, out, suite=params.suite, report=report)
    except CbirError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for result in document["results"]:
        if not result["success"]:
            print(f"warning:\n{_explain(result)}", file=sys.stderr)
    print(f"{sum(r['success'] for r in document['results'])} of {len(document['results'])} expectations hold")


if __name__ == "__main__":
    main()
