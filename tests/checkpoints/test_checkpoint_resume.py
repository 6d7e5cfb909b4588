"""What a training finds in its folder when it starts, after whatever happened there before."""

import os

import pytest
import torch
from torch import nn

from sar.checkpoints.checkpointer import Checkpointer
from sar.checkpoints.classes import Classes
from sar.errors import InputError
from sar.files.atomic import remove_leftovers
from sar.files.run_folder import mark, set_aside

from ..distributed import run_processes


class State:
    """What a trainer is to a checkpointer."""

    def __init__(self, iteration=-1):
        self.iteration = iteration

    def state_dict(self):
        return {"iteration": self.iteration}

    def load_state_dict(self, state_dict):
        self.iteration = state_dict["iteration"]


class Run:
    """A training whose model's one weight is the number of the iteration."""

    def __init__(self, folder, kept=0):
        self.folder = folder
        self.state = State()
        self.model = nn.Linear(1, 1)
        self.checkpointer = Checkpointer(self.model, str(folder), kept=kept, trainer=self.state)

    def save(self, *iterations, name=None):
        for iteration in iterations:
            self.state.iteration = iteration
            nn.init.constant_(self.model.weight, iteration)
            if name is None:
                self.checkpointer.save_iteration(iteration)
            else:
                self.checkpointer.save(name, iteration=iteration)
        return self

    def resume(self, weights=""):
        """The iteration that is resumed; None where the run is a new one."""
        if not self.checkpointer.start_run(weights, resume=True):
            return None
        assert self.model.weight.item() == self.state.iteration
        return self.state.iteration


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def truncate(path, size=100):
    path.write_bytes(path.read_bytes()[:size])


def test_a_new_run_starts_where_there_is_nothing(tmp_path):
    assert Run(tmp_path / "nowhere").resume() is None


def test_the_last_checkpoint_is_resumed(tmp_path):
    Run(tmp_path).save(3, 7).save(9, name="model_final")
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert Run(tmp_path).resume() == 9
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")  # as users go back
    assert Run(tmp_path).resume() == 3
    (tmp_path / "last_checkpoint").unlink()
    assert Run(tmp_path).resume() == 9


def test_truncated_anywhere_the_one_before_is_resumed(tmp_path, caplog):
    Run(tmp_path).save(3, 7)
    newest = tmp_path / "model_0000007.pth"
    content = newest.read_bytes()
    for size in (*range(0, len(content), 97), len(content) - 1):
        newest.write_bytes(content[:size])
        assert Run(tmp_path).resume() == 3
    assert "model_0000003.pth, since" in caplog.text
    assert "model_0000007.pth is missing or broken" in caplog.text
    newest.unlink()
    assert Run(tmp_path).resume() == 3


def test_what_is_broken_is_passed_over_by_iteration(tmp_path, caplog):
    run = Run(tmp_path).save(3, 7, 11).save(9, name="model_final")
    run.checkpointer.save_best("mIoU", 50.0, 5)  # holds the state of iteration 9
    for name, expected in (
        ("last_checkpoint", 11),  # names nothing
        ("model_0000011.pth", 9),
        ("model_final.pth", 7),
        ("model_0000007.pth", 9),  # the best, by its iteration
        ("model_best.pth", 3),
    ):
        (tmp_path / name).write_bytes(b"\x00\xff broken")
        assert Run(tmp_path).resume() == expected
    (tmp_path / "model_0000003.pth").write_bytes(b"")
    with pytest.raises(InputError, match="no checkpoint in .* can be resumed: .*model_0000003.pth"):
        Run(tmp_path).resume()
    assert (tmp_path / "model_0000003.pth").exists()  # nothing was cleaned away


def test_before_what_users_went_back_to_comes_what_is_earlier(tmp_path):
    Run(tmp_path).save(3, 5, 7)
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    truncate(tmp_path / "model_0000005.pth")
    assert Run(tmp_path).resume() == 3
    truncate(tmp_path / "model_0000003.pth")
    assert Run(tmp_path).resume() == 7


def test_a_flipped_bit_in_the_weights_is_seen(tmp_path):
    run = Run(tmp_path).save(3, 7)
    path = tmp_path / "model_0000007.pth"
    content = bytearray(path.read_bytes())
    content[content.find(run.model.weight.detach().numpy().tobytes())] ^= 1
    torch.load(_write(tmp_path / "flipped.pth", content))  # torch does not see it
    _write(path, content)
    assert Run(tmp_path).resume() == 3


def _write(path, content):
    path.write_bytes(content)
    return path


def test_weights_without_the_state_of_the_training_are_no_checkpoint(tmp_path, caplog):
    Run(tmp_path).save(3)
    Checkpointer(nn.Linear(1, 1), str(tmp_path)).save("model_final", iteration=9)
    assert Run(tmp_path).resume() == 3
    assert "model_final.pth has no state of the trainer" in caplog.text
    evaluated = Checkpointer(nn.Linear(1, 1), str(tmp_path), require_all=True)
    assert evaluated.resume_or_load("", resume=True)["iteration"] == 9


def test_what_is_planted_in_the_last_checkpoint_does_not_run(tmp_path, caplog):
    class Exploit:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "planted"),)

    run = Run(tmp_path).save(3)
    run.state.state_dict = Exploit
    run.checkpointer.save_iteration(7)
    assert Run(tmp_path).resume() == 3
    assert "model_0000007.pth is missing or broken (refused, since it would run posix.mkdir" in (
        caplog.text
    )
    assert not (tmp_path / "planted").exists()


def test_a_state_that_does_not_fit_is_an_error_and_no_reason_to_go_back(tmp_path):
    Run(tmp_path).save(3, 7)
    other = Run(tmp_path)
    other.checkpointer = Checkpointer(nn.Linear(1, 2), str(tmp_path), trainer=other.state)
    with pytest.raises(InputError, match="model_0000007.pth.*of another shape"):
        other.resume()


def test_a_bounded_number_is_kept_also_when_resumed(tmp_path):
    Run(tmp_path, kept=2).save(1, 3, 5)
    assert names(tmp_path) == ["last_checkpoint", "model_0000003.pth", "model_0000005.pth"]
    resumed = Run(tmp_path, kept=2)
    assert resumed.resume() == 5
    resumed.checkpointer.save_best("mIoU", 1.0, 5)
    resumed.save(7).save(9, name="model_final")
    resumed.save(9, 11)
    expected = ["model_0000009.pth", "model_0000011.pth", "model_best.pth", "model_final.pth"]
    assert names(tmp_path) == ["last_checkpoint", *expected]
    Run(tmp_path, kept=0).save(*range(13, 23, 2))
    assert len(names(tmp_path)) == 10


def test_a_resumed_run_warns_before_it_deletes_what_an_earlier_one_kept(tmp_path, caplog):
    Run(tmp_path, kept=0).save(1, 3, 5, 7).save(9, name="model_final")
    for kept in (0, 4):
        assert Run(tmp_path, kept=kept).resume() == 9
    assert not caplog.text
    run = Run(tmp_path, kept=2)
    run.resume()
    assert "has 4 numbered checkpoints, but SOLVER.CHECKPOINTS_KEPT is 2" in caplog.text
    assert "the next save deletes the 3 oldest. To keep them, stop now" in caplog.text
    run.save(11)
    assert len(list(tmp_path.glob("model_0*.pth"))) == 4 + 1 - 3


def test_what_is_saved_is_not_deleted_for_broken_later_ones(tmp_path):
    Run(tmp_path).save(1, 3, 5, 7)
    for name in ("model_0000005.pth", "model_0000007.pth"):
        truncate(tmp_path / name)
    run = Run(tmp_path, kept=2)
    assert run.resume() == 3
    run.save(4)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert {"model_0000003.pth", "model_0000004.pth"} <= set(names(tmp_path))


def test_the_best_is_kept_also_when_resumed(tmp_path):
    run = Run(tmp_path).save(1)
    best = tmp_path / "model_best.pth"
    run.checkpointer.save_best("mIoU", float("nan"), 1)
    assert not best.exists()
    run.checkpointer.save_best("mIoU", 40.0, 1)
    assert torch.load(best)["iteration"] == 1
    for value in (float("nan"), float("inf"), 39.0, 40.0):
        run.checkpointer.save_best("mIoU", value, 2)
    assert torch.load(best)["iteration"] == 1

    resumed = Run(tmp_path)
    assert resumed.resume() == 1
    resumed.checkpointer.save_best("mIoU", 39.9, 3)
    assert torch.load(best)["iteration"] == 1
    resumed.checkpointer.save_best("mIoU", 40.1, 4)
    assert torch.load(best)["iteration"] == 4
    resumed.checkpointer.save_best("mACC", 10.0, 5)  # another metric: another best
    assert torch.load(best)["iteration"] == 5
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_a_broken_best_is_written_anew(tmp_path, caplog):
    run = Run(tmp_path).save(1)
    run.checkpointer.save_best("mIoU", 40.0, 1)
    truncate(tmp_path / "model_best.pth")
    resumed = Run(tmp_path)
    assert resumed.resume() == 1
    assert "model_best.pth is broken" in caplog.text
    resumed.checkpointer.save_best("mIoU", 30.0, 2)
    assert torch.load(tmp_path / "model_best.pth")["iteration"] == 2


def test_a_new_run_loads_and_leaves_the_rest_to_the_trainer(tmp_path):
    Run(tmp_path).save(3, 7).save(9, name="model_final")
    earlier = names(tmp_path)
    new = Run(tmp_path)
    assert not new.checkpointer.start_run(str(tmp_path / "model_final.pth"), resume=False)
    assert new.model.weight.item() == 9 and new.state.iteration == -1
    assert names(tmp_path) == earlier


def test_weights_that_were_set_aside_are_found(tmp_path, caplog):
    """A run that starts from a checkpoint in its own OUTPUT_DIR was killed soon after its start."""
    weights = str(tmp_path / "model_final.pth")
    for iteration in (5, 9):
        Run(tmp_path).save(iteration, name="model_final")
        mark(tmp_path)
        moved = set_aside(tmp_path) / "model_final.pth"
    for resume in (True, False):
        again = Run(tmp_path)
        assert not again.checkpointer.start_run(weights, resume=resume)
        assert again.model.weight.item() == 9 and again.state.iteration == -1
    assert f"{weights} was moved to {moved}" in caplog.text

    evaluated = Checkpointer(nn.Linear(1, 1), str(tmp_path), require_all=True)
    with pytest.raises(InputError, match="model_final.pth .MODEL.WEIGHTS.: file not found"):
        evaluated.resume_or_load(weights, resume=False)


def test_classes_are_saved_with_the_weights(tmp_path):
    classes = Classes(("road", "kerb"), ((1, 2, 3), (4, 5, 6)))
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path), classes=classes)
    checkpointer.save("model_final")
    path = tmp_path / "model_final.pth"
    assert Classes.from_file(path) == classes
    checkpointer.load(str(path))
    other = Classes(("kerb", "road"), classes.colors)
    strict = Checkpointer(nn.Linear(1, 1), str(tmp_path), require_all=True, classes=other)
    with pytest.raises(InputError, match="trained on the classes road, kerb, .* has kerb, road"):
        strict.load(str(path))
    colors = Classes(classes.names, ((9, 9, 9), (8, 8, 8)))  # may change
    Checkpointer(nn.Linear(1, 1), str(tmp_path), require_all=True, classes=colors).load(str(path))


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"classes": "road"},
        {"classes": {"names": ["a"], "colors": [[1, 2, 3], [4, 5, 6]]}},
        {"classes": {"names": [1], "colors": [[1, 2, 3]]}},
        {"classes": {"names": ["a"], "colors": [[1, 2, 300]]}},
        {"classes": {"names": ["a"], "colors": ["red"]}},
        {"classes": {"names": [], "colors": []}},
    ],
    ids=str,
)
def test_what_is_not_classes_is_none(content, tmp_path):
    torch.save({"model": {}, **content}, tmp_path / "a.pth")
    assert Classes.from_file(tmp_path / "a.pth") is None


def test_evaluation_changes_no_file(tmp_path):
    Run(tmp_path).save(3)
    leftover = tmp_path / ".sar-tmp-0123abcd.pth"
    leftover.write_bytes(b"half")
    before = names(tmp_path)
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path), require_all=True)
    checkpointer.resume_or_load("", resume=True)
    checkpointer.resume_or_load(str(tmp_path / "model_0000003.pth"), resume=False)
    Run(tmp_path).resume()
    assert names(tmp_path) == before


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_killed_at_any_moment_of_saving(tmp_path, call):
    """Each call that saving makes of the system is, in turn, the last thing the process does."""
    for moment in range(100):
        run = Run(tmp_path / str(moment), kept=2).save(1, 3, 5)
        child = os.fork()
        if child == 0:
            _exit_at(call, moment)
            run.save(7)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        remove_leftovers(tmp_path / str(moment))
        resumed = Run(tmp_path / str(moment), kept=2)
        assert resumed.resume() in ({7} if status == 0 else {5, 7})
        assert not any("tmp" in name for name in names(tmp_path / str(moment)))
        resumed.save(7)
        assert Run(tmp_path / str(moment)).resume() == 7
        if status == 0:
            break
    assert status == 0 and moment >= 2


def _exit_at(call, moment):
    calls = 0

    def exiting(function):
        def wrapper(*args):
            nonlocal calls
            calls += 1
            if calls > moment:
                os._exit(9)
            return function(*args)

        return wrapper

    if call == "write":  # of the checkpoint, in as many pieces as torch makes of it
        save = torch.save

        def save_in_pieces(state, file):
            file.write = exiting(file.write)
            save(state, file)

        torch.save = save_in_pieces
    else:
        setattr(os, call, exiting(getattr(os, call)))


def test_processes_agree_on_the_file(tmp_path):
    run = Run(tmp_path).save(3, 7)
    truncate(tmp_path / "model_0000007.pth")
    torch.save(run.model.state_dict(), tmp_path / "model_mine.pth")
    run_processes(_resume, 2, tmp_path)
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text() == "3"
    assert (tmp_path / "error0").read_text() == (tmp_path / "error1").read_text()
    errors = (tmp_path / "error0").read_text().splitlines()
    assert "model_0000003.pth is not found by" in errors[0]
    assert "folder that all machines share" in errors[0]
    assert "model_mine.pth is not found by" in errors[1] and "MODEL.WEIGHTS" in errors[1]
    assert run.checkpointer.save_to_disk


def _resume(rank, folder):
    (folder / str(rank)).write_text(str(Run(folder).resume()))
    if rank == 1:  # as on two machines with a folder each
        os.path.isfile = lambda path: False
    errors = []
    for resume in (True, False):
        model = nn.parallel.DistributedDataParallel(nn.Linear(1, 1))
        checkpointer = Checkpointer(model, str(folder), trainer=State())
        try:
            checkpointer.start_run(str(folder / "model_mine.pth"), resume=resume)
        except InputError as error:
            errors.append(str(error))
    (folder / f"error{rank}").write_text("\n".join(errors))
