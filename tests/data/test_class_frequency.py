import json
import os
from dataclasses import replace

import pytest

from sar.config import load_config
from sar.data.class_frequency import (
    ClassFrequency,
    class_frequency_of,
    fingerprint_of,
    note_class_frequency,
)
from sar.errors import InputError

FREQUENCY = ClassFrequency(
    class_names=("road", "pothole"),
    num_images=10,
    images=(10, 3),
    pixels=(900, 7),
    ignored_pixels=5,
)


def test_save_and_load(tmp_path):
    path = tmp_path / "new" / "class_frequency.json"
    FREQUENCY.save(path)
    assert ClassFrequency.load(path) == FREQUENCY
    assert json.loads(path.read_text()) == {
        "class_names": ["road", "pothole"],
        "num_images": 10,
        "images": [10, 3],
        "pixels": [900, 7],
        "ignored_pixels": 5,
        "datasets": [],
        "fingerprint": "",
    }
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"images": [10]}, ['"images"', "2 counts", "found 1 counts"]),
        ({"pixels": [1, 2, 3]}, ['"pixels"', "2 counts", "found 3 counts"]),
        ({"pixels": [-1, 2]}, ['"pixels"', "0 or more", "[-1, 2]"]),
        ({"pixels": [0.5, 2]}, ['"pixels"', "[0.5, 2]"]),
        ({"pixels": 3}, ['"pixels"', "a list of counts", "found 3"]),
        ({"images": [0, 0]}, ['"images"', "only zeros"]),
        ({"pixels": [0, 0]}, ['"pixels"', "only zeros"]),
        ({"images": [11, 0]}, ['"images"', "num_images (10)", "found 11"]),
        ({"num_images": -1}, ['"num_images"', "found -1"]),
        ({"num_images": True}, ['"num_images"', "found true"]),
        ({"ignored_pixels": None}, ['"ignored_pixels"', "found null"]),
        ({"class_names": []}, ['"class_names"', "found []"]),
        ({"class_names": "road"}, ['"class_names"', 'found "road"']),
        ({"class_names": [1, 2]}, ['"class_names"', "found [1, 2]"]),
        ({"pixels": [10**400, 1]}, ['"pixels"', "a list of counts"]),
        ({"datasets": "roads"}, ['"datasets"', "a list of names", 'found "roads"']),
    ],
)
def test_malformed_content_names_file_key_expected_and_found(tmp_path, changes, expected):
    path = tmp_path / "bad.json"
    FREQUENCY.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError) as error:
        ClassFrequency.load(path)
    for part in [str(path), "tools/check_dataset.py", *expected]:
        assert part in str(error.value)


@pytest.mark.parametrize("key", ["class_names", "num_images", "images", "pixels", "ignored_pixels"])
def test_missing_key_is_named(tmp_path, key):
    path = tmp_path / "bad.json"
    FREQUENCY.save(path)
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f'key "{key}".*found null'):
        ClassFrequency.load(path)


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe\xfa", "cannot be read"),
        (b"[" * 200_000, "cannot be read"),
        (b"[1]", "an object"),
    ],
)
def test_file_that_is_no_object(tmp_path, content, expected):
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.json.*{expected}"):
        ClassFrequency.load(tmp_path / "bad.json")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json: the file does not exist"):
        ClassFrequency.load(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="it is not a file"):
        ClassFrequency.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a file"):
        ClassFrequency.load(tmp_path / "pipe")


def test_datasets_are_kept(tmp_path):
    frequency = replace(FREQUENCY, datasets=("roads_train", "roads_extra"))
    frequency.save(tmp_path / "frequency.json")
    assert ClassFrequency.load(tmp_path / "frequency.json") == frequency


def test_another_number_of_classes_than_the_models(tmp_path):
    FREQUENCY.save(tmp_path / "frequency.json")
    assert ClassFrequency.load(tmp_path / "frequency.json", 2) == FREQUENCY
    with pytest.raises(InputError, match=r"frequency\.json: expected 3 classes .*, found 2"):
        ClassFrequency.load(tmp_path / "frequency.json", 3)


def test_a_fingerprint_tells_changed_files_and_not_a_folder_that_has_moved(tmp_path):
    folder = tmp_path / "labels"
    (folder / "sub").mkdir(parents=True)
    files = [folder / "a.png", folder / "sub" / "b.png"]
    for file in files:
        file.write_bytes(b"1234")
    before = fingerprint_of(map(str, files))
    assert fingerprint_of(map(str, reversed(files))) == before
    moved = tmp_path / "moved"
    folder.rename(moved)
    files = [moved / "a.png", moved / "sub" / "b.png"]
    assert fingerprint_of(map(str, files)) == before
    assert fingerprint_of(map(str, files[:1])) != before
    os.utime(files[1], ns=(1, 1))
    touched = fingerprint_of(map(str, files))
    files[1].write_bytes(b"12345")
    os.utime(files[1], ns=(1, 1))
    assert len({before, touched, fingerprint_of(map(str, files))}) == 3
    files[1].unlink()
    with pytest.raises(OSError):
        fingerprint_of(map(str, files))
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")  # a name that is not UTF-8
    open(odd, "wb").close()
    fingerprint_of([odd])


def test_counts_of_a_config(tmp_path):
    cfg = load_config("", ["DATASETS.TRAIN", "('roads_train',)"])
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    assert class_frequency_of(cfg) is None
    note_class_frequency(cfg, FREQUENCY)
    assert class_frequency_of(cfg) == FREQUENCY
    other = replace(FREQUENCY, pixels=(1, 1))
    other.save(tmp_path / "counts.json")
    cfg.DATASETS.CLASS_FREQUENCY = str(tmp_path / "counts.json")
    assert class_frequency_of(cfg) == other
    cfg.DATASETS.CLASS_FREQUENCY = ""
    note_class_frequency(cfg, None)
    assert class_frequency_of(cfg) is None
