"""A folder to work in is one's own and goes at the end; what a killed process left goes with the next."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cbir.scratch import SCRATCH, make_scratch

DIE = """
import os, sys
from pathlib import Path
from cbir.scratch import make_scratch
with make_scratch(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("done")
    os._exit(9)
"""


def test_two_at_once_have_folders_of_their_own_and_both_go(tmp_path: Path) -> None:
    with make_scratch(tmp_path) as one:
        (one / "file").touch()
        with make_scratch(tmp_path) as other:
            assert one != other
            assert list(other.iterdir()) == []
        assert (one / "file").exists()
        assert not other.exists()
    assert list((tmp_path / SCRATCH).iterdir()) == []


def test_after_a_fault_it_is_gone_as_well(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), make_scratch(tmp_path):
        raise ValueError("broken")
    assert list((tmp_path / SCRATCH).iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DIE, str(tmp_path)])
    assert done.returncode == 9
    assert len(list((tmp_path / SCRATCH).iterdir())) == 2
    with make_scratch(tmp_path) as folder:
        assert {path.stem for path in (tmp_path / SCRATCH).iterdir()} == {folder.name}
