"""What `cbir-ops retrain` says, repeats, repairs and pushes; and how it waits for DVC."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import lancedb
import pytest
import yaml
from conftest import cbir
from mlflow.tracking import MlflowClient
from prefect import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from small_releases import forget_history

from cbir.errors import StageError
from cbir.registry import Registry
from cbir.workspace import locate_index
from flows.stages import STAGES, run_dvc, select_stages
from flows.standing import find_current


def read_states(url: str, workspace: Path) -> list[tuple[str, str]]:
    """Type and message of the last run of the flow in ``workspace``, then of its tasks that did not complete."""
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        runs = [run for run in client.read_flow_runs() if run.parameters == {"workspace": str(workspace)}]
        run = max(runs, key=lambda run: run.created)
        tasks = [task for task in client.read_task_runs() if task.flow_run_id == run.id]
    states = [run.state, *(task.state for task in tasks)]
    return [(state.type.value, state.message or "") for state in states if not state.is_completed()]


@pytest.mark.parametrize(("given", "got"), [({}, "1"), ({"HF_HUB_OFFLINE": "0"}, "0")])
def test_a_stage_is_offline_unless_the_user_says_otherwise(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], got: str
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    stages = {"stages": {"say": {"cmd": "echo offline is $HF_HUB_OFFLINE"}}}
    (workspace / "dvc.yaml").write_text(yaml.safe_dump(stages))
    lines = run_dvc(workspace, "repro", "say")
    assert f"offline is {got}" in lines
    assert not [line for line in lines if "git add" in line or "autostage" in line]


@pytest.mark.slow
def test_a_users_fault_is_told_once_without_a_traceback_and_kept_by_prefect(live: Path, prefect_server: str) -> None:
    suite = live / "expectations" / "items.json"
    suite.write_text(suite.read_text().replace('"min_value": 16}', '"min_value": 1000}', 1))
    done = cbir(live, "retrain", PREFECT_API_URL=prefect_server)
    fault = "expect_table_row_count_to_be_between(min_value=1000) failed. To do: import more pictures"
    assert (done.returncode, done.stdout) == (2, "")
    assert (done.stderr.count(fault), done.stderr.count("error: ")) == (1, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert "Running stage 'validate'" in done.stderr
    states = read_states(prefect_server, live)
    assert [(kind, fault in message) for kind, message in states] == [("FAILED", True)] * 2


@pytest.mark.slow
def test_a_fault_of_the_users_is_not_tried_again(live: Path, prefect_server: str) -> None:
    lancedb.connect(locate_index(live)).create_table("release_v1", [{"id": "mine"}], mode="overwrite")
    done = cbir(live, "retrain", PREFECT_API_URL=prefect_server)
    assert done.returncode == 2
    told = done.stderr.count("is of another release; move it away")
    assert (told, "Traceback" in done.stderr, "Retry" in done.stderr) == (1, False, False)
    assert {kind for kind, _ in read_states(prefect_server, live)} == {"FAILED"}


@pytest.mark.parametrize(
    ("changes", "run"),
    [
        ([], ()),
        (["evaluate"], ("evaluate",)),
        (["embed", "train"], ("train", "embed", "evaluate")),
        (["data/raw.dvc"], STAGES),
        (["data/kept/split.parquet.dvc", "train"], STAGES),
    ],
)
def test_stages_before_the_first_changed_one_are_left_alone(changes: list[str], run: tuple[str, ...]) -> None:
    assert select_stages(changes) == run


@pytest.mark.slow
def test_a_mistake_of_ours_keeps_its_traceback(live: Path, prefect_server: str) -> None:
    module = live / "flows" / "stages.py"
    module.write_text(module.read_text() + "\n\ndef has_remote(workspace):\n    raise RuntimeError('ours')\n")
    retries = live / "flows" / "data.py"
    retries.write_text(retries.read_text().replace("retries=2, retry_delay_seconds=[2, 10]", "retries=0"))
    done = cbir(live, "retrain", PREFECT_API_URL=prefect_server)
    assert (done.returncode, "Traceback" in done.stderr) == (1, True)
    assert "RuntimeError: ours" in done.stderr


@pytest.mark.slow
def test_unchanged_runs_no_stage_and_pushes_what_the_remote_lacks(live: Path, prefect_server: str) -> None:
    run_dvc(live, "remote", "add", "--default", "backup", str(live.parent / "backup"))
    done = cbir(live, "retrain", PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "unchanged"
    assert "nothing to do: release 1 is live" in done.stderr
    assert "stage ingest" not in done.stderr
    assert "Everything is up to date" in run_dvc(live, "push")[-1]
    shutil.rmtree(live / ".dvc" / "cache")
    shutil.rmtree(live / "data" / "encoder")
    run_dvc(live, "pull")
    assert (live / "data" / "encoder" / "encoder.json").exists()


@pytest.mark.slow
def test_a_table_that_is_gone_is_published_again_under_the_same_release(live: Path, prefect_server: str) -> None:
    shutil.rmtree(live / "lancedb")
    done = cbir(live, "retrain", PREFECT_API_URL=prefect_server)
    summary = json.loads(done.stdout)
    assert (summary["outcome"], summary["version"], summary["rows"]) == ("promoted", "1", 48), done.stderr
    assert "Running stage" not in done.stderr
    assert find_current(live) is not None


def forget_champion(workspace: Path) -> None:
    MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}").delete_registered_model_alias("cbir", "champion")


def lose_table(workspace: Path) -> None:
    shutil.rmtree(workspace / "lancedb")


def swap_rows(workspace: Path) -> None:
    path = workspace / "dvc.lock"
    lock = yaml.safe_load(path.read_text())
    lock["stages"]["embed"]["outs"][0]["md5"] = f"{'0' * 32}.dir"
    path.write_text(yaml.safe_dump(lock))


@pytest.mark.slow
@pytest.mark.parametrize("change", [forget_champion, forget_history, lose_table, swap_rows])
def test_there_is_something_to_do_where_a_run_was_cut_short(live: Path, change: Callable[[Path], None]) -> None:
    assert find_current(live) == Registry(live, name="cbir").get_champion()
    change(live)
    assert find_current(live) is None


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A DVC repository with stages that talk, fail, and hold the lock."""
    (tmp_path / "talk.py").write_text(
        "import sys, time\nprint('first'); time.sleep(2); print('towers ━━━━ 100%', file=sys.stderr)\n"
        "print('\\x1b[1msecond\\x1b[0m')\n"
    )
    (tmp_path / "fail.py").write_text(
        "import sys\nprint('so far, so good')\nprint('error: Too few.\\n  Add more.', file=sys.stderr); sys.exit(2)\n"
    )
    (tmp_path / "crash.py").write_text("raise RuntimeError('ours')\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n" + "".join(f"  {n}:\n    cmd: python {n}.py\n" for n in ("talk", "fail", "crash"))
    )
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    return tmp_path


def test_lines_of_a_stage_come_as_it_prints_them_and_bars_do_not(pipeline: Path) -> None:
    said: dict[str, float] = {}
    run_dvc(pipeline, "repro", "talk", say=lambda line: said.setdefault(line, time.monotonic()))
    assert said["second"] - said["first"] > 1.5
    assert not any("━" in line for line in said)


def test_the_reason_of_a_stage_is_the_error_and_is_not_said_twice(pipeline: Path) -> None:
    said: list[str] = []
    with pytest.raises(StageError) as caught:
        run_dvc(pipeline, "repro", "fail", say=said.append)
    assert str(caught.value) == "`dvc repro fail` failed: Too few.\n  Add more."
    assert said[-1] == "so far, so good"


def test_a_stage_that_crashes_shows_its_traceback(pipeline: Path) -> None:
    said: list[str] = []
    with pytest.raises(StageError, match="RuntimeError: ours"):
        run_dvc(pipeline, "repro", "crash", say=said.append)
    assert "RuntimeError: ours" in said


def test_a_cancelled_run_leaves_no_stage_behind(pipeline: Path) -> None:
    (pipeline / "talk.py").write_text(
        "import time\nprint('started')\nfor n in range(300): open('beat', 'w').write(str(n)); time.sleep(0.05)\n"
    )

    def cancel(line: str) -> None:
        if line == "started":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_dvc(pipeline, "repro", "talk", say=cancel)
    beat = (pipeline / "beat").read_text() if (pipeline / "beat").exists() else ""
    time.sleep(1.0)
    assert ((pipeline / "beat").read_text() if (pipeline / "beat").exists() else "") == beat


def test_a_lock_of_another_run_is_waited_for_but_not_for_ever(pipeline: Path) -> None:
    (pipeline / "dvc.yaml").write_text("stages: {talk: {cmd: python talk.py, outs: [talked]}}")
    (pipeline / "talk.py").write_text("import time; open('started', 'w'); time.sleep(6); open('talked', 'w')\n")
    other = threading.Thread(target=run_dvc, args=(pipeline, "repro", "talk"))
    other.start()
    while not (pipeline / "started").exists():
        time.sleep(0.1)
    with pytest.raises(StageError, match=r"dvc repro --force talk.*failed"):
        run_dvc(pipeline, "repro", "--force", "talk", patience=0.0)
    (pipeline / "talk.py").write_text("print('at last'); open('talked', 'w')\n")
    assert "at last" in run_dvc(pipeline, "repro", "--force", "talk")
    other.join()
