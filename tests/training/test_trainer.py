"""A run from the command line's point of view: train, look, resume, evaluate."""

import hashlib
import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sar.data.label_files import read_label
from sar.errors import InputError
from sar.evaluation.class_metrics import CLASS_METRICS
from sar.preflight.prepare import prepare
from sar.training.log import set_up_process
from sar.training.trainer import Trainer

from detectron2.data import DatasetCatalog
from detectron2.engine.train_loop import HookBase
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils.events import EventWriter

from .. import runs
from ..programs import load_program
from ..runs import CONFIG, arguments, metrics, prepared, terminate


def train(overrides, resume=False):
    cfg = prepared(overrides, resume=resume)
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_training_writes_what_detectron2s_users_expect(overrides, tmp_path):
    trainer = train(overrides)
    output = tmp_path / "output"
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert (output / "model_0000001.pth").is_file()
    assert list(output.glob("events.out.tfevents.*"))
    metrics = read_metrics(output)
    losses = {"total_loss", "loss_sem_seg", "loss_sar_anchor", "loss_sar_pull"}
    assert losses <= metrics[0].keys()
    results = {key: value for line in metrics for key, value in line.items() if "sem_seg/" in key}
    for key in ("mIoU", "fwIoU", "mACC", "pACC", "mIoU@f", "mIoU@r", "IoU-block", "ACC-dot"):
        assert f"sem_seg/{key}" in results
    assert results["sem_seg/mIoU"] == trainer._last_eval_results["sem_seg"]["mIoU"]


def test_each_gate_is_logged(overrides, tmp_path):
    both = "('SemanticAnchorRegularizer', 'PrototypeRegularizer')"
    words = ["MODEL.REGULARIZERS", both, "MODEL.PROTOTYPE.GATE_CONFIDENCE", "0.0"]
    words += ["MODEL.SEMANTIC_ANCHOR.GATE_CONFIDENCE", "1.0", "SOLVER.MAX_ITER", "20"]
    train([*overrides, *words])
    lines = [line for line in read_metrics(tmp_path / "output") if "sar/gate_is_open" in line]
    assert [line["iteration"] for line in lines] == [19]
    assert lines[0]["sar/gate_is_open"] == 0 and lines[0]["sar/prototype_gate_is_open"] == 1


def test_evaluation_of_the_checkpoint_gives_the_same_to_the_last_digit(overrides, tmp_path):
    trained = train(overrides)._last_eval_results
    opts = [*overrides, "MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth")]
    cfg = prepared(opts, eval_only=True)
    evaluated = Trainer.test(cfg, Trainer.load_for_evaluation(cfg))
    assert repr(evaluated) == repr(trained)  # repr: absent classes are NaN


def test_an_evaluation_needs_no_parts_of_the_training(overrides, tmp_path, caplog):
    overrides = [*overrides, "MODEL.LOSS.NAME", "seesaw"]
    trained = train(overrides)._last_eval_results
    overrides += ["MODEL.WEIGHTS", str(tmp_path / "output" / "model_inference.pth")]
    overrides += ["MODEL.SEMANTIC_ANCHOR.ANCHORS", "/nowhere/anchors.npy"]
    cfg = prepared(overrides, eval_only=True)
    model = Trainer.load_for_evaluation(cfg)
    assert len(model.regularizers) == 0 and "Seesaw" not in repr(model)
    assert "Not loaded" not in caplog.text
    assert repr(Trainer.test(cfg, model)) == repr(trained)
    found = read_evaluation(tmp_path / "output" / "inference" / "model_inference")
    assert found["config"]["MODEL.REGULARIZERS"] == ["SemanticAnchorRegularizer"]
    cfg = prepared([*overrides, "TEST.LOSS", "True"], eval_only=True)
    assert "Seesaw" in repr(Trainer.load_for_evaluation(cfg))


def read_evaluation(folder):
    (path,) = folder.glob("*/sem_seg_evaluation.json")
    return json.loads(path.read_text())


def test_an_evaluation_says_what_it_is_of_and_replaces_no_other(overrides, tmp_path):
    train(overrides)
    inference = tmp_path / "output" / "inference"
    of_training = read_evaluation(inference)
    assert of_training["weights"] == {"iteration": 3}
    config = of_training["config"]
    assert config["SOLVER.MAX_ITER"] == 4 and config["DATASETS.FOLDER"].endswith("mine")
    assert "MODEL.RESNETS.NORM" in config and "SOLVER.GAMMA" not in config  # as by default

    other = tmp_path / "model_final.pth"
    other.write_bytes((tmp_path / "output" / "model_0000001.pth").read_bytes())
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    similar = tmp_path / "output" / "model_best.old.pth"
    similar.write_bytes((tmp_path / "output" / "model_best.pth").read_bytes())
    for weights, name in (
        (tmp_path / "output" / "model_best.pth", "model_best"),
        (similar, "model_best.old"),
        (other, f"model_final-{digest[:8]}"),
    ):
        opts = [*overrides, "MODEL.WEIGHTS", str(weights), "TEST.SAVE_JSON", "True"]
        args = arguments(opts, eval_only=True)
        cfg = prepare(args).cfg
        set_up_process(cfg, args)
        Trainer.test(cfg, Trainer.load_for_evaluation(cfg))
        found = read_evaluation(inference / name)
        assert found["weights"]["file"] == str(weights)
        assert len(found["weights"]["sha256"]) == 64
        assert "Evaluation of" in (inference / name / "log.txt").read_text()
        assert len(list((inference / name).glob("*/sem_seg_predictions.json"))) == 1
    assert not list(inference.glob("*/sem_seg_predictions.json"))  # where a training writes
    assert found["weights"]["sha256"] == digest
    assert len(found["data"]["fingerprint"]) == 64
    assert read_evaluation(inference) == of_training

    # Of the same checkpoint with other settings: metrics and predictions of both stay.
    (folder,) = (inference / name).glob("*_val")
    predictions = (folder / "sem_seg_predictions.json").read_bytes()
    smaller = ["MODEL.WEIGHTS", str(other), "INPUT.MIN_SIZE_TEST", "32"]
    evaluate([*overrides, *smaller])
    sizes = [
        json.loads((folder / f"sem_seg_evaluation{number}.json").read_text())["config"].get(
            "INPUT.MIN_SIZE_TEST"
        )
        for number in ("-2", "")
    ]
    assert sizes[0] != sizes[1] == 32
    assert (folder / "sem_seg_predictions-2.json").read_bytes() == predictions
    names = {f"sem_seg_{file}.json" for file in ("evaluation", "evaluation-2", "predictions-2")}
    assert {path.name for path in folder.iterdir()} == names

    # With settings that change no number: the same results, and no further files.
    (tmp_path / "link").symlink_to(tmp_path)
    words = [*smaller, "OUTPUT_DIR", str(tmp_path / "link" / "output"), "TEST.PICTURES", "0"]
    words += ["DATALOADER.NUM_WORKERS", "1", "SOLVER.MAX_ITER", "9"]
    evaluate([*overrides, *words, "MODEL.WEIGHTS", str(tmp_path / "link" / other.name)])
    evaluate(smaller, config_file=str(tmp_path / "output" / "config.yaml"))
    assert {path.name for path in folder.iterdir()} == names


def evaluate(opts, **settings):
    cfg = prepared(opts, eval_only=True, **settings)
    return Trainer.test(cfg, Trainer.load_for_evaluation(cfg))


def test_a_run_that_was_stopped_ends_as_one_that_was_not(overrides, tmp_path):
    uninterrupted = train(overrides).model.state_dict()
    output = tmp_path / "output"
    (output / "last_checkpoint").write_text("model_0000001.pth")  # as if killed thereafter
    (output / "model_final.pth").unlink()
    resumed = train(overrides, resume=True)
    assert resumed.start_iter == 2 and resumed.iter == 4
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, uninterrupted[name]), name


def test_a_run_goes_on_with_a_larger_max_iter(overrides):
    train(overrides)
    train(overrides, resume=True)  # evaluates once more
    trainer = train([*overrides, "SOLVER.MAX_ITER", "6"], resume=True)
    assert trainer.start_iter == 4 and trainer.iter == 6
    rows = metrics(Path(trainer.cfg.OUTPUT_DIR))
    evaluated = [row["iteration"] for row in rows if "sem_seg/mIoU" in row]
    assert evaluated == ["4", "6"]  # the first training's is kept


def test_another_optimizer_cannot_resume(overrides):
    train(overrides)
    with pytest.raises(InputError, match="set SOLVER.OPTIMIZER to that"):
        train([*overrides, "SOLVER.OPTIMIZER", "ADAMW", "SOLVER.MAX_ITER", "6"], resume=True)


def test_bfloat16_on_the_cpu(overrides):
    words = [*overrides, "SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"]
    trainer, plain = train(words), train(overrides)
    for name, value in trainer.model.state_dict().items():
        assert value.dtype is plain.model.state_dict()[name].dtype, name
    found, wanted = (t.model.sem_seg_head.predictor.weight for t in (trainer, plain))
    assert not torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.1)
    with pytest.raises(InputError, match="SOLVER.AMP.DTYPE is float15, expected float16 or bf"):
        train([*words, "SOLVER.AMP.DTYPE", "float15"])


def test_precise_batch_norm_is_a_function_of_the_seed(overrides, tmp_path):
    overrides = [*overrides, "MODEL.SEMANTIC_ANCHOR.GATE_CONFIDENCE", "0"]  # the memory moves
    words = [
        *overrides, "TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", "2",
        "TEST.EVAL_PERIOD", "2",
    ]  # fmt: skip
    uninterrupted = train(words).model.state_dict()
    output = tmp_path / "output"
    (output / "last_checkpoint").write_text("model_0000001.pth")
    (output / "model_final.pth").unlink()
    resumed = train(words, resume=True).model.state_dict()
    for name, value in resumed.items():
        assert torch.equal(value, uninterrupted[name]), name
    plain = train(overrides).model.state_dict()
    changed = {name for name, value in plain.items() if not torch.equal(value, resumed[name])}
    assert "backbone.bottom_up.stem.conv1.norm.running_mean" in changed
    assert {name.rsplit(".")[-1] for name in changed} <= {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_without_regularizers_nothing_of_them_is_there(overrides, tmp_path):
    train([*overrides, "MODEL.REGULARIZERS", "[]"])
    assert not any("sar" in key for line in read_metrics(tmp_path / "output") for key in line)
    state = torch.load(tmp_path / "output" / "model_final.pth")["model"]
    assert not any("regularizer" in key for key in state)


def read_metrics(output):
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


@pytest.mark.parametrize("regularizers", ["[]", "['SemanticAnchorRegularizer']"])
def test_geometry_reaches_the_metrics_and_leaves_the_rest_alone(overrides, tmp_path, regularizers):
    overrides = [*overrides, "MODEL.REGULARIZERS", regularizers, "TEST.EVAL_PERIOD", "2"]
    trainer = train([*overrides, "TEST.GEOMETRY", "True"])
    assert not any(module._forward_pre_hooks for module in trainer.model.modules())
    output = tmp_path / "output"
    lines = [line for line in read_metrics(output) if "geometry/NC1" in line]
    assert len(lines) == 2 and all("sem_seg/mIoU" in line for line in lines)
    results = trainer._last_eval_results
    for key, value in results["geometry"].items():
        assert lines[-1][f"geometry/{key}"] == value
    assert b"geometry/NC2_equinorm" in next(output.glob("events.out.tfevents.*")).read_bytes()

    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    cfg = prepared([*overrides, *weights], eval_only=True)
    plain = Trainer.test(cfg, Trainer.load_for_evaluation(cfg))
    assert list(plain) == ["sem_seg"] and repr(plain["sem_seg"]) == repr(results["sem_seg"])


def test_validation_loss_boundaries_and_objects_reach_the_metrics(overrides, tmp_path):
    words = ["MODEL.REGULARIZERS", "[]", "MODEL.LOSS.NAME", "cross_entropy"]
    words += ["MODEL.LOSS.CLASS_WEIGHTS", "inverse_frequency", "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT"]
    words += ["0.5", "TEST.LOSS", "True", "TEST.BOUNDARY_IOU", "True", "TEST.OBJECTS", "True"]
    trainer = train(
        [*overrides, *words, "TEST.EVAL_PERIOD", "2", "TEST.BEST_METRIC", "sem_seg/Loss"]
    )
    cfg, output = trainer.cfg, tmp_path / "output"
    lines = [line for line in read_metrics(output) if "sem_seg/Loss" in line]
    assert [line["iteration"] for line in lines] == [1, 4] and "loss_sem_seg" in lines[0]
    assert all(f"sem_seg/{name}-dot" in lines[0] for name in CLASS_METRICS)
    assert b"sem_seg/Loss" in next(output.glob("events.out.tfevents.*")).read_bytes()
    best = torch.load(output / "model_best.pth")["best"]
    assert best == {
        "metric": "sem_seg/Loss",
        "value": min(line["sem_seg/Loss"] for line in lines),
    }

    # The same with the model's own loss, all images in one batch, in float64.
    model = trainer.model.eval()
    scores, labels = [], []
    for record in DatasetCatalog.get(cfg.DATASETS.TEST[0]):
        sample = Trainer.build_test_mapper(cfg)(record)
        with torch.no_grad():
            scores.append(model([sample])[0]["sem_seg"].double())
        labels.append(torch.from_numpy(read_label(record["sem_seg_file_name"])).long())
    weights = model.loss.criterion.weights.double()
    loss = F.cross_entropy(torch.stack(scores), torch.stack(labels), weights, ignore_index=255)
    assert lines[-1]["sem_seg/Loss"] == pytest.approx(0.5 * loss.item(), rel=1e-5)
    assert len(set(weights.tolist())) == 3


def test_a_loss_that_evaluation_cannot_repeat_is_said_before_the_training(overrides):
    words = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.REGULARIZERS", "[]"]
    with pytest.raises(InputError, match="TEST.LOSS: SemSegFPNHead has a loss of its own"):
        Trainer(prepared([*overrides, *words, "TEST.LOSS", "True"]))


def test_geometry_without_a_classifier_is_said_before_the_training(overrides):
    words = ["MODEL.REGULARIZERS", "[]", "MODEL.CLASSIFIER", "head", "TEST.GEOMETRY", "True"]
    cfg = prepared([*overrides, *words])
    with pytest.raises(InputError, match='MODEL.CLASSIFIER "head" leads nowhere'):
        Trainer(cfg)


def run(*words):
    command = [sys.executable, "train_net.py", "--config-file", CONFIG, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_command_line_ends_bad_input_with_one_clear_message(overrides):
    done = run(*overrides, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: MODEL.SEM_SEG_HEAD.NUM_CLASSES")
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_the_command_line_trains_resumes_and_evaluates(overrides, tmp_path, folder):
    done = run(*overrides, "DATALOADER.NUM_WORKERS", "2")
    assert done.returncode == 0, done.stderr
    assert "copypaste: mIoU,mIoU@f,mIoU@c,mIoU@r" in done.stdout
    assert "No GPU found" in done.stdout or torch.cuda.is_available()
    copypaste = [line for line in done.stdout.splitlines() if "copypaste" in line][-1]

    done = run("--eval-only", *overrides, "MODEL.WEIGHTS", str(tmp_path / "output/model_final.pth"))
    assert done.returncode == 0, done.stderr
    again = [line for line in done.stdout.splitlines() if "copypaste" in line][-1]
    assert again.split("copypaste: ")[1] == copypaste.split("copypaste: ")[1]

    done = run("--resume", *overrides, "SOLVER.MAX_ITER", "6")
    assert done.returncode == 0, done.stderr
    assert "Starting training from iteration 4" in done.stdout

    label = next((folder / "labels" / "val").iterdir())
    label.unlink()
    done = run("--eval-only", "--resume", *overrides)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stdout + done.stderr


def test_channels_last_is_a_layout_and_nothing_else(overrides):
    outputs = []
    for channels_last in (False, True):
        words = [*overrides, "MODEL.CHANNELS_LAST", str(channels_last)]
        torch.manual_seed(0)
        model = Trainer.build_model(prepared(words)).double().eval()
        stem = model.backbone.bottom_up.stem.conv1.weight
        assert stem.is_contiguous(memory_format=torch.channels_last) is channels_last
        torch.manual_seed(1)
        image = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
        outputs.append(model([{"image": image}])[0]["sem_seg"])
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("expected, ends", [(50.0, False), (51.0, True)])
def test_an_evaluation_is_held_against_expected_results(overrides, monkeypatch, expected, ends):
    program = load_program("train_net.py")
    monkeypatch.setattr(Trainer, "load_for_evaluation", lambda cfg, resume: None)
    monkeypatch.setattr(Trainer, "test", lambda cfg, model: {"sem_seg": {"mIoU": 50.0}})
    words = ["TEST.EXPECTED_RESULTS", f"[['sem_seg', 'mIoU', {expected}, 0.1]]"]
    cfg = prepared([*overrides, *words])
    with pytest.raises(SystemExit) if ends else nullcontext():
        program.main(cfg, arguments([], eval_only=True))


def test_the_optimizer_takes_over_the_layout_of_a_resumed_run(overrides):
    """CUDA's fused optimizers refuse a momentum of other strides than its parameter's."""
    for channels_last, iterations in ((False, 1), (True, 2)):
        words = ["MODEL.CHANNELS_LAST", str(channels_last), "SOLVER.MAX_ITER", str(iterations)]
        trainer = Trainer(prepared([*overrides, *words], resume=channels_last))
        trainer.resume_or_load(resume=channels_last)
        if not channels_last:
            trainer.train()
    assert trainer.start_iter == 1
    state = trainer.optimizer.state
    weights = [p for p in trainer.model.parameters() if p.dim() == 4 and p in state]
    assert any(not weight.is_contiguous() for weight in weights)
    for weight in weights:
        momentum = state[weight]["momentum_buffer"]
        assert momentum.stride() == weight.stride() and momentum.abs().sum() > 0


def test_an_evaluation_with_several_evaluators_replaces_no_other(overrides, tmp_path):
    class Own(Trainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name, **options):
            return DatasetEvaluators([super().build_evaluator(cfg, dataset_name, **options)])

    trainer = Own(prepared(overrides))
    trainer.train()
    inference = tmp_path / "output" / "inference"
    of_training = read_evaluation(inference)
    words = [*overrides, "MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth")]
    cfg = prepared([*words, "INPUT.MIN_SIZE_TEST", "32"], eval_only=True)
    Own.test(cfg, Own.load_for_evaluation(cfg))
    assert read_evaluation(inference) == of_training
    assert read_evaluation(inference / "model_final")["config"]["INPUT.MIN_SIZE_TEST"] == 32


def test_geometry_of_a_model_without_a_backbone_is_said_before_the_training(overrides, monkeypatch):
    model = nn.Module()
    model.predictor = nn.Conv2d(4, 3, 1)
    monkeypatch.setattr("sar.training.trainer.build_model", lambda cfg: model)
    cfg = prepared([*overrides, "TEST.GEOMETRY", "True", "MODEL.CLASSIFIER", "predictor"])
    with pytest.raises(InputError, match='Module has no attribute "backbone", .*: set it to False'):
        Trainer.build_model(cfg)


def test_hooks_and_loaders_of_ones_own(overrides, tmp_path):
    """As detectron2's users write them: before the last hook, and of the config alone."""

    class Validation(HookBase):
        def after_step(self):
            self.trainer.storage.put_scalar("validation_loss", self.trainer.iter)

    class Own(Trainer):
        steps = 0

        @classmethod
        def build_train_loader(cls, cfg):
            return super().build_train_loader(cfg)

        def build_hooks(self):
            hooks = super().build_hooks()
            hooks.insert(-1, Validation())
            return hooks

        def run_step(self):
            self.steps += 1
            super().run_step()

    trainer = Own(prepared([*overrides, "TEST.EVAL_PERIOD", "2"]))
    trainer.checkpointer.save("before")  # without a storage yet
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert trainer.steps == 4
    lines = [line for line in read_metrics(tmp_path / "output") if "validation_loss" in line]
    assert lines and all("total_loss" in line for line in lines)


class Recorder(EventWriter):
    """Records its calls. Each `close` raises an error, as a tracker without network may."""

    def __init__(self, calls):
        self.calls = calls

    def write(self):
        self.calls.append("write")

    def close(self):
        self.calls.append("close")
        raise ConnectionError("no network")


def fail():
    raise ZeroDivisionError


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "end, error",
    [(fail, ZeroDivisionError), (interrupt, KeyboardInterrupt), (terminate, SystemExit)],
)
def test_a_training_that_ends_early_closes_its_writers(
    end, error, overrides, tmp_path, monkeypatch, caplog
):
    calls = []
    writers = [lambda cfg: [Recorder(calls)], lambda cfg: [Recorder(calls)]]
    monkeypatch.setattr("sar.training.trainer.writer_functions", writers)
    monkeypatch.setattr(Trainer, "test", fail)  # nothing is evaluated
    with pytest.raises(error):
        runs.train(overrides, runs.At(3, end))
    assert calls == ["close", "close"]
    assert caplog.text.count("Recorder cannot be closed: ConnectionError: no network") == 2
    names = {path.stem for path in (tmp_path / "output").glob("*.pth")}
    assert names == ({"model_0000001", "model_0000003"} if end is terminate else {"model_0000001"})


def test_hooks_without_those_of_the_superclass_are_warned_about(overrides, caplog):
    class Own(Trainer):
        def build_hooks(self):
            return []

    Own(prepared(overrides))
    assert "Own.build_hooks leaves out the hooks of its superclass" in caplog.text
    caplog.clear()
    Trainer(prepared(overrides))
    assert "build_hooks" not in caplog.text
