"""What the demo shows at its end: figures, three queries, a page with pictures."""

from __future__ import annotations

from pathlib import Path

from cbir.evaluation_page.galleries import show_asking
from cbir.printing import align_columns
from cbir.records import read_json, read_jsonl
from cbir.report import render_gallery, render_table, write_page
from cbir.search import Searcher

TASKS = {
    "label, image only": ("label", "image_only"),
    "label, text only": ("label", "text_only"),
    "label, plain sum of the frozen towers": ("label", "sum"),
    "label, fused image + text": ("label", "fused_both"),
    "text to image, fused": ("text_to_image", "fused"),
    "relative captions, against pictures": ("relative", "fused_both"),
    "relative captions, as the index is searched": ("relative_indexed", "fused_both"),
}
HEADER = ("test items", "mAP", "hit@1", "hit@10")
METRICS = ("map", "hit@1", "hit@10")
PERSON = "openmoji/1F469-200D-1F680"


def show_release(workspace: Path) -> str:
    """Ask the live release three queries, write ``reports/demo.html``, return what to print."""
    rows = read_table_rows(workspace / "metrics.json")
    searcher = Searcher.open(workspace)
    picture = _find_picture(workspace, PERSON)
    queries = [("a smiling cat", None), ("a red fruit", None), ("dark skin tone", picture)]
    sections = [render_table(HEADER, rows)]
    lines = align_columns(HEADER, rows)
    for text, image in queries:
        hits = searcher.query(text=text, image=image, k=8)
        title = text if image is None else f"picture of a woman astronaut + {text}"
        asks = [] if image is None else [show_asking(image)]
        sections.append(render_gallery(title, [*asks, *hits]))
        lines += ["", f"> {title}", *(f"  {hit.score:.3f}  {hit.caption}" for hit in hits[:5])]
    path = workspace / "reports" / "demo.html"
    write_page(path, title="cbir-ops demo", sections=sections)
    return "\n".join([*lines, "", f"Pictures: {path}"])


def read_table_rows(metrics: Path) -> list[list[str]]:
    """The figures of the evaluation that a person compares."""
    document = read_json(metrics)
    found = [(name, document.get(task, {}).get(system)) for name, (task, system) in TASKS.items()]
    return [[name, *(f"{100 * row[key]:.1f}" if key in row else "-" for key in METRICS)] for name, row in found if row]


def _find_picture(workspace: Path, id_: str) -> Path:
    folder = workspace / "data" / "raw" / "openmoji"
    row = next(row for row in read_jsonl(folder / "items.jsonl") if row["id"] == id_)
    return folder / row["file_name"]
