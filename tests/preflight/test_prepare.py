"""Errors and warnings before the first training step, and the completed config."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sar.data import datasets
from sar.data.class_frequency import ClassFrequency, class_frequency_of
from sar.data.datasets.folder import register_folder
from sar.errors import InputError
from sar.files import lock
from sar.files.run_folder import mark
from sar.modeling.build import build_model
from sar.preflight.prepare import prepare
from sar.training.trainer import Trainer

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..runs import arguments, prepared, start, train


def save_checkpoint(cfg, folder):
    """Make the folder look like a training that has done two iterations."""
    model = build_model(cfg)
    mark(folder)
    class_frequency_of(cfg).save(folder / "class_frequency.json")
    torch.save({"model": model.state_dict(), "iteration": 1}, folder / "model_0000001.pth")
    (folder / "last_checkpoint").write_text("model_0000001.pth")


def test_a_folder_is_all_it_takes(overrides, tmp_path):
    cfg = prepared(overrides)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 3
    assert len(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])) == 5
    assert cfg.DATASETS.CLASS_FREQUENCY == ""  # which would go on to other data with the config
    frequency = class_frequency_of(cfg)
    assert frequency.class_names == ("ground", "block", "dot") and frequency.num_images == 5
    assert cfg.is_frozen()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_is_the_cpu_with_plain_batch_norm(overrides):
    args = arguments([*overrides, "SOLVER.AMP.ENABLED", "True"])
    cfg = prepare(args).cfg
    assert cfg.MODEL.DEVICE == "cpu" and args.num_gpus == 0 and args.num_processes == 1
    assert cfg.MODEL.RESNETS.NORM == cfg.MODEL.SEM_SEG_HEAD.NORM == cfg.MODEL.FPN.NORM == "BN"
    assert not cfg.SOLVER.AMP.ENABLED


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("num_gpus", [1, 8])
def test_gpus_that_are_asked_for_have_to_be_there(num_gpus, overrides):
    with pytest.raises(InputError, match=f"--num-gpus {num_gpus}, but PyTorch finds no GPU"):
        prepared(overrides, num_gpus=num_gpus)


@pytest.mark.parametrize("norm", ["SyncBN", "naiveSyncBN"])
def test_several_processes_on_the_cpu_have_batch_norms_of_their_own(overrides, norm):
    words = [*overrides, "MODEL.RESNETS.NORM", norm]
    cfg = prepared(words, num_gpus=0, num_processes=2)
    assert cfg.MODEL.DEVICE == "cpu"
    assert cfg.MODEL.RESNETS.NORM == cfg.MODEL.SEM_SEG_HEAD.NORM == cfg.MODEL.FPN.NORM == "BN"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_gpus": -1}, "--num-gpus is -1, expected 0 or more"),
        ({"num_processes": 0}, "--num-processes is 0, expected 1 or more"),
        ({"num_machines": 0}, "--num-machines is 0, expected 1 or more"),
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank is 2, .* ranks are 0 to 1"),
        ({"num_machines": 2, "dist_url": "auto"}, "--num-machines 2 without --dist-url"),
    ],
)
def test_numbers_of_processes_that_cannot_be(settings, message, overrides):
    with pytest.raises(InputError, match=message):
        prepared(overrides, **settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_gpus": 3}, "--num-gpus 3, but this machine has 2"),
        ({"num_processes": 2}, "--num-processes 2 is for the CPU: add --num-gpus 0"),
    ],
)
def test_numbers_of_gpus_that_cannot_be(settings, message, overrides, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=message):
        prepared(overrides, **settings)


@pytest.mark.parametrize("settings", [{"num_gpus": 2}, {"num_machines": 2}], ids=str)
def test_several_processes_do_not_share_one_gpu(settings, overrides, monkeypatch):
    settings["dist_url"] = "tcp://a:1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match='MODEL.DEVICE "cuda:0" is one GPU, .* 2 processes'):
        prepared([*overrides, "MODEL.DEVICE", "cuda:0"], **settings)


def test_a_batch_that_the_processes_cannot_share_is_refused_before_the_data_is_read(
    overrides, tmp_path
):
    settings = {"num_gpus": 0, "num_processes": 2, "num_machines": 2, "dist_url": "tcp://a:1"}
    with pytest.raises(InputError, match="IMS_PER_BATCH 2 .* over 4 process.*multiple of 4"):
        prepared(overrides, **settings)
    lock.release()
    assert not (tmp_path / "output").exists()
    save_checkpoint(prepared(overrides), tmp_path / "output")
    prepared(overrides, eval_only=True, resume=True, **settings)  # image by image


def test_a_resumed_run_and_an_evaluation_do_not_read_the_data_again(overrides, folder, tmp_path):
    save_checkpoint(prepared(overrides), tmp_path / "output")
    for file in (folder / "images" / "train").iterdir():
        file.write_bytes(b"broken since")
    for settings in ({"resume": True}, {"resume": True, "eval_only": True}):
        cfg = prepared(overrides, **settings)
        assert class_frequency_of(cfg).num_images == 5
    with pytest.raises(InputError, match="images/train/0.png"):
        prepared(overrides)


def test_training_images_that_may_be_skipped_are_counted_before_the_training(
    overrides, folder, caplog
):
    for name in ("1.png", "3.png"):
        (folder / "images" / "train" / name).write_bytes(b"no image")
    with pytest.raises(InputError, match="2 problems in the data set"):
        prepared([*overrides, "DATALOADER.MAX_SKIPPED_SAMPLES", "1"])
    prepared([*overrides, "DATALOADER.MAX_SKIPPED_SAMPLES", "2"])
    assert "2 images will be skipped, of at most 2" in caplog.text and "1.png" in caplog.text
    (folder / "images" / "val" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="val/0.png"):
        prepared([*overrides, "DATALOADER.MAX_SKIPPED_SAMPLES", "9"])


def test_evaluation_counts_the_training_labels_where_it_can(overrides, tmp_path):
    save_checkpoint(prepared(overrides), tmp_path / "output")
    (tmp_path / "output" / "class_frequency.json").unlink()
    cfg = prepared(overrides, eval_only=True, resume=True)
    assert class_frequency_of(cfg).num_images == 5


def relabel(folder, value):
    path = folder / "labels" / "train" / "0.png"
    labels = np.array(Image.open(path))
    labels[:] = value
    Image.fromarray(labels).save(path)


def test_labels_that_have_changed_since_they_were_counted(overrides, folder, tmp_path, caplog):
    save_checkpoint(prepared(overrides), tmp_path / "output")
    before = ClassFrequency.load(tmp_path / "output" / "class_frequency.json")
    for label in (folder / "labels" / "train").iterdir():  # copied, and the same
        label.touch()
    cfg = prepared(overrides, resume=True)
    assert class_frequency_of(cfg).counts_the_same(before)
    assert class_frequency_of(cfg).fingerprint != before.fingerprint
    assert "other counts" not in caplog.text

    relabel(folder, 2)
    for settings in ({"resume": True}, {"resume": True, "eval_only": True}):
        caplog.clear()
        cfg = prepared(overrides, **settings)
        assert class_frequency_of(cfg) == before
        assert "ground, block, dot have other counts" in caplog.text
        assert "To count again, remove it" in caplog.text
    (tmp_path / "output" / "class_frequency.json").unlink()  # as the warning says
    cfg = prepared(overrides, resume=True)
    assert class_frequency_of(cfg).pixels[2] > before.pixels[2]


def test_counts_that_are_given_but_old(overrides, folder, tmp_path, caplog):
    given = str(tmp_path / "counts.json")
    class_frequency_of(prepared(overrides)).save(given)
    before = ClassFrequency.load(given)
    relabel(folder, 2)
    save_checkpoint(prepared(overrides), tmp_path / "output")
    words = [*overrides, "DATASETS.CLASS_FREQUENCY", given]
    for settings in ({}, {"resume": True}, {"resume": True, "eval_only": True}):
        caplog.clear()
        assert class_frequency_of(prepared(words, **settings)) == before
        assert f"changed since they were counted for {given}" in caplog.text


def test_counts_in_output_dir_may_be_given(overrides, tmp_path):
    """They move away with the earlier run, but were read before."""
    train(overrides)
    counts = tmp_path / "output" / "class_frequency.json"
    train([*overrides, "DATASETS.CLASS_FREQUENCY", str(counts)])
    assert counts.is_file()


def test_a_training_does_not_write_among_the_data(overrides, folder, tmp_path):
    (tmp_path / "link").symlink_to(folder / "images")
    for output in (folder, folder / "images" / "train", folder / "labels", tmp_path / "link" / "x"):
        with pytest.raises(InputError, match="lies in the data set"):
            prepared([*overrides, "OUTPUT_DIR", str(output)])
    prepared([*overrides, "OUTPUT_DIR", str(folder / "runs" / "1")])


def test_home_is_expanded(overrides, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cfg = prepared([*overrides, "DATASETS.FOLDER", "~/mine", "OUTPUT_DIR", "~/run"])
    assert cfg.OUTPUT_DIR == str(tmp_path / "run")


def test_output_dir_may_have_the_name_of_a_log_file(overrides, tmp_path):
    prepared([*overrides, "OUTPUT_DIR", str(tmp_path / "run.log")])
    assert (tmp_path / "run.log").is_dir()


def test_class_frequencies_of_another_data_set_are_not_taken(overrides, folder, tmp_path):
    """Nor of one with the same classes in a folder of the same name."""
    other = tmp_path / "others" / folder.name
    shutil.copytree(folder, other)
    for part in ("images", "labels"):
        (other / part / "train" / "4.png").unlink()
    save_checkpoint(prepared(overrides), tmp_path / "output")
    settings = {"eval_only": True, "resume": True}
    cfg = prepared([*overrides, "DATASETS.FOLDER", str(other)], **settings)
    assert class_frequency_of(cfg).num_images == 4


def test_gpus_are_not_asked_for_in_vain(overrides):
    with pytest.raises(InputError, match='DEVICE is "cpu", but --num-gpus 8: set it to cuda'):
        prepared([*overrides, "MODEL.DEVICE", "cpu"], num_gpus=8)


def test_a_folders_test_split_is_evaluated_where_it_is_named(overrides, folder):
    _, val = register_folder(folder)
    name = val.replace("_val", "_test")
    named = [*overrides, "DATASETS.TEST", f"('{name}',)"]
    with pytest.raises(InputError, match=f'"{name}", which does not exist'):
        prepared(named)
    for part in ("images", "labels"):
        shutil.copytree(folder / part / "val", folder / part / "test")
    assert prepared(named).DATASETS.TEST == (name,)
    assert prepared(overrides).DATASETS.TEST == (val,)


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(overrides, tmp_path):
    output = tmp_path / "output"
    train([*overrides, "SOLVER.MAX_ITER", "2"])
    lock.release()
    before = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth"), "MODEL.FPN.OUT_CHANNELS", "32"]
    for settings in ({}, {"resume": True}, {"eval_only": True}):
        with pytest.raises(InputError, match="model_final.pth.* of another shape"):
            start([*overrides, *weights], **settings)
        lock.release()
        after = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
        assert after == before


def test_missing_weights_are_refused_before_the_data_is_read(overrides, folder):
    (folder / "images" / "train" / "0.png").write_bytes(b"broken")
    words = [*overrides, "MODEL.WEIGHTS", "nowhere.pth"]
    for settings in ({}, {"eval_only": True}):
        with pytest.raises(InputError, match="nowhere.pth .MODEL.WEIGHTS.: file not found"):
            prepared(words, **settings)
    with pytest.raises(InputError, match="no checkpoint to evaluate: set MODEL.WEIGHTS"):
        prepared(overrides, eval_only=True)


def test_missing_anchors_are_refused_before_the_data_is_read(overrides, folder):
    (folder / "images" / "train" / "0.png").write_bytes(b"broken")
    words = ["MODEL.REGULARIZERS", "SemanticAnchorRegularizer"]
    words += ["MODEL.SEMANTIC_ANCHOR.ANCHORS", "missing.npy"]
    with pytest.raises(InputError, match="ANCHORS: file not found: missing.npy"):
        prepared([*overrides, *words])


def test_a_training_that_has_done_more_iterations_is_not_resumed(overrides):
    train([*overrides, "SOLVER.MAX_ITER", "2"])
    with pytest.raises(InputError, match="MAX_ITER is 1, .* has done 2 iterations. Set it to 2"):
        start([*overrides, "SOLVER.MAX_ITER", "1"], resume=True)
    for settings in ({}, {"resume": True, "eval_only": True}):
        start([*overrides, "SOLVER.MAX_ITER", "1"], **settings)


def test_unchanged_data_sets_are_not_read_again(overrides, folder, caplog, monkeypatch):
    (folder / "classes.txt").write_text("ground\nblock\ndot\npothole\n")
    first = class_frequency_of(prepared(overrides))
    warnings = [text for text in caplog.messages if "pothole" in text]
    caplog.clear()

    with monkeypatch.context() as patch:
        patch.setattr("sar.preflight.class_counts.scan_dataset", None)
        assert class_frequency_of(prepared(overrides)) == first
    assert [text for text in caplog.messages if "pothole" in text] == warnings

    image = folder / "images" / "val" / "2.png"
    image.write_bytes(image.read_bytes()[:-300])
    for _ in range(2):  # a check with problems is not kept
        with pytest.raises(InputError, match="images/val/2.png"):
            prepared(overrides)


@pytest.mark.parametrize(
    "words", [["INPUT.WHITE_POINT", "9000"], ["DATASETS.TEST", "()"], ["DATASETS.CHECK", "False"]]
)
def test_other_settings_of_the_check_read_the_data_again(words, overrides, monkeypatch):
    prepared(overrides)
    monkeypatch.setattr("sar.preflight.class_counts.scan_dataset", None)
    with pytest.raises(TypeError):
        prepared([*overrides, *words])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"warnings": []}'])
def test_a_broken_cache_is_not_used(content, overrides):
    first = class_frequency_of(prepared(overrides))
    (file,) = Path(os.environ["FVCORE_CACHE"], "sar").iterdir()
    file.write_text(content)
    assert class_frequency_of(prepared(overrides)) == first


def test_more_classes_than_8_bits_hold_need_no_key(overrides, folder):
    names = [f"class {i}" for i in range(300)]
    (folder / "classes.txt").write_text("\n".join(names))
    for label in (folder / "labels").rglob("*.png"):
        ids = np.array(Image.open(label)).astype(np.uint16)
        ids[ids == 255] = 65535
        ids[5] = 299
        Image.fromarray(ids).save(label)
    cfg = prepared(overrides)
    assert cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE == 65535
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 300
    assert class_frequency_of(cfg).pixels[299] == 5 * 64


@pytest.mark.parametrize("weights", [{}, {"conv.weight": torch.zeros(3)}])
def test_weights_of_another_model_are_refused(weights, overrides, tmp_path):
    """Though batch norms do not miss their counts of batches."""
    torch.save({"model": weights}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=f"none of its {len(weights)} arrays is in the model"):
        start([*overrides, "MODEL.WEIGHTS", str(tmp_path / "other.pth")])


@pytest.mark.parametrize(
    "extra, message",
    [
        (
            ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4"],
            "NUM_CLASSES is 4, but .* 3 classes: set it to 3",
        ),
        (["MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "0"], "IGNORE_VALUE is 0, but .* 255"),
        (["MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHed"], 'mean "SemSegFPNHead"'),
        (["MODEL.BACKBONE.NAME", "build_resnet_fpn"], 'mean "build_resnet_fpn_backbone"'),
        (["MODEL.META_ARCHITECTURE", "SemanticSegmenter"], 'mean "SemanticSegmentor"'),
        (["MODEL.MASK_ON", "True"], "MASK_ON is True, but .* takes no instances: set it to False"),
        (["MODEL.META_ARCHITECTURE", "RegularizedPanopticFPN"], "MASK_ON is False, .* to True"),
        (
            ["MODEL.META_ARCHITECTURE", "RegularizedPanopticFPN", "MODEL.MASK_ON", "True"],
            '_train" has no instances to train on: 5 of its 5 images have none in "annotations"',
        ),
        (
            ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "hrnet_w49"],
            'mean "hrnet_w',
        ),
        (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER is 0, expected 1 or more"),
        (["SOLVER.CHECKPOINTS_KEPT", "1"], "CHECKPOINTS_KEPT is 1, expected 2 or more, or 0"),
        (["DATALOADER.MAX_SKIPPED_SAMPLES", "-1"], "MAX_SKIPPED_SAMPLES is -1, expected 0 or more"),
        (["INPUT.MAX_SIZE_TEST", "0"], "INPUT.MAX_SIZE_TEST is 0"),
        (["TEST.EXPECTED_RESULTS", "['mIoU']"], "EXPECTED_RESULTS is .* task, metric, value and"),
        (["MODEL.PIXEL_MEAN", "[1.0]"], "MODEL.PIXEL_MEAN is .* expected three numbers"),
        (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE"),
        (
            ["INPUT.CLASS_MASKS", "True", "MODEL.MASK_ON", "True"]
            + ["MODEL.META_ARCHITECTURE", "RegularizedPanopticFPN"],
            "INPUT.CLASS_MASKS and MODEL.MASK_ON are True",
        ),
        (["MODEL.RESNETS.DEPTH", "19"], "from MODEL.BACKBONE, .*19 .*RESNETS.DEPTH"),
        (["MODEL.FPN.NORM", "x"], "from MODEL.BACKBONE, .*KeyError: 'x' .*MODEL.FPN.NORM"),
        (["MODEL.SEM_SEG_HEAD.NORM", "BNN"], "from MODEL.SEM_SEG_HEAD: .*BNN.*SEM_SEG_HEAD.NORM"),
        (
            ["MODEL.SEM_SEG_HEAD.CONVS_DIM", "0"],
            "from MODEL: sem_seg_head.* would have the shape 0x",
        ),
        (
            ["MODEL.RESNETS.OUT_FEATURES", "[]"],
            "ValueError: max.. arg .*MODEL.RESNETS.OUT_FEATURES",
        ),
        (["MODEL.FPN.IN_FEATURES", "['res9']"], "KeyError: 'res9' .*MODEL.FPN.IN_FEATURES"),
        (
            ["MODEL.REGULARIZERS", "('SemanticAnchorRegularizer',)"]
            + ["MODEL.SEMANTIC_ANCHOR.MOMENTUM", "2.0"],
            "^MODEL.SEMANTIC_ANCHOR, SemanticAnchorRegularizer: momentum must",
        ),
        (["MODEL.CLASSIFIER", "sem_seg_head.predicter"], "sem_seg_head.predicter"),
        (["MODEL.FPN.NORM", "GN"], "num_channels .16. must be divisible .*MODEL.FPN.NORM"),
        (
            ["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2', 'p9']"],
            'names "p9", which the backbone does not',
        ),
        (["SOLVER.WARMUP_METHOD", "linaer"], "no schedule can be built from SOLVER: .*linaer"),
        (["SOLVER.MOMENTUM", "9.0"], "^SOLVER.MOMENTUM is 9.0, expected less than 1"),
        (["SOLVER.MOMENTUM", "-1.0"], "no optimizer can be built from SOLVER: .*momentum"),
        (
            [
                "SOLVER.CLIP_GRADIENTS.ENABLED",
                "True",
                "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
                "full_model",
            ],
            "from SOLVER.CLIP_GRADIENTS: .*full_model.*SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        ),
        (["TEST.OBJECT_IOU", "0"], "^TEST.OBJECT_IOU is 0.0, expected above 0, up to 1"),
        (["INPUT.CROP.SIZE", "('a', 'b')"], "INPUT"),
        (["OUTPUT_DIR", ""], "OUTPUT_DIR is empty, so nothing would be saved: name a folder"),
        (["MODEL.LOSS.NAME", "sesaw"], 'mean "seesaw"'),
        (
            ["MODEL.LOSS.NAME", "focal", "MODEL.LOSS.OWN_CLASS_WEIGHTS", "[1, 2]"],
            "OWN_CLASS_WEIGHTS has 2 numbers, expected 3: give one for each class",
        ),
        (["DATALOADER.SAMPLER_TRAIN", "RepeatFactorSampler"], 'mean "RepeatFactorTrainingSampler"'),
        (["MODEL.REGULARIZERS", "('SemanticAnchor',)"], 'mean "SemanticAnchorRegularizer"'),
        (["DATASETS.FOLDER", "", "DATASETS.TRAIN", "('camvid_tran',)"], 'mean "camvid_train"'),
        (["DATASETS.FOLDER", ""], "DATASETS.TRAIN is empty"),
        (["DATASETS.FOLDER", "nowhere"], "nowhere.*DATASETS.FOLDER"),
        (["OUTPUT_DIR", "/dev/null/output"], "OUTPUT_DIR /dev/null/output cannot be written"),
        (["OUTPUT_DIR", 300 * "x"], "OUTPUT_DIR x+ cannot be written .File name too long.*Choose"),
        (["DATASETS.CLASS_FREQUENCY", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_is_refused(extra, message, overrides):
    with pytest.raises(InputError, match=message):
        start([*overrides, *extra])


@pytest.mark.parametrize("name", ["cityscapes_fine_sem_seg_train", "ade20k_sem_seg_train"])
def test_detectron2s_data_sets_that_are_not_there(name, overrides):
    classes = "19" if name.startswith("cityscapes") else "150"
    extra = [
        "DATASETS.FOLDER", "", "DATASETS.TRAIN", f"('{name}',)",
        "DATASETS.TEST", "()", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes,
    ]  # fmt: skip
    with pytest.raises(InputError, match=f"{name}.*DETECTRON2_DATASETS"):
        prepared([*overrides, *extra])


@pytest.mark.parametrize("key", ["stuff_classes", "ignore_label"])
def test_data_sets_that_are_not_for_semantic_segmentation(key, overrides):
    datasets.register("boxes_train", lambda: [{"file_name": "a.jpg"}], ["a"], [[0, 0, 0]])
    delattr(MetadataCatalog.get("boxes_train"), key)
    extra = ["DATASETS.FOLDER", "", "DATASETS.TRAIN", "('boxes_train',)"]
    with pytest.raises(InputError, match=f'"boxes_train" have no {key}.*MetadataCatalog'):
        prepared([*overrides, *extra])


def test_data_sets_that_name_a_class_twice(overrides):
    names = ["road", "car", "road"]
    datasets.register("twice_train", lambda: [{"file_name": "a.jpg"}], names, [[0, 0, 0]] * 3)
    extra = ["DATASETS.FOLDER", "", "DATASETS.TRAIN", "('twice_train',)"]
    with pytest.raises(InputError, match='"twice_train" name a class more than once.*: road. Give'):
        prepared([*overrides, *extra])


@pytest.mark.parametrize("split", ["train", "val"])
def test_bad_files_are_found_before_training(split, overrides, folder):
    image, label = (folder / kind / split / "3.png" for kind in ("images", "labels"))
    good_image, good_label = image.read_bytes(), label.read_bytes()

    def refused(message):
        with pytest.raises(InputError, match=message):
            prepared(overrides)
        image.write_bytes(good_image)
        label.write_bytes(good_label)

    Image.fromarray(np.full((48, 64), 1, np.uint8)).save(label, format="JPEG")
    refused(f"labels/{split}/3.png is a JPEG")
    image.write_bytes(good_image[:-300])
    refused(f"images/{split}/3.png")
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(label)
    refused(f"labels/{split}/3.png has the ids 7")
    Image.fromarray(np.zeros((48, 60), np.uint8)).save(label)
    refused(f"(?s){split}/3.png.*60")
    label.unlink()
    refused("3.png.*label|label.*3.png")
    prepared(overrides)


def test_class_frequencies_of_other_classes(overrides, tmp_path):
    path = str(tmp_path / "frequency.json")
    ClassFrequency(("a", "b"), 2, (2, 1), (10, 5), 0).save(path)
    with pytest.raises(InputError, match=r"frequency.json.*\(a, b.*\(ground, block"):
        prepared([*overrides, "DATASETS.CLASS_FREQUENCY", path])


def test_a_training_set_of_ignored_pixels_alone(overrides, folder):
    for label in (folder / "labels" / "train").iterdir():
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(label)
    with pytest.raises(InputError, match="(?s)nothing labelled.*All pixels of all 5 labels"):
        prepared(overrides)


def test_test_images_that_the_model_cannot_take(overrides, folder, tmp_path):
    config = "configs/Folder/baseline_deeplab_v3_plus_R_50.yaml"
    weights = str(tmp_path / "weights.pth")
    words = [*overrides, "INPUT.MIN_SIZE_TEST", "0", "MODEL.WEIGHTS", ""]
    words += ["MODEL.SEM_SEG_HEAD.ASPP_GLOBAL_POOLING", "False"]
    message = "48 x 64 pixels .*ASPP_GLOBAL_POOLING True, or another"
    with pytest.raises(InputError, match=message):
        start(words, config_file=config)
    torch.save(build_model(prepared(words, config_file=config)).state_dict(), weights)
    words += ["MODEL.WEIGHTS", weights]
    cfg = prepared(words, config_file=config, eval_only=True)
    with pytest.raises(InputError, match=message):
        Trainer.test(cfg, Trainer.load_for_evaluation(cfg))
    shutil.rmtree(folder)  # a prediction loads the model without them
    assert not Trainer.load_for_evaluation(cfg).training


def test_a_warm_up_of_half_of_the_training_is_named(overrides, caplog):
    for steps in ("1000", "150"):
        prepared([*overrides, "SOLVER.MAX_ITER", "300", "SOLVER.WARMUP_ITERS", steps])
        assert f"SOLVER.WARMUP_ITERS {steps} is half or more" in caplog.text
        assert "set SOLVER.WARMUP_ITERS to 30" in caplog.text
        caplog.clear()
    prepared([*overrides, "SOLVER.MAX_ITER", "300", "SOLVER.WARMUP_ITERS", "30"])
    assert "WARMUP" not in caplog.text


@pytest.mark.parametrize("num_processes", [1, 2])
def test_one_image_a_process_is_too_few_for_upernet(num_processes, overrides):
    def check(*more, **settings):
        words = [*overrides, "MODEL.SEM_SEG_HEAD.NAME", "UPerNetHead", "DATASETS.CHECK", "False"]
        words += ["SOLVER.IMS_PER_BATCH", str(num_processes), *more]
        prepared(words, num_gpus=0, num_processes=num_processes, **settings)

    message = f"IMS_PER_BATCH {num_processes} is one image.*UPerNetHead.* to {2 * num_processes} or"
    with pytest.raises(InputError, match=message):
        check()
    check("SOLVER.IMS_PER_BATCH", str(2 * num_processes))
    check("MODEL.SEM_SEG_HEAD.NORM", "GN", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "64")
    check("MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead")
