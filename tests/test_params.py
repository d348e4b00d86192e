"""A wrong params.yaml is refused with one message that says what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cbir.errors import ParamsError
from cbir.params import SECTIONS, IngestParams, ReleaseParams, SplitParams, TrainParams, TuneParams
from cbir.params.file import load_section

ROOT = Path(__file__).parent.parent


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_every_section_of_our_own_file_loads(name: str) -> None:
    assert isinstance(load_section(ROOT / "params.yaml", name, SECTIONS[name]), SECTIONS[name])


def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    path = write(tmp_path, "split: {phash_distanse: 3}")
    with pytest.raises(ParamsError, match=r"split\.phash_distanse: unknown key; did you mean phash_distance\?"):
        load_section(path, "split", SplitParams)


def test_an_unknown_key_near_to_none_lists_the_known_ones(tmp_path: Path) -> None:
    path = write(tmp_path, "split: {zzz: 3}")
    with pytest.raises(ParamsError, match="there are: validation, test, phash_distance, seed"):
        load_section(path, "split", SplitParams)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("loss: triplet_hard", "loss: .*'info_nce'.*; did you mean triplet_hardest"),
        ("similarity: cosin", "similarity: .*; did you mean cosine"),
        ("late: {garbor: 0.1}", r"late\.garbor: .*; did you mean gabor"),
    ],
)
def test_an_unknown_value_names_the_nearest_known_one(tmp_path: Path, text: str, meant: str) -> None:
    with pytest.raises(ParamsError, match=rf"params\.yaml: train\.{meant}\?"):
        load_section(write(tmp_path, f"train: {{{text}}}"), "train", TrainParams)


@pytest.mark.parametrize("text", ["split: {test: 0}", "split: {test: 1.0}", "split: {test: many}"])
def test_an_impossible_value_names_its_key(tmp_path: Path, text: str) -> None:
    with pytest.raises(ParamsError, match=r"params\.yaml: split\.test: "):
        load_section(write(tmp_path, text), "split", SplitParams)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("evaluate", "k: []"),
        ("evaluate", "k: [0, 10]"),
        ("finetune", "devices: 0"),
        ("release", "name: a/b"),
        ("release", "name: 'a:b'"),
        ("release", "name: bob's"),
        ("release", "name: ''"),
        (
            "release",
            "name: ..",
        ),
        *((name, "seed: -1") for name in ("split", "finetune", "train", "evaluate", "gate", "tune")),
    ],
)
def test_a_value_that_would_fail_only_after_the_training_is_refused_before(
    tmp_path: Path, name: str, text: str
) -> None:
    key = text.partition(":")[0]
    with pytest.raises(ParamsError, match=rf"params\.yaml: {name}\.{key}"):
        load_section(write(tmp_path, f"{name}: {{{text}}}"), name, SECTIONS[name])


@pytest.mark.parametrize("name", ["cbir", "my shop", "shop-2.photos_new", "x"])
def test_a_release_may_be_called_as_people_call_things(tmp_path: Path, name: str) -> None:
    assert load_section(write(tmp_path, f"release: {{name: {name}}}"), "release", ReleaseParams).name == name


@pytest.mark.parametrize(
    ("key", "said"), [("lwo", r"did you mean low\?"), ("zzz", "there are: low, high, log, choices")]
)
def test_an_unknown_key_further_below_names_those_of_its_place(tmp_path: Path, key: str, said: str) -> None:
    path = write(tmp_path, f"tune: {{search: {{train.dropout: {{{key}: 0.1}}}}}}")
    with pytest.raises(ParamsError, match=rf"tune\.search\.train\.dropout\.{key}: unknown key; {said}"):
        load_section(path, "tune", TuneParams)


def test_every_fault_of_a_section_is_named_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "split: {test: 2, sed: 1}")
    with pytest.raises(ParamsError, match=r"(?s)(?=.*split\.test)(?=.*did you mean seed)"):
        load_section(path, "split", SplitParams)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ingest: {\n", r"line 2, column 1: expected the node content.*close every bracket"),
        (
            "split:\n  test: 0.2\ngate: {}\nsplit: {}\n",
            r"line 4, column 1: found duplicate key \"split\".*a key once",
        ),
        ("split:\n  test: 0.2\n  test: 0.3\n", r"line 3, column 3: found duplicate key \"test\""),
        ("split:\n\ttest: 0.2\n", r"line 2, column 1: found character '\\t'.*indent with spaces"),
        ("- split\n", r"must be a mapping of sections to their keys"),
        ("just words", r"must be a mapping of sections to their keys"),
        ("\x00", "no text in UTF-8"),
        (b"\xff\xfe", "no text in UTF-8"),
    ],
)
def test_a_file_that_holds_no_sections_is_named_with_the_place_of_the_fault(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    (tmp_path / "params.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParamsError, match=rf"params\.yaml.*{said}"):
        load_section(tmp_path / "params.yaml", "split", SplitParams)


@pytest.mark.parametrize("value", ["3", "0", "false", "[a]", "word"])
def test_a_section_that_is_no_mapping_is_told_so(tmp_path: Path, value: str) -> None:
    with pytest.raises(ParamsError, match=r"^params\.yaml: release: must be a mapping of keys to values$"):
        load_section(write(tmp_path, f"release: {value}"), "release", ReleaseParams)
    with pytest.raises(ParamsError, match=r"^params\.yaml: tune\.search\.x: must be a mapping of keys to values$"):
        load_section(write(tmp_path, f"tune: {{search: {{x: {value}}}}}"), "tune", TuneParams)


@pytest.mark.parametrize(
    ("colour", "said"),
    [
        ("whit", r"whit is no colour; did you mean white"),
        ("LihgtGreen", "did you mean .*lightgreen"),
        ("'#12'", "write a name such as white, or #rrggbb"),
    ],
)
def test_a_background_that_is_no_colour_is_told_with_the_nearest(tmp_path: Path, colour: str, said: str) -> None:
    with pytest.raises(ParamsError, match=rf"params\.yaml: ingest\.background: .*{said}"):
        load_section(write(tmp_path, f"ingest: {{background: {colour}}}"), "ingest", IngestParams)


@pytest.mark.parametrize("colour", ["white", "DarkGreen", "#fff", "#12ab34", "rgb(1, 2, 3)"])
def test_every_colour_of_pillow_may_be_the_background(colour: str) -> None:
    assert IngestParams(background=colour).background == colour


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"run inside the folder that holds dvc\.yaml"):
        load_section(tmp_path / "params.yaml", "split", SplitParams)


@pytest.mark.parametrize("text", ["", "split:", "train: {epochs: 1}"])
def test_an_absent_section_means_its_defaults(tmp_path: Path, text: str) -> None:
    assert load_section(write(tmp_path, text), "split", SplitParams) == SplitParams()


@pytest.mark.parametrize(("name", "meant"), [("trian", "train"), ("notfy", "notify"), ("realease", "release")])
def test_a_misspelt_section_names_the_one_that_was_meant(tmp_path: Path, name: str, meant: str) -> None:
    path = write(tmp_path, f"{name}: {{}}")
    with pytest.raises(ParamsError, match=f"{name}: unknown section; did you mean {meant}"):
        load_section(path, "split", SplitParams)


def test_a_section_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "shop: {currency: EUR}\nsplit: {test: 0.3}")
    assert load_section(path, "split", SplitParams).test == 0.3


def test_every_section_of_our_own_file_is_known() -> None:
    assert set(yaml.safe_load((ROOT / "params.yaml").read_text())) == set(SECTIONS)
