"""How Great Expectations runs a suite over a table, and what its Data Docs look like without a network."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.core import RunIdentifier
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.registry import list_registered_expectation_implementations
from great_expectations.render.view.view import DefaultJinjaPageView
from jinja2 import ChoiceLoader, FileSystemLoader

from cbir.errors import ValidationError, hint_at

ROW = "item"  # what names a row in the results
VIEWS = Path(__file__).parent / "datadocs"
# The pages are an output of a stage: the same rows give the same bytes, so no run has a time of its own.
RUN = RunIdentifier(run_name="validate", run_time=datetime(1970, 1, 1, tzinfo=UTC))


def run_suite(frame: pd.DataFrame, expectations: Sequence[dict[str, Any]], *, name: str, docs: Path) -> list[Any]:
    """Run ``expectations`` (type, kwargs, meta) over ``frame``, which has a column ``id``; write Data Docs to ``docs``.

    Returns Great Expectations' results, one for each expectation that it ran.

    Raises:
        ValidationError: there is no expectation of a type, or it has kwargs that its type does not know.
    """
    _check_types([e["type"] for e in expectations], name=name)
    context = _open_context(docs)
    try:
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=[_note(e) for e in expectations]))
    except ValueError as error:  # pydantic's, for kwargs that an expectation does not have
        raise ValidationError(f"{name}.json holds an expectation that is not valid: {error}") from None
    batch = (
        context.data_sources.add_pandas("cbir").add_dataframe_asset("items").add_batch_definition_whole_dataframe("all")
    )
    definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
    context.validation_definitions.add(definition)
    wanted = {"result_format": "COMPLETE", "unexpected_index_column_names": [ROW]}
    named = frame.assign(**{ROW: frame["id"]})  # beside id, so that expectations on id show its values too
    result = definition.run(batch_parameters={"dataframe": named}, result_format=wanted, run_id=RUN)
    context.build_data_docs()
    shutil.rmtree(docs / "static", ignore_errors=True)  # fonts and pictures that only the original pages use
    assert len(list(docs.rglob("*.html"))) == 3, "Great Expectations only logs a page that cannot be rendered"
    return result.results


def _check_types(types: Sequence[str], *, name: str) -> None:
    known = list_registered_expectation_implementations()
    for number, type_ in enumerate(types, start=1):
        if type_ not in known:
            hint = hint_at(str(type_), known, cutoff=0)
            raise ValidationError(
                f"{name}.json: expectation {number}: there is no {type_} in Great Expectations; {hint}"
            )


def _open_context(docs: Path) -> Any:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    for name in list(context.variables.data_docs_sites or {}):
        context.delete_data_docs_site(name)
    view = {"module_name": "cbir.expectations", "class_name": "OfflinePage"}
    section = {"class_name": "DefaultSiteSectionBuilder", "view": view}
    config: Any = {
        "class_name": "SiteBuilder",
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder", "view": view},
        "site_section_builders": {"expectations": section, "validations": section, "profiling": "None"},
    }
    context.add_data_docs_site(site_name="items", site_config=config)
    return context


def _note(expectation: dict[str, Any]) -> dict[str, Any]:
    """The remedy as a note, which Data Docs show beside the expectation."""
    meta = expectation.get("meta", {})
    note = f"{meta.get('severity', 'error')}: {meta.get('remedy', 'no remedy is given')}"
    return expectation | {"notes": note}


class OfflinePage(DefaultJinjaPageView):
    """A page of Data Docs whose templates are those in ``datadocs/`` first, then Great Expectations' own."""

    def __init__(self, **directories: Any) -> None:
        super().__init__(**directories)
        assert self.env.loader is not None
        self.env.loader = ChoiceLoader([FileSystemLoader(VIEWS), self.env.loader])
