import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sar.data.grey_range import GreyRange
from sar.data.label_files import read_label
from sar.data.palettes import PaletteComparison
from sar.data.scan import classes_shown, scan_dataset
from sar.errors import InputError

NAMES = ("road", "car", "pothole")
IGNORE = 255


@pytest.fixture
def make(tmp_path):
    """Writes images and their labels; gives the data set dicts."""

    def make(labels, image_suffix=".png"):
        dicts = []
        for i, ids in enumerate(labels):
            image, label = tmp_path / f"image{i}{image_suffix}", tmp_path / f"label{i}.png"
            noise = np.random.default_rng(i).integers(0, 256, (*ids.shape, 3), dtype=np.uint8)
            Image.fromarray(noise).save(image)
            Image.fromarray(ids).save(label)
            dicts.append({"file_name": str(image), "sem_seg_file_name": str(label)})
        return dicts

    return make


def random_labels(number, ids=(0, 1, 2, IGNORE), size=(40, 50), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.choice(np.array(ids, np.uint8), size) for _ in range(number)]


def scan(dicts, ignore_label=IGNORE, names=NAMES, check_images=True, **kwargs):
    return scan_dataset(
        dicts, names, ignore_label, check_images=check_images, progress=False, **kwargs
    )


def truncate(path):
    with open(path, "r+b") as file:
        file.truncate(len(file.read()) * 2 // 3)


@pytest.mark.parametrize("check_images", [False, True])
@pytest.mark.parametrize("num_threads", [1, 3, None])
def test_counts(make, num_threads, check_images):
    labels = random_labels(10) + random_labels(11, ids=(0, IGNORE), size=(7, 9), seed=1)
    result = scan(make(labels), num_threads=num_threads, check_images=check_images)
    assert result.problems == [] and result.out_of_range == {}
    result.raise_for_problems()
    frequency = result.frequency
    assert frequency.class_names == NAMES
    assert frequency.num_images == 21
    assert frequency.images == (21, 10, 10)
    assert frequency.pixels == tuple(sum(int((y == k).sum()) for y in labels) for k in range(3))
    assert frequency.ignored_pixels == sum(int((y == IGNORE).sum()) for y in labels)
    assert result.sizes == {(40, 50): 10, (7, 9): 11}
    assert all(type(count) is int for count in frequency.pixels + frequency.images)


def test_16_bit_labels_with_ids_above_255(make):
    ids = np.array([[0, 256, 299], [300, 65535, 299]], np.uint16)
    names = tuple(f"class {i}" for i in range(300))
    result = scan(make([ids]), ignore_label=65535, names=names)
    assert result.frequency.pixels[299] == 2 and result.frequency.pixels[256] == 1
    assert result.frequency.ignored_pixels == 1
    assert result.out_of_range == {300: (1, 1)}


def test_ignore_label_among_the_classes_is_ignored(make):
    result = scan(make([np.array([[0, 0, 1, 2]], np.uint8)]), ignore_label=0)
    assert result.frequency.pixels == (0, 1, 1)
    assert result.frequency.ignored_pixels == 2
    assert result.problems == []


def test_ids_out_of_range(make):
    labels = [
        np.array([[0, 1, 3, 3]], np.uint8),
        np.array([[0, 1, 2, IGNORE]], np.uint8),
        np.array([[3, 200, 2, 0]], np.uint8),
    ]
    dicts = make(labels)
    result = scan(dicts)
    assert result.out_of_range == {3: (2, 3), 200: (1, 1)}
    assert [(p.kind, p.file) for p in result.problems] == [
        ("ids out of range", dicts[0]["sem_seg_file_name"]),
        ("ids out of range", dicts[2]["sem_seg_file_name"]),
    ]
    assert "3 (1 pixels), 200 (1 pixels)" in result.problems[1].message
    assert result.frequency.pixels == (3, 2, 2)
    with pytest.raises(InputError) as error:
        result.raise_for_problems()
    for part in (
        "2 problems",
        dicts[0]["sem_seg_file_name"],
        "3 (2 labels, 3 pixels), 200 (1 labels, 1 pixels)",
        "ids 0 to 2, and 255 is ignored",
        "classes.txt",
        "NUM_CLASSES",
        "ignore_label",
        "tools/check_dataset.py",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_image_is_found_where_images_are_decoded(make, suffix):
    dicts = make(random_labels(3), image_suffix=suffix)
    truncate(dicts[1]["file_name"])
    (problem,) = scan(dicts).problems
    assert (problem.kind, problem.file) == ("unreadable image", dicts[1]["file_name"])
    assert dicts[1]["file_name"] in problem.message
    assert scan(dicts, check_images=False).problems == []


def test_unreadable_and_coloured_labels(make):
    dicts = make(random_labels(4))
    truncate(dicts[1]["sem_seg_file_name"])
    Image.new("RGB", (50, 40), "red").save(dicts[2]["sem_seg_file_name"])
    result = scan(dicts)
    files = [dicts[i]["sem_seg_file_name"] for i in (1, 2)]
    assert [(p.kind, p.file) for p in result.problems] == [
        ("unreadable label", files[0]),
        ("label of colours", files[1]),
    ]
    assert result.describe_problems().count("tools/import_dataset.py") == 1
    result.raise_for_problems(max_skipped=2)
    assert "R+G+B" in result.problems[1].message
    assert result.frequency.num_images == 2


@pytest.mark.parametrize("check_images", [False, True])
def test_missing_files(make, tmp_path, check_images):
    dicts = make(random_labels(3))
    (tmp_path / "image0.png").unlink()
    (tmp_path / "label1.png").unlink()
    del dicts[2]["sem_seg_file_name"]
    problems = scan(dicts, check_images=check_images).problems
    assert [(p.kind, p.file) for p in problems] == [
        ("missing image", dicts[0]["file_name"]),
        ("missing label", str(tmp_path / "label1.png")),
        ("missing label", dicts[2]["file_name"]),
    ]


@pytest.mark.parametrize("check_images", [False, True])
def test_sizes_that_differ(make, check_images):
    dicts = make(random_labels(3))
    Image.new("RGB", (50, 41)).save(dicts[0]["file_name"])
    dicts[1] |= {"height": 40, "width": 50}
    dicts[2] |= {"height": 80, "width": 50}
    first, second = scan(dicts, check_images=check_images).problems
    assert first.kind == second.kind == "size differs"
    assert first.file == dicts[0]["sem_seg_file_name"]
    assert "label0.png is 50 x 40, its image" in first.message and "50 x 41" in first.message
    assert "label2.png is 50 x 40, the data set says 50 x 80" in second.message


@pytest.mark.parametrize("check_images", [False, True])
def test_size_is_that_of_the_upright_image(make, check_images):
    dicts = make(random_labels(1), image_suffix=".jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 50)).save(dicts[0]["file_name"], exif=exif)
    assert scan(dicts, check_images=check_images).problems == []


@pytest.mark.parametrize("turned", ["file_name", "sem_seg_file_name"])
def test_an_orientation_that_one_file_has_is_explained(make, turned):
    dicts = make(random_labels(1))
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(dicts[0][turned]) as image:
        image.save(dicts[0][turned], exif=exif)
    (problem,) = scan(dicts).problems
    assert problem.kind == "size differs"
    assert f"the EXIF orientation of {dicts[0][turned]} swaps width and height" in problem.message


# -- classes


def test_a_class_in_no_training_label_is_named(make):
    dicts = make(random_labels(2, ids=(0, 1, IGNORE)))
    result = scan(dicts, is_training_set=True)
    (warning,) = result.warnings
    assert 'No training label has a pixel of the class "pothole"' in warning
    assert result.problems == []
    assert scan(dicts).warnings == []  # of a validation set
    # The ignored id needs no pixel, even if it is among the classes.
    assert scan(make(random_labels(1)), ignore_label=2, is_training_set=True).warnings == []


def test_foreground_saved_as_255_is_explained(make):
    dicts = make(random_labels(2, ids=(0, IGNORE)))
    for is_training_set in (False, True):
        result = scan(dicts, is_training_set=is_training_set)
        assert any(
            "the ids 0 and 255 alone, and 255 is ignored: if 255 stands for the foreground" in text
            for text in result.warnings
        )
    assert scan(make(random_labels(2, ids=(0,)))).warnings == []
    assert scan(make(random_labels(2, ids=(0, 1, IGNORE)))).warnings == []


def test_a_file_name_cannot_add_a_line(make):
    dicts = make([np.full((40, 50), 7, np.uint8), *random_labels(2)])
    for record in dicts[:2]:
        path = Path(record["sem_seg_file_name"])
        path = path.rename(path.with_name(f"a\nerror: forged{path.name}"))
        record["sem_seg_file_name"] = str(path)
    truncate(dicts[1]["sem_seg_file_name"])
    result = scan(dicts)
    assert len(result.problems) == 2
    with pytest.raises(InputError) as error:
        result.raise_for_problems()
    for text in (str(error.value), result.describe_problems()):
        assert text.count("a\\nerror: forged") == 2 and "\nerror" not in text


def test_one_class_is_a_problem(make):
    dicts = make(random_labels(2, ids=(0, IGNORE)))
    for is_training_set in (False, True):
        result = scan(dicts, names=("kerb",), is_training_set=is_training_set)
        assert [problem.kind for problem in result.problems] == ["single class"]
        with pytest.raises(InputError, match='one class, "kerb", .* label the background'):
            result.raise_for_problems(max_skipped=5)


def test_one_class_in_the_training_labels_is_a_problem(make):
    dicts = make(random_labels(2, ids=(1, IGNORE)))
    assert scan(dicts).problems == []
    with pytest.raises(InputError, match='One class has pixels, "car", .* label the background'):
        scan(dicts, is_training_set=True).raise_for_problems()


def test_sound_data_give_no_warning(make):
    assert scan(make(random_labels(3)), is_training_set=True).warnings == []


def turn(file, orientation):
    with Image.open(file) as image:
        image.load()
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(file, exif=exif)


@pytest.mark.parametrize(
    "size, orientation, label_orientation, is_told",
    [
        ((40, 50), 3, 1, True),
        ((40, 50), 1, 3, True),
        ((40, 40), 6, 1, True),
        ((40, 50), 3, 3, False),
        ((40, 50), 1, 1, False),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_orientation_of_an_image_alone(make, size, orientation, label_orientation, is_told, suffix):
    dicts = make(random_labels(3, size=size), suffix)
    turn(dicts[1]["file_name"], orientation)
    turn(dicts[1]["sem_seg_file_name"], label_orientation)
    warnings = scan(dicts).warnings
    assert len(warnings) == is_told
    if is_told:
        assert f"1 images, such as {dicts[1]['file_name']}, are turned" in warnings[0]


def test_label_that_was_drawn_on_the_upright_image(make):
    dicts = make(random_labels(1, size=(50, 40)))
    with Image.open(dicts[0]["file_name"]) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(dicts[0]["file_name"])
    turn(dicts[0]["file_name"], 6)
    result = scan(dicts)
    assert result.problems == [] and result.warnings == []


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_quarter_turn_that_the_label_lacks_is_explained(make, suffix):
    dicts = make(random_labels(1), suffix)
    turn(dicts[0]["file_name"], 6)
    (problem,) = scan(dicts).problems
    assert f"the EXIF orientation of {dicts[0]['file_name']} swaps width" in problem.message


# -- palettes and values


def test_palettes_are_compared_with_each_other_and_with_the_classes(make):
    dicts = make(random_labels(3))
    red, green = (255, 0, 0), (0, 255, 0)
    for i, record in enumerate(dicts):
        with Image.open(record["sem_seg_file_name"]) as file:
            label = Image.fromarray(np.asarray(file))
        label.putpalette([0, 0, 0, *(green + red if i == 2 else red + green)])
        label.save(record["sem_seg_file_name"])

    def scan_with_colors(dicts):
        return scan(dicts, palettes=PaletteComparison(NAMES, {0: (0, 0, 0), 1: red, 2: green}))

    between, with_classes = scan_with_colors(dicts).warnings
    assert 'disagree about the ids 1, 2: 1 ("car") is #ff0000' in between
    assert "label0.png" in between and "label2.png" in between
    assert "contradict" in with_classes and "label2.png" in with_classes
    assert scan_with_colors(dicts[:2]).warnings == []


def test_palettes_are_compared_with_those_of_an_earlier_split(make):
    dicts = make(random_labels(2, ids=(0, 1)))
    for record, color in zip(dicts, ([255, 0, 0], [0, 0, 255]), strict=True):
        with Image.open(record["sem_seg_file_name"]) as file:
            label = Image.fromarray(np.asarray(file))
        label.putpalette([0, 0, 0, *color])
        label.save(record["sem_seg_file_name"])
    palettes = PaletteComparison(NAMES, {})
    assert scan(dicts[:1], palettes=palettes).warnings == []
    (warning,) = scan(dicts[1:], palettes=palettes).warnings
    assert "label0.png" in warning and "label1.png" in warning


def test_images_that_use_a_small_part_of_16_bits(make):
    dicts = make(random_labels(2))
    for record in dicts:
        values = np.random.default_rng(0).integers(1000, 1400, (40, 50)).astype(np.uint16)
        Image.fromarray(values).save(record["file_name"])
    (warning,) = scan(dicts).warnings
    black, white = re.search(r"BLACK_POINT (\d+) INPUT.WHITE_POINT (\d+)\.$", warning).groups()
    assert "2 grey images of 16 bits" in warning and "become 2 of 256 grey levels" in warning
    assert scan(dicts, grey_range=GreyRange(int(black), int(white))).warnings == []
    assert scan(dicts, check_images=False).warnings == []


def test_unknown_ids_are_an_error_however_many_files_may_be_skipped(make):
    result = scan(make([np.full((4, 4), 7, np.uint8), np.zeros((4, 4), np.uint8)]))
    with pytest.raises(InputError, match="ids out of range"):
        result.raise_for_problems(max_skipped=5)


def test_a_problem_of_many_files_is_said_once(make):
    dicts = make(random_labels(9, ids=(0, 77)))
    for record in dicts[:2]:
        truncate(record["file_name"])
    result = scan(dicts)
    assert len(result.problems) == 11
    with pytest.raises(InputError) as error:
        result.raise_for_problems()
    text = str(error.value)
    assert "unreadable image (2):" in text and "ids out of range (9):" in text
    assert text.count("has the ids 77") == 1
    assert "  Also in 1 more file: image1." in text
    others = ", ".join(f"label{i}.png" for i in range(1, 6))
    assert f"  Also in 8 more files: {others} and 3 more" in text
    text = result.describe_problems(each_file=True)
    assert text.count("has the ids 77") == 9 and "Also in" not in text


def test_nothing_readable_is_reported_not_raised(make):
    dicts = make(random_labels(2))
    for record in dicts:
        truncate(record["sem_seg_file_name"])
    result = scan(dicts)
    assert len(result.problems) == 2
    assert result.frequency.num_images == sum(result.frequency.pixels) == 0


def test_few_files_are_under_way_at_once(make, monkeypatch):
    """Memory does not grow with the data set: results are taken before more files are read."""
    num_read = 0

    def counting_read(path):
        nonlocal num_read
        num_read += 1
        return read_label(path)

    class Records(list):
        def __iter__(self):
            for taken, record in enumerate(super().__iter__(), start=1):
                assert taken - num_read <= 3  # the one whose turn it is, and two ahead
                yield record

    monkeypatch.setattr("sar.data.scan.read_label", counting_read)
    monkeypatch.setattr(
        "sar.data.scan.read_label_and_palette", lambda path: (counting_read(path), None)
    )
    monkeypatch.setattr("sar.data.scan._NUM_THREADS", 1)
    scan(Records(make(random_labels(40))))
    assert num_read == 40


def test_classes_shown(make, monkeypatch):
    labels = [np.full((4, 5), IGNORE, np.uint8) for _ in range(3)]
    labels[0][0, :2] = 2
    labels[0][1] = 0
    labels[1][3, 4] = 1
    labels[1][0, 0] = 7  # no class
    dicts = make(labels)
    assert classes_shown(dicts, 3, IGNORE, progress=False) == [[0, 2], [1], []]
    assert classes_shown(dicts, 3, 2, progress=False) == [[0], [1], []]
    assert scan(dicts, names=("a", "b", "c")).shown == [[0, 2], [1], []]
    with monkeypatch.context() as patch:  # not read again
        patch.setattr("sar.data.scan.read_label", None)
        assert classes_shown(dicts, 3, IGNORE, progress=False) == [[0, 2], [1], []]
    Path(dicts[0]["sem_seg_file_name"]).write_bytes(b"broken")
    with pytest.raises(InputError, match="label0.png"):
        classes_shown(dicts, 3, IGNORE, progress=False)
    for _ in range(2):
        shown = classes_shown(dicts, 3, IGNORE, skip_unreadable=True, progress=False)
        assert shown == [[], [1], []]
    del dicts[1]["sem_seg_file_name"]
    with pytest.raises(InputError, match="image1.png has no label"):
        classes_shown(dicts, 3, IGNORE, progress=False)
