"""The folder of a run: files of others are left alone, and earlier runs are kept whole."""

import json
import os

import pytest

from sar.errors import InputError
from sar.files.run_folder import (
    check_is_evaluation,
    check_is_free,
    is_run,
    mark,
    previous_runs,
    set_aside,
    write_config,
)

FILES = {
    "config.yaml": "a", "log.txt": "b", "log.txt.rank1": "c", "metrics.json": "d",
    "class_frequency.json": "e", "last_checkpoint": "f", "model_0000001.pth": "g",
    "model_final.pth": "h", "model_best.pth": "i", "model_inference.pth": "r",
    "events.out.tfevents.1.host": "j",
    "inference/roads_val/sem_seg_evaluation.json": "k",
    "inference/model_best/roads_val/sem_seg_evaluation.json": "l",
    "inference/model_best/roads_val/sem_seg_evaluation-2.json": "m",
    "inference/model_best/run.json": "n", "inference/model_best/log.txt": "o",
    "inference/coco_instances_results.json": "p", "config-until-0000500.yaml": "q",
}  # fmt: skip
OF_OTHERS = {
    "notes.txt": "1", "model_pruned.pth": "2", "previous/notes.txt": "3", "sub/a": "4",
    "inference/roads_val/mine.txt": "5",
}  # fmt: skip


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


def test_all_files_of_a_run_move_together_and_no_others(tmp_path):
    write(tmp_path, FILES | OF_OTHERS)
    mark(tmp_path)
    run = (tmp_path / "run.json").read_text()
    target = set_aside(tmp_path)
    assert target == tmp_path / "previous-2"  # since `previous` is there
    assert read(target) == FILES | {"run.json": run}
    moved = {f"previous-2/{name}": text for name, text in read(target).items()}
    assert read(tmp_path) == OF_OTHERS | moved
    assert not is_run(tmp_path) and is_run(target)
    assert set_aside(tmp_path) is None


def test_no_run_is_ever_replaced(tmp_path):
    for number in range(1, 4):
        write(tmp_path, {"metrics.json": str(number)})
        mark(tmp_path)
        set_aside(tmp_path)
    names = ["previous", "previous-2", "previous-3"]
    assert sorted(os.listdir(tmp_path)) == names
    assert [(tmp_path / name / "metrics.json").read_text() for name in names] == ["1", "2", "3"]
    assert previous_runs(tmp_path) == [tmp_path / name for name in names]


def test_killed_at_any_moment_of_moving(tmp_path):
    """Each rename is, in turn, the last thing that the process does."""
    rename = os.replace
    for moment in range(50):
        folder = tmp_path / str(moment)
        write(folder, FILES)
        mark(folder)
        run = (folder / "run.json").read_text()
        child = os.fork()
        if child == 0:
            calls = iter(range(50))

            def exiting(source, target, moment=moment, calls=calls):
                if next(calls) >= moment:
                    os._exit(9)
                rename(source, target)

            os.replace = exiting
            type(folder).replace = exiting
            set_aside(folder)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != 0:
            assert set_aside(folder) == folder / "previous"
        found = read(folder / "previous")
        assert {name: found[name] for name in (*FILES, "run.json")} == FILES | {"run.json": run}
        assert sorted(os.listdir(folder)) == ["previous"]
        if status == 0:
            break
    assert status == 0 and moment >= len({name.split("/")[0] for name in FILES})


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_files_that_no_run_wrote_is_refused(name, tmp_path):
    write(tmp_path, {name: "mine"})
    if name.startswith("inference/"):  # of an evaluation without a training
        check_is_free(tmp_path)
        return
    with pytest.raises(InputError, match=f"no training of this project wrote them: {name}"):
        check_is_free(tmp_path)
    assert read(tmp_path) == {name: "mine"}
    mark(tmp_path)
    check_is_free(tmp_path)


def test_other_files_may_stay(tmp_path):
    check_is_free(tmp_path / "nowhere")
    write(tmp_path, OF_OTHERS)
    check_is_free(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": "1"}', json.dumps({"project": "x"})])
def test_a_run_json_of_another_program_does_not_count(content, tmp_path):
    write(tmp_path, {"run.json": content})
    assert not is_run(tmp_path)
    with pytest.raises(InputError, match="run.json"):
        check_is_free(tmp_path)


@pytest.mark.parametrize("name, is_folder", [("config.yaml", True), ("inference", False)])
def test_names_of_another_kind(name, is_folder, tmp_path):
    (tmp_path / name).mkdir() if is_folder else (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"OUTPUT_DIR .*: {name} is not a"):
        check_is_free(tmp_path)


def test_another_config_stays(tmp_path):
    for text, iteration in (("a", 0), ("a", 3), ("b", 5), ("c", 5), ("c", 9)):
        write_config(tmp_path, text, iteration)
    assert read(tmp_path) == {
        "config.yaml": "c",
        "config-until-0000005.yaml": "a",
        "config-until-0000005-2.yaml": "b",
    }


def test_evaluations_do_not_touch_files_of_others(tmp_path):
    folder = tmp_path / "inference" / "model_best"
    check_is_evaluation(tmp_path, folder)
    folder.mkdir(parents=True)
    check_is_evaluation(tmp_path, folder)
    write(folder, {"roads_val/sem_seg_evaluation.json": "mine"})
    with pytest.raises(InputError, match="model_best has files that no evaluation of this project"):
        check_is_evaluation(tmp_path, folder)
    mark(folder)
    check_is_evaluation(tmp_path, folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "inference").symlink_to(tmp_path / "inference")
    with pytest.raises(InputError, match="inference is a link or a file"):
        check_is_evaluation(tmp_path / "other", tmp_path / "other" / "inference" / "model_best")


def test_links_are_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "inference").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="inference is a link to .*elsewhere. Remove the link"):
        check_is_free(tmp_path / "output")


def test_a_resumed_run_keeps_its_mark(tmp_path):
    mark(tmp_path)
    before = (tmp_path / "run.json").read_text()
    assert {"project", "id", "started", "host", "command"} == json.loads(before).keys()
    mark(tmp_path)
    assert (tmp_path / "run.json").read_text() == before


def test_files_that_cannot_be_moved_are_an_error(tmp_path, monkeypatch):
    write(tmp_path, FILES)
    mark(tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "mkdir", refuse)
    with pytest.raises(InputError, match="cannot be moved to .*previous .Permission denied"):
        set_aside(tmp_path)
