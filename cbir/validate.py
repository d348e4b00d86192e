"""Whether the ingested rows are what the expectations say; an error stops everything below."""

from __future__ import annotations

import html
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig

from cbir.errors import CbirError, ValidationError
from cbir.params import ValidateParams, load_section
from cbir.records import read_items, read_table, write_json, write_text

NAMED = 10
SEVERITIES = ("error", "warning")


def validate(ingested: Path, suites: Path, out: Path, *, suite: str) -> dict[str, Any]:
    """Run the expectations of ``suites/SUITE.json`` and write ``validation.json`` and a page of the results.

    Raises:
        ValidationError: the suite is missing or malformed, or an expectation of severity error failed.
    """
    expectations = _read_suite(suites / f"{suite}.json")
    frame = describe_items(ingested)
    results = [_summarise(result, frame) for result in _run(frame, expectations, name=suite)]
    if len(results) != len(expectations):
        raise ValidationError(f"{suites / suite}.json: some expectations were not run; correct their type and kwargs.")
    failed = [r for r in results if not r["success"] and r["severity"] == "error"]
    if failed:
        raise ValidationError("The data is not valid:\n" + "\n".join(map(_explain, failed)))
    document = {"suite": suite, "rows": len(frame), "success": True, "results": results}
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_json(partial / "validation.json", document)
    write_text(partial / "docs" / "index.html", _render(document))
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)
    return document


def describe_items(ingested: Path) -> pd.DataFrame:
    """What expectations are stated over: one row an item, no image bytes."""
    columns = ["id", "source", "captions", "labels", "sha256", "phash", "width", "height"]
    frame = read_items(ingested, columns=columns).to_pandas()
    bad = read_table(ingested / "quarantine.parquet", made_by="ingest").num_rows
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
    except json.JSONDecodeError as error:
        raise ValidationError(f"{path} is not JSON: {error}") from None
    if not isinstance(expectations, list) or not expectations:
        raise ValidationError(f"{path} is not a list of expectations; see expectations/items.json.")
    for number, expectation in enumerate(expectations, start=1):
        if not isinstance(expectation, dict) or not {"type", "kwargs"} <= expectation.keys():
            raise ValidationError(f"{path}: expectation {number} lacks type or kwargs.")
        if expectation.get("meta", {}).get("severity", "error") not in SEVERITIES:
            raise ValidationError(f"{path}: expectation {number}: severity is one of {', '.join(SEVERITIES)}.")
    return expectations


def _run(frame: pd.DataFrame, expectations: list[dict[str, Any]], *, name: str) -> list[Any]:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    try:
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
    except ValueError as error:  # pydantic's, for kwargs that an expectation does not have
        raise ValidationError(f"{name}.json holds an expectation that is not valid: {error}") from None
    batch = (
        context.data_sources.add_pandas("items")
        .add_dataframe_asset("items")
        .add_batch_definition_whole_dataframe("all")
    )
    definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
    context.validation_definitions.add(definition)
    return definition.run(batch_parameters={"dataframe": frame}, result_format="COMPLETE").results


def _summarise(result: Any, frame: pd.DataFrame) -> dict[str, Any]:
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
        "failing_ids": [str(frame["id"].iloc[n]) for n in rows[:NAMED]],
    }


def _explain(result: dict[str, Any]) -> str:
    kwargs = ", ".join(f"{key}={value}" for key, value in result["kwargs"].items())
    rows = f" ({result['failing']} rows: {', '.join(result['failing_ids'])})" if result["failing"] else ""
    return f"  {result['expectation']}({kwargs}) failed{rows}. To do: {result['remedy']}."


def _render(document: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr class={'ok' if r['success'] else r['severity']}><td>{'✓' if r['success'] else '✗'}</td>"
        f"<td>{html.escape(r['expectation'])}</td><td>{html.escape(json.dumps(r['kwargs']))}</td>"
        f"<td>{r['failing']}</td><td>{html.escape(r['remedy'] if not r['success'] else '')}</td></tr>"
        for r in document["results"]
    )
    return (
        "<!doctype html><meta charset=utf-8><title>Validation</title><style>body{font:15px system-ui;margin:2rem}"
        "td,th{padding:.4rem .8rem;text-align:left;border-bottom:1px solid #ddd}.ok td:first-child{color:#188038}"
        ".error td:first-child{color:#c5221f}.warning td:first-child{color:#b06000}</style>"
        f"<h1>Validation of {document['rows']:,} items</h1><table><tr><th><th>expectation<th>arguments<th>failing rows"
        f"<th>to do</tr>{rows}</table>"
    )


def main() -> None:
    """Run the stage: ``python -m cbir.validate INGESTED SUITES OUT``."""
    ingested, suites, out = map(Path, sys.argv[1:4])
    try:
        params = load_section(Path("params.yaml"), "validate", ValidateParams)
        document = validate(ingested, suites, out, suite=params.suite)
    except CbirError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for result in document["results"]:
        if not result["success"]:
            print(f"warning:\n{_explain(result)}", file=sys.stderr)
    print(f"{sum(r['success'] for r in document['results'])} of {len(document['results'])} expectations hold")


if __name__ == "__main__":
    main()
