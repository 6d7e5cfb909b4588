import base64
import importlib.util
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sar.prediction.predictor import Predictor
from sar.preflight.prepare import prepare
from sar.training.launch import argument_parser
from sar.training.trainer import Trainer
from sar.visualization import colorize

from ..programs import load_program

PATH = Path(__file__).parents[2] / "tools" / "report.py"
CONFIGS = PATH.parents[1] / "configs" / "Folder"


@pytest.fixture
def tool():
    return load_program(PATH)


@pytest.fixture
def make_run(overrides, tmp_path):
    def make(regularizer, *more):
        output = tmp_path / regularizer
        config = str(CONFIGS / f"{regularizer}_sem_fpn_R_18.yaml")
        words = ["--config-file", config, *overrides, "OUTPUT_DIR", str(output), *more]
        prepared = prepare(argument_parser().parse_args(words))
        prepared.register()
        torch.manual_seed(0)
        trainer = Trainer(prepared.cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        return output

    return make


def content_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(text.split('id="data">')[1].split("</script>")[0])


def decoded(uri):
    encoded = uri.partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))


@pytest.mark.slow
def test_two_runs_their_models_and_what_is_missing(tool, make_run, folder, tmp_path, capsys):
    baseline = make_run("baseline")
    sar = make_run("sar")
    sar = sar.rename(sar.with_name("sar\x1b]0;title\x07"))
    # Four steps do not open the gate.
    checkpoint = torch.load(sar / "model_best.pth", weights_only=True)
    key = "regularizers.SemanticAnchorRegularizer.semantic_anchors"
    anchors = torch.randn_like(checkpoint["model"][key])
    checkpoint["model"][key] = anchors
    torch.save(checkpoint, sar / "model_best.pth")
    page = tmp_path / "report.html"
    words = [f"plain\x1b={baseline}", f"SAR={sar}", "--output", str(page)]
    assert tool.main([*words, "--images", "4"]) == 0
    streams = capsys.readouterr()
    for title in ("Looking at plain\\x1b", "Arranging the embeddings", "Comparing the predictions"):
        assert f"{title}: 100%" in streams.err
    assert "4/4" in streams.err and "\x1b" not in streams.err
    assert f"2 runs on folder_mine_val in {page}" in streams.out
    content = content_of(page)
    plain, ours = content["views"]
    assert [plain["name"], ours["name"]] == ["plain\x1b", "SAR"]
    assert plain["reasons"].keys() == {"anchors"} and plain["anchors"] is None
    for view in content["views"]:
        assert np.shape(view["centres"]) == (3, 3)
        names = [projection["name"].split(",")[0] for projection in view["projections"]]
        assert names == ["PCA", "t-SNE"] or not importlib.util.find_spec("sklearn")
        *positions, classes = np.array(view["projections"][0]["points"]).T
        assert min(map(min, positions)) == 0 and max(map(max, positions)) == 1
        assert {0, 1} <= set(classes) <= {0, 1, 2}

    pictures = content["pictures"]
    assert pictures["names"] == ["ground truth", "plain\x1b", "SAR"]
    assert pictures["num_images"] == len(pictures["images"]) == 4
    assert {0, 1} <= set(pictures["classes"]) <= {0, 1, 2}
    shares = [picture["share"] for picture in pictures["images"]]
    assert shares == sorted(shares, reverse=True)
    predictors = [
        Predictor.load(str(run / "config.yaml"), "MODEL.WEIGHTS", str(run / "model_best.pth"))
        for run in (baseline, sar)
    ]
    for picture in pictures["images"]:
        labels = np.asarray(Image.open(folder / "labels" / "val" / picture["name"]))
        # The pixels between the lines, which the maps draw between regions.
        truth, *shown = (decoded(uri)[::2, ::2] for uri in picture["maps"])
        colors = predictors[0].colors
        assert (truth == colorize(labels, colors)).all()
        image = folder / "images" / "val" / picture["name"]
        expected = [predictor(image).labels for predictor in predictors]
        for found, prediction in zip(shown, expected, strict=True):
            assert (found == colorize(prediction, colors)).all()
        differs = (expected[0] != expected[1])[labels < 3]
        assert picture["share"] == pytest.approx(100 * differs.mean())

    centred = torch.nn.functional.normalize(anchors.double() - anchors.double().mean(0))
    assert np.allclose(ours["anchors"], centred @ centred.T, atol=1e-3)

    # The data set goes, then the checkpoints.
    shutil.move(folder / "images", tmp_path / "elsewhere")
    assert tool.main([*words, "--quiet"]) == 0
    content = content_of(page)
    assert all("images" in view["reasons"] for view in content["views"])
    assert content["views"][1]["anchors"] == ours["anchors"]
    assert content["pictures"]["images"] == [] and content["pictures"]["reason"]
    (sar / "model_best.pth").unlink()
    (sar / "model_final.pth").write_bytes(b"rubbish")
    (baseline / "config.yaml").unlink()
    assert tool.main([*words, "--quiet"]) == 0
    plain, ours = content_of(page)["views"]
    assert "config.yaml" in plain["reasons"]["model"]
    assert "model_final.pth" in ours["reasons"]["model"]
    assert capsys.readouterr().out == ""


def test_errors(tool, tmp_path, capsys, caplog):
    assert tool.main([str(tmp_path), "--output", str(tmp_path / "report.html")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} is not a run")
    assert not (tmp_path / "report.html").exists()

    evaluation = {"class_names": ["a"], "metrics": {"mIoU": 1, "IoU-a": 1}, "num_images": 1}
    path = tmp_path / "run" / "inference" / "some_val" / "sem_seg_evaluation.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(evaluation))
    words = [str(tmp_path / "run"), "--output"]
    assert tool.main([*words, str(path / "report.html")]) == 1
    assert f"cannot be written: {path} is not a folder" in capsys.readouterr().err
    for name in ("run.json", "config.yaml", "metrics.json", "model_best.pth"):
        (tmp_path / "run" / name).write_text("")
        assert tool.main([*words, str(tmp_path / "run" / name), "--overwrite"]) == 1
        assert f"is the input {tmp_path / 'run' / name}" in capsys.readouterr().err
        (tmp_path / "run" / name).unlink()
    (tmp_path / "notes.html").write_text("the user's")
    assert tool.main([*words, str(tmp_path / "notes.html")]) == 1
    assert "add --overwrite" in capsys.readouterr().err
    assert tool.main([*words, str(tmp_path / "run" / "report.html"), "--quiet"]) == 0
    assert tool.main([*words, str(tmp_path / "run" / "report.html"), "--quiet"]) == 0
    assert tool.main([*words, str(tmp_path / "report.html"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    shutil.copytree(tmp_path / "run", tmp_path / "longer")
    for name, last in (("run", 9), ("longer", 99)):
        (tmp_path / name / "metrics.json").write_text(json.dumps({"iteration": last}))
    output = str(tmp_path / "report.html")
    assert tool.main([words[0], str(tmp_path / "longer"), "--output", output]) == 0
    assert "Not a fair comparison: the runs differ in more" in caplog.text
    assert "length (iterations done)" in content_of(tmp_path / "report.html")["settings"]["unfair"]
    capsys.readouterr()
    for wrong in ("-1", "x"):
        with pytest.raises(SystemExit) as stop:
            tool.main([*words, "report.html", "--images", wrong])
        assert stop.value.code == 2
        assert f"expected a whole number of at least 0, found '{wrong}'" in capsys.readouterr().err
