"""What a reviewer sees in Prefect's pages: what kept a release from going live first, and the figures."""

from __future__ import annotations

from cbir.gate_report import format_markdown
from flows.pages import list_rows


def rule(name: str, *, verdict: str, sentence: str) -> dict[str, object]:
    figures = {"observed": 0.5, "low": None, "high": None, "threshold": 0.6}
    return {"name": name, "verdict": verdict, "binding": True, "sentence": sentence, **figures}


def test_what_kept_a_release_back_stands_above_the_table_in_full() -> None:
    rules = [
        rule("validation", verdict="pass", sentence="48 rows hold"),
        rule("floor.map", verdict="fail", sentence="map is 0.500, at least 0.600 | mend"),
    ]
    document = {"release": "4", "champion": "3", "verdict": "fail", "at": "2026-01-02T03:04:05+00:00", "rules": rules}
    page = format_markdown(document, link=None)
    above, table = page.split("|---|")[0], page.split("|---|")[-1]
    assert "- floor.map: map is 0.500, at least 0.600 | mend" in above
    assert "validation" not in above
    assert "48 rows hold" in table
    assert "at least 0.600 \\| mend" in table
    assert "# refused: [release 4](http://x)" in format_markdown(document, link="http://x")


def test_figures_are_a_row_a_query_set_in_percent() -> None:
    words = {"map": 0.25, "hit@1": 0.125, "hit@10": 1.0, "queries": 8}
    metrics = {
        "counts": {"items": 48},
        "text_to_image": {"fused": words},
        "label": {"sum": {"map": 0.1, "queries": 9}, "fused_both": {"map": 0.5, "queries": 9}},
    }
    assert list_rows(metrics) == [
        {
            "query set": "text_to_image",
            "system": "fused",
            "queries": 8,
            "map": "25.0",
            "hit@1": "12.5",
            "hit@10": "100.0",
        },
        {"query set": "label", "system": "fused_both", "queries": 9, "map": "50.0"},
    ]
