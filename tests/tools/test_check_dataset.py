import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sar import cli
from sar.config import load_config
from sar.data import datasets
from sar.data.class_frequency import ClassFrequency
from sar.data.units import IMAGES
from sar.study.comparison import plan_comparison
from sar.training.duration import Duration
from sar.visualization.dataset import GROUP_COLORS, MARGIN, TILE_WIDTH

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..programs import load_program

PATH = Path(__file__).parents[2] / "tools" / "check_dataset.py"


CONFIG = "configs/Folder/recommended_sem_fpn_efficientnet_lite0.yaml"
PLAIN = "configs/Folder/baseline_sem_fpn_efficientnet_lite0.yaml"


@pytest.fixture(scope="module")
def tool():
    """The program, with advice about the same config on any machine."""
    program = load_program(PATH)
    program.RECOMMENDED = dict.fromkeys(program.RECOMMENDED, CONFIG)
    return program


@pytest.fixture(autouse=True)
def own_catalogs(monkeypatch):
    """What a test registers goes with it."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "roads_val"  # the name must not be taken for the split
    for split, number in (("train", 4), ("val", 2)):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True)
        for i in range(number):
            ids = np.zeros((10, 20), np.uint8)
            ids[:2] = 255
            ids[5:, : i + 1] = 1
            Image.fromarray(ids).save(folder / "labels" / split / f"{i}.png")
            Image.new("RGB", (20, 10)).save(folder / "images" / split / f"{i}.jpg")
    (folder / "classes.txt").write_text("road\ncar\npothole\n")
    return folder


def test_clean_folder(tool, folder, tmp_path, capsys):
    assert tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "folder_roads_val_train: 4 images, 800 labelled or ignored pixels" in out
    assert "folder_roads_val_val: 2 images" in out
    assert "20 x 10 (4 images)" in out
    assert "ignored (255): 20.00% of the pixels" in out
    assert "ids found: 0-1, 255" in out
    assert out.count("No problems found") == 2
    # The validation split need not show all classes.
    assert (
        'No problems found, but warnings (1):\n  No training label has a pixel of the class "p'
        in out
    )
    path = tmp_path / "out" / "class_frequency.json"
    assert f"DATASETS.CLASS_FREQUENCY {path}" in out
    # Of the training split, though the validation split was read after it.
    assert ClassFrequency.load(path) == ClassFrequency(
        ("road", "car", "pothole"), 4, (4, 4, 0), (640 - 50, 50, 0), 160
    )


def advice_in(out):
    """The topics with their texts, and the commands."""
    advice, *commands = re.split("\nTo (?:train|compare)", out.split("\nAdvice for ")[1])
    topics = re.split(r"\n  (?=\S)", advice)[1:]
    topics = dict(re.split(r"\s{2,}", topic, maxsplit=1) for topic in topics)
    return topics, [
        shlex.split(command.replace("\\\n", "").split(":\n")[1]) for command in commands
    ]


def test_advice_on_a_training_set_comes_last(tool, folder, tmp_path, capsys):
    args = ["--folder", str(folder), "--output", str(tmp_path / "out")]
    assert tool.main([*args, "INPUT.COLOR_JITTER", "0.1"]) == 0
    out = capsys.readouterr().out
    assert out.index("Advice for folder_roads_val_train") > out.rindex("No problems found")
    topics, (plain, _) = advice_in(out)
    assert plain[3] == PLAIN
    # The class car is on all images, with 7.8% of the pixels; an equal share is 50%.
    assert topics["rare classes"].startswith("None: ")
    assert topics["image size"].startswith("The median image has 20 x 10 pixels")
    assert "An epoch has 4 images" in topics["schedule"]
    assert topics["duration"].startswith("Add --time")


def test_advised_commands_are_ready_to_run(tool, folder, tmp_path, capsys):
    for file in sorted((folder / "labels/train").iterdir())[1:]:
        ids = np.zeros((10, 20), np.uint8)
        Image.fromarray(ids).save(file)  # the first label alone shows a car, of five pixels
    tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")])
    topics, (command, plain, compare) = advice_in(capsys.readouterr().out)
    assert topics["rare classes"].startswith("Rare by pixel only")
    assert topics["small objects"].startswith("Typical widths in pixels: car 1.")
    assert command[:4] == ["python", "train_net.py", "--config-file", CONFIG]
    cfg = load_config(CONFIG, command[4:])
    assert cfg.DATASETS.FOLDER == str(folder)
    assert cfg.MODEL.LOSS.NAME == "cross_entropy + 0.5 * lovasz"
    assert cfg.INPUT.MIN_SIZE_TRAIN[0] == cfg.INPUT.MIN_SIZE_TEST == 32
    # The plain model is trained without the recipe.
    assert plain[3] == PLAIN and "INPUT.MIN_SIZE_TRAIN" in plain
    assert load_config(PLAIN, plain[4:]).MODEL.LOSS.NAME == ""
    # The comparison starts from the plain model, and has methods of its own.
    assert compare[:2] == ["python", "tools/compare.py"]
    comparison = load_program(PATH.with_name("compare.py")).parse_args(compare[2:])
    assert (comparison.folder, comparison.config_file) == (folder, PLAIN)
    expected = load_config(PLAIN, plain[4:])
    assert comparison.iterations == expected.SOLVER.MAX_ITER != load_config(PLAIN).SOLVER.MAX_ITER
    plan_comparison({"plain": {}}, PLAIN, comparison.opts, folder=folder)  # accepts the keys
    expected.SOLVER.MAX_ITER, expected.DATASETS.FOLDER = load_config(PLAIN).SOLVER.MAX_ITER, ""
    assert load_config(PLAIN, comparison.opts) == expected


def test_a_console_command_advises_console_commands(tool, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "command", "sar-check-dataset")
    tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")])
    _, commands = advice_in(capsys.readouterr().out)
    assert [command[0] for command in commands] == ["sar-train", "sar-compare"]


def test_recommended_configs_are_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    program = load_program(PATH)
    for config in program.RECOMMENDED.values():
        plain = config.replace("recommended_", "baseline_")
        samplers = [load_config(each).DATALOADER.SAMPLER_TRAIN for each in (config, plain)]
        assert samplers == ["RepeatFactorTrainingSampler", "TrainingSampler"]


@pytest.mark.parametrize("config", [PLAIN, f"./{PLAIN}"])
def test_a_config_of_the_users_own_has_one_command(tool, folder, tmp_path, capsys, config):
    args = ["--folder", str(folder), "--output", str(tmp_path / "out")]
    assert tool.main([*args, "--config-file", config]) == 0
    out = capsys.readouterr().out
    _, (train, compare) = advice_in(out)
    assert train[3] == compare[5] == config
    assert "the plain model:" not in out


def test_no_advice_for_broken_or_other_sets_and_with_quiet(tool, folder, tmp_path, capsys):
    args = ["--folder", str(folder), "--output", str(tmp_path / "out")]
    assert tool.main([*args, "--quiet"]) == 0
    (folder / "labels/train/3.png").write_bytes(b"")
    assert tool.main(args) == 1
    assert "Advice for" not in capsys.readouterr().out
    assert tool.main([*args, "--config-file", "configs/Folder/no.yaml"]) == 1
    assert "config configs/Folder/no.yaml cannot be read" in capsys.readouterr().err


def test_the_duration_is_of_the_advised_training(tool, folder, tmp_path, capsys, monkeypatch):
    measured = []

    def measure(cfg, frequency):
        measured.append((cfg, frequency))
        return Duration(2.0, 20, cfg.SOLVER.MAX_ITER, 0.5, 2, 1, "the CPU (1 thread)")

    monkeypatch.setattr(tool, "measure_duration", measure)
    args = ["--folder", str(folder), "--output", str(tmp_path / "out"), "--time"]
    assert tool.main(args) == 0
    out = capsys.readouterr().out
    topics, _ = advice_in(out.split("\nDuration: ")[0])
    ((cfg, frequency),) = measured
    assert cfg.DATASETS.FOLDER == str(folder) and frequency.num_images == 4
    assert f"SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}." in topics["schedule"]
    assert f"\nDuration: About 33 min for {cfg.SOLVER.MAX_ITER:,} steps of 2 s" in out


def test_commands_name_imports_and_start_comparisons_from_the_plain_model(
    tool, folder, tmp_path, capsys
):
    module = tmp_path / "my model.py"
    module.write_text("")
    config = CONFIG.replace("recommended", "sar")
    args = ["--folder", str(folder), "--output", str(tmp_path / "out"), "--config-file", config]
    tool.main([*args, "--import", str(module)])
    _, commands = advice_in(capsys.readouterr().out)
    assert [command[command.index("--config-file") + 1] for command in commands][-2:] == [PLAIN] * 2
    assert all(command[2:4] == ["--import", str(module)] for command in commands)


def test_without_a_val_split_no_comparison_is_advised(tool, folder, tmp_path, capsys):
    for kind in ("images", "labels"):
        (folder / kind / "val").rename(tmp_path / kind)
    assert tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "Without a val split, nothing is evaluated" in out and "compare.py" not in out


def test_a_training_that_cannot_be_measured_hides_no_advice(tool, folder, tmp_path, capsys):
    (folder / "labels/val/0.png").write_bytes(b"")
    args = ["--folder", str(folder), "--output", str(tmp_path / "out"), "--time"]
    assert tool.main([*args, "SOLVER.MOMENTUM", "2"]) == 1
    captured = capsys.readouterr()
    assert "To train the plain model:" in captured.out
    assert "val has 1 problems" in captured.err and "SOLVER.MOMENTUM is 2" in captured.err


def test_table_is_sorted_and_grouped_for_training_sets_only(tool, folder, tmp_path, capsys):
    tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")])
    train, val = capsys.readouterr().out.split("folder_roads_val_val")
    rows = [line.split() for line in train.splitlines() if line.startswith(("road", "car", "pot"))]
    assert rows == [
        ["road", "0", "4", "100.000", 16 * "#", "f", "590", "92.188", 16 * "#", "f"],
        ["car", "1", "4", "100.000", 16 * "#", "f", "50", "7.812", "#", "f"],
        ["pothole", "2", "0", "0.000", "r", "0", "0.000", "r"],
    ]
    headers = [text.split("class ")[1].splitlines()[0].split() for text in (train, val)]
    assert headers[0] == "id images % by images pixels % by pixels".split()
    assert "f, c, r: frequent, common and rare classes" in train and "f, c, r" not in val
    assert headers[1] == ["id", "images", "%", "pixels", "%"]


def test_ties_that_decide_a_group_are_told_below_the_table(tool, folder, tmp_path, capsys):
    for path in (folder / "labels/train").iterdir():
        ids = np.asarray(Image.open(path)).copy()
        ids[5:, 10:18] = 2
        Image.fromarray(ids).save(path)
    tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")])
    train, val = capsys.readouterr().out.split("folder_roads_val_val")
    rows = [line.split() for line in train.splitlines() if line.startswith(("road", "car", "pot"))]
    assert [(row[0], row[5]) for row in rows] == [("road", "f"), ("pothole", "f"), ("car", "r")]
    (line,) = [line for line in train.splitlines() if "border of two groups" in line]
    assert "images" in line and "road, pothole, car (4 images each)" in line
    assert "border" not in val


def test_names_of_classes_cannot_write_to_the_terminal(tool):
    frequency = ClassFrequency(("\x1b[2Jroad", "car"), 4, (4, 1), (10, 1), 0)
    table = tool.class_table(SimpleNamespace(frequency=frequency, units=IMAGES), with_groups=True)
    assert r"\x1b[2Jroad" in table and "\x1b" not in table


def test_problems_are_listed_and_nothing_is_written(tool, folder, tmp_path, capsys):
    labels, images = folder / "labels/train", folder / "images/train"
    Image.fromarray(np.full((10, 20), 7, np.uint8)).save(labels / "0.png")
    Image.new("RGB", (20, 11)).save(images / "1.jpg")
    images.joinpath("2.jpg").write_bytes(images.joinpath("2.jpg").read_bytes()[:300])
    labels.joinpath("3.png").write_bytes(b"")
    assert tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    for part in (
        "ids out of range (1)",
        f"{labels / '0.png'} has the ids 7 (200 pixels)",
        "size differs (1)",
        f"{images / '1.jpg'} is 20 x 11",
        "unreadable image (1)",
        str(images / "2.jpg"),
        "unreadable label (1)",
        str(labels / "3.png"),
        "ids found: 0-1, 7, 255",
    ):
        assert part in out
    assert out.count("No problems found") == 1  # the validation split
    assert not (tmp_path / "out").exists()


def test_a_problem_of_many_files_is_one_line_unless_verbose(tool, folder, tmp_path, capsys):
    for file in (folder / "labels/train").iterdir():
        file.write_bytes(b"")
    args = ["--folder", str(folder), "--output", str(tmp_path / "out")]
    assert tool.main(args) == 1
    out = capsys.readouterr().out
    assert out.count("cannot be read") == 1
    assert "Also in 3 more files: 1.png, 2.png, 3.png" in out
    assert tool.main([*args, "--verbose"]) == 1
    assert capsys.readouterr().out.count("cannot be read") == 4


def test_missing_label_in_one_split_leaves_the_other_checked(tool, folder, tmp_path, capsys):
    (folder / "labels/train/2.png").unlink()
    assert tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "1 of 4 images" in captured.err and "2.jpg" in captured.err
    assert "folder_roads_val_val: 2 images" in captured.out


def test_every_split_that_is_there_is_checked(tool, folder, tmp_path, capsys):
    for part in ("images", "labels"):
        shutil.copytree(folder / part / "val", folder / part / "test")
        shutil.rmtree(folder / part / "val")
    assert tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "folder_roads_val_train: 4 images" in out and "folder_roads_val_test: 2 images" in out
    shutil.rmtree(folder / "labels/test")
    assert tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")]) == 0
    assert f"test is not checked, because the folder {folder / 'labels/test'} does not exist" in (
        capsys.readouterr().out
    )
    (folder / "labels/test").mkdir()
    assert tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")]) == 0
    assert f"because the folder {folder / 'labels/test'} is empty" in capsys.readouterr().out
    shutil.rmtree(folder / "labels/train")
    assert tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")]) == 1
    assert "The split train is incomplete" in capsys.readouterr().err


def test_palettes_of_the_splits_are_compared(tool, folder, tmp_path, capsys):
    for split, colors in (("train", [255, 0, 0, 0, 0, 255]), ("val", [0, 0, 255, 255, 0, 0])):
        for file in (folder / "labels" / split).iterdir():
            label = Image.fromarray(np.asarray(Image.open(file)))
            label.putpalette([0, 0, 0, *colors, *[0] * 3 * 253])
            label.save(file)
    assert tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.count("The palettes of label files disagree") == 1
    assert "labels/train/" in out and "labels/val/" in out


def test_a_single_class_is_a_problem(tool, folder, tmp_path, capsys):
    for file in (folder / "labels/train").iterdir():
        Image.fromarray(np.where(np.asarray(Image.open(file)) == 1, 255, 0).astype(np.uint8)).save(
            file
        )
    assert tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    assert 'One class has pixels, "road"' in out
    assert "warnings (2):" in out and "if 255 stands for the foreground" in out


def test_16_bit_images_and_the_keys_that_their_warning_names(tool, folder, tmp_path, capsys):
    for file in sorted((folder / "images").rglob("*.jpg")):
        values = np.random.default_rng(0).integers(7000, 8000, (10, 20)).astype(np.uint16)
        Image.fromarray(values).save(file.with_suffix(".png"))
        file.unlink()
    args = ["--folder", str(folder), "--output", str(tmp_path / "out"), "--pictures"]
    assert tool.main(args) == 0
    out = capsys.readouterr().out
    assert out.count("grey images of 16 bits") == 2
    keys = re.search(r"set (INPUT.BLACK_POINT \d+ INPUT.WHITE_POINT \d+)\.", out)[1].split()
    assert tool.main([*args, *keys]) == 0
    assert "grey images" not in capsys.readouterr().out
    assert tool.main([*args, "INPUT.BLACK_POINT", "-1"]) == 1
    assert "INPUT.BLACK_POINT is -1" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:::PIL")
def test_larger_images_are_read_if_the_command_line_says_so(tool, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    args = ["--folder", str(folder), "--output", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(tool, "allow_pixels", lambda number: None)
        assert tool.main(args) == 1
    assert tool.main([*args, "INPUT.MAX_PIXELS", "200"]) == 0


def test_nothing_readable(tool, folder, tmp_path, capsys):
    for file in (folder / "labels/val").iterdir():
        file.write_bytes(b"")
    assert tool.main(["--folder", str(folder), "--output", str(tmp_path / "out")]) == 1
    assert "unreadable label (2)" in capsys.readouterr().out


def test_default_output_is_named_after_the_data_set(tool, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tool.main(["--folder", str(folder)]) == 0
    files = [str(p.relative_to(tmp_path)) for p in (tmp_path / "output").rglob("*.json")]
    assert files == ["output/folder_roads_val_train/class_frequency.json"]


def test_output_that_cannot_be_written(tool, folder, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert tool.main(["--folder", str(folder), "--output", str(tmp_path / "file")]) == 1
    assert "choose another --output" in capsys.readouterr().err


def test_registered_data_set(tool, folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "root").mkdir()
    folder.rename(tmp_path / "root" / "camvid")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    assert tool.main(["--dataset", "camvid_train", "--output", str(tmp_path / "out")]) == 0
    _, (command,) = advice_in(capsys.readouterr().out)
    assert command[4:8] == ["DATASETS.TRAIN", "camvid_train", "DATASETS.TEST", "camvid_val"]
    assert len(ClassFrequency.load(tmp_path / "out/class_frequency.json").class_names) == 11
    (tmp_path / "out/class_frequency.json").unlink()
    assert tool.main(["--dataset", "camvid_val", "--output", str(tmp_path / "out")]) == 0
    assert not list((tmp_path / "out").glob("[!.]*"))
    assert tool.main(["--dataset", "camvid_test"]) == 1
    assert "DETECTRON2_DATASETS" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args, expected",
    [
        (["--dataset", "camvid_trian"], 'Did you mean "camvid_train"?'),
        (["--folder", "no/such/folder"], "Folder not found: "),
        (["--folder", ".", "MODEL.LOSS.NAME", "dise"], 'Did you mean "dice"?'),
    ],
)
def test_unknown_names(tool, capsys, args, expected):
    assert tool.main(args) == 1
    assert expected in capsys.readouterr().err


def test_data_set_without_stuff_classes(tool, capsys):
    datasets.register("boxes_train", lambda: [{"file_name": "a.jpg"}], ["a"], [[0, 0, 0]])
    del MetadataCatalog.get("boxes_train").stuff_classes
    assert tool.main(["--dataset", "boxes_train"]) == 1
    assert 'The data set "boxes_train" has no stuff_classes' in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, expected",
    [
        ("folder_val_train", True),
        ("folder_training_val", False),
        ("ade20k_sem_seg_train", True),
        ("coco_2017_val_panoptic_stuffonly", False),
        ("camvid_test", False),
        ("my_roads", True),
        ("evaluation", True),
    ],
)
def test_training_sets_are_known_by_name(tool, name, expected):
    assert tool.is_training_set(name) is expected


def test_files_that_the_program_did_not_write_stay(tool, folder, tmp_path, capsys):
    path = tmp_path / "out" / "class_frequency.json"
    path.parent.mkdir()
    path.write_text("the user's")
    words = ["--folder", str(folder), "--output", str(path.parent)]
    assert tool.main(words) == 1
    assert f"{path}. Choose another --output, or add --overwrite" in capsys.readouterr().err
    assert path.read_text() == "the user's"
    for more in (["--overwrite"], []):  # then it is the program's own
        assert tool.main([*words, *more]) == 0
        assert ClassFrequency.load(path)
    assert tool.main(["--folder", str(folder), "--output", str(folder / "checked")]) == 1
    assert f"lies in the data set {folder}" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_does_not_stop_the_others(tool, folder, tmp_path, capsys):
    output = tmp_path / "out"
    name = f"folder_{folder.name}_train"
    (output / f"{name}_classes.png").mkdir(parents=True)
    words = ["--folder", str(folder), "--output", str(output), "--pictures"]
    assert tool.main(words) == 1
    assert f"error: {output / name}_classes.png cannot be written" in capsys.readouterr().err
    assert (output / f"{name}_samples.jpg").is_file()


def test_pictures_of_both_splits(tool, folder, tmp_path, capsys):
    # Rules that hold for a sample that cannot be read: it is left out of the pictures.
    (folder / "labels/train/3.png").write_bytes(b"")
    args = ["--folder", str(folder), "--output", str(tmp_path / "out"), "--pictures"]
    assert tool.main(args) == 1
    out = capsys.readouterr().out
    for split, number in (("train", 3), ("val", 2)):
        name = f"folder_roads_val_{split}"
        with Image.open(tmp_path / "out" / f"{name}_classes.png") as chart:
            colors = {color for _, color in chart.convert("RGB").getcolors(2**24)}
        assert (GROUP_COLORS["f"] in colors) == (split == "train")
        with Image.open(tmp_path / "out" / f"{name}_samples.jpg") as sheet:
            assert sheet.width == MARGIN + number * (TILE_WIDTH + MARGIN)
        assert f"Written: {tmp_path / 'out' / name}_samples.jpg" in out
    assert len(list((tmp_path / "out").glob("[!.]*"))) == 4  # and no class_frequency.json


def test_pictures_where_nothing_can_be_drawn(tool, folder, tmp_path):
    for file in (folder / "labels").rglob("*.png"):
        file.write_bytes(b"")
    args = ["--folder", str(folder), "--output", str(tmp_path / "out"), "--pictures"]
    assert tool.main(args) == 1
    assert not (tmp_path / "out").exists()


def test_quiet_says_only_what_is_wrong(tool, folder, tmp_path, capsys):
    args = ["--folder", str(folder), "--output", str(tmp_path / "out"), "--pictures", "--quiet"]
    assert tool.main(args) == 0
    assert tuple(capsys.readouterr()) == ("", "")
    (folder / "labels/train/3.png").write_bytes(b"")
    assert tool.main(args) == 1
    captured = capsys.readouterr()
    assert "unreadable label (1)" in captured.out and "val: 2 images" not in captured.out
    assert captured.err.startswith("error: ")
