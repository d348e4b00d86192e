"""Every process of a workspace finds the same index, from whichever folder it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cbir.workspace import find_workspace, locate_index


@pytest.mark.parametrize(
    ("uri", "where"),
    [
        (None, "{0}/lancedb"),
        ("", "{0}/lancedb"),
        ("index", "{0}/index"),
        ("../shared/index", "{0}/../shared/index"),
        ("/mnt/index", "/mnt/index"),
        ("s3://bucket/catalogue/index", "s3://bucket/catalogue/index"),
    ],
)
def test_a_relative_index_lies_in_the_workspace_and_an_address_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None, where: str
) -> None:
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "notes").mkdir()
    if uri is None:
        monkeypatch.delenv("CBIR_INDEX_URI", raising=False)
    else:
        monkeypatch.setenv("CBIR_INDEX_URI", uri)
    for folder in (tmp_path, tmp_path / "notes"):
        monkeypatch.chdir(folder)
        assert locate_index(find_workspace()) == where.format(tmp_path)
