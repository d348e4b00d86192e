"""What a user gets wrong: one clear message, and nothing is lost."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from cbir.errors import ImageError, ParamsError, SourceError
from cbir.images import decode_image, load_query_image
from cbir.ingest import ingest
from cbir.params import IngestParams, TrainParams
from cbir.params.file import load_section
from cbir.sources import import_source

ROOT = Path(__file__).parent.parent


def png(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (png()[:60], "cannot be decoded"),
        (b"just some text", "not an image"),
        (png(size=(400, 400)), "more than 10,000"),
    ],
    ids=["zero bytes", "truncated", "text called .jpg", "decompression bomb"],
)
def test_an_unusable_image_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(data, max_pixels=10_000)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert decode_image(png(mode)).mode == "RGB"


def test_cmyk_and_exif_orientation_are_handled() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("CMYK", (40, 30)).save(buffer, "JPEG", exif=exif)
    image = decode_image(buffer.getvalue())
    assert (image.mode, image.size) == ("RGB", (30, 40))


def test_transparency_lies_on_the_background() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(buffer, "PNG")
    assert decode_image(buffer.getvalue(), background="white").getpixel((0, 0)) == (255, 255, 255)


def test_a_missing_and_an_empty_source_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in ("nowhere", "empty"):
        with pytest.raises(SourceError):
            import_source(str(tmp_path / source), name=None, raw=tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_rows_without_a_picture_are_counted(catalogue: Path, tmp_path: Path) -> None:
    (catalogue / "00.png").unlink()
    report = import_source(str(catalogue), name=None, raw=tmp_path / "raw")
    assert report.added == 47
    assert report.skipped == ["00.png: named in metadata.jsonl, but not in the folder"]


def test_importing_again_adds_nothing(catalogue: Path, tmp_path: Path) -> None:
    import_source(str(catalogue), name=None, raw=tmp_path / "raw")
    report = import_source(str(catalogue), name=None, raw=tmp_path / "raw")
    assert (report.added, report.unchanged) == (0, 48)


def test_duplicate_ids_are_refused(catalogue: Path, tmp_path: Path) -> None:
    row = json.dumps({"file_name": "00.png", "id": "x"})
    (catalogue / "metadata.jsonl").write_text(f"{row}\n{row}\n")
    with pytest.raises(SourceError, match="twice"):
        import_source(str(catalogue), name=None, raw=tmp_path / "raw")


def test_a_caption_file_in_another_encoding_names_the_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "side"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    (folder / "a.txt").write_bytes("ein Bär".encode("latin-1"))
    with pytest.raises(SourceError, match="iconv"):
        import_source(str(folder), name=None, raw=tmp_path / "raw")


def test_what_cannot_be_used_goes_to_quarantine_with_its_reason(catalogue: Path, tmp_path: Path) -> None:
    (catalogue / "00.png").write_bytes(b"")
    (catalogue / "01.png").write_bytes(b"no picture")
    import_source(str(catalogue), name=None, raw=tmp_path / "raw")
    counts = ingest(tmp_path / "raw", tmp_path / "out", params=IngestParams())
    assert counts == {"items": 46, "quarantined": 2, "relative": 0}
    reasons = pq.read_table(tmp_path / "out" / "quarantine.parquet")["reason"].to_pylist()
    assert reasons == ["the file is empty", "the file is not an image"]


def test_a_query_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not a file"):
        load_query_image(tmp_path / "no.png")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that gives an error when it is read")
def test_a_query_image_that_the_system_does_not_give_is_named() -> None:
    with pytest.raises(ImageError, match=r"/proc/self/mem cannot be read \(.+\); give a picture that you may read"):
        load_query_image(Path("/proc/self/mem"))


def test_an_unknown_parameter_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {epoch: 3}")
    with pytest.raises(ParamsError, match="did you mean epochs"):
        load_section(tmp_path / "params.yaml", "train", TrainParams)


def test_a_query_before_any_release_says_what_to_run(tmp_path: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from cbir.cli import main; main()", "query", "a cat"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: No release is live")
    assert "Traceback" not in done.stderr


def test_what_was_imported_is_no_source_to_import(catalogue: Path, tmp_path: Path) -> None:
    raw = tmp_path / "data/raw"
    import_source(str(catalogue), name="mine", raw=raw)
    for source in (raw, raw / "mine/images"):
        with pytest.raises(SourceError, match="is where imported pictures lie; give the folder that they came from"):
            import_source(str(source), name="again", raw=raw)


@pytest.mark.parametrize(
    ("line", "said"), [("{nope}", "line 3: no JSON"), ('{"caption": "x"}', "line 3: no file_name")]
)
def test_a_mistake_in_metadata_is_told_with_its_place(catalogue: Path, tmp_path: Path, line: str, said: str) -> None:
    first = (catalogue / "metadata.jsonl").read_text().splitlines()[0]
    (catalogue / "metadata.jsonl").write_text(f"{first}\n\n{line}\n")
    with pytest.raises(SourceError, match=rf"metadata\.jsonl, {said}"):
        import_source(str(catalogue), name=None, raw=tmp_path / "raw")
