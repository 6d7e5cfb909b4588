"""Common behaviour of the programs tools/prepare_*.py of point clouds."""

import json

import pytest

from sar.errors import InputError

from ..cloud_downloads import LAYOUTS, download, load_tool, snapshot

NAMES = tuple(LAYOUTS)


@pytest.mark.parametrize("name", NAMES)
def test_second_run_writes_only_what_is_missing(name, tmp_path, capsys):
    folder, run = download(name, tmp_path)
    downloaded = snapshot(folder)
    run()
    done = snapshot(folder)
    assert {path: done[path] for path in downloaded} == downloaded
    assert not [p for p in done.keys() - downloaded.keys() if p.name.startswith(".")]
    run()
    assert snapshot(folder) == done
    # A program that was stopped: some files are not there.
    clouds = sorted(p for p in folder.rglob("clouds/**/*") if p.is_file())
    for path in clouds[::2]:
        path.unlink()
    run()
    again = snapshot(folder)
    assert again.keys() == done.keys()
    assert {path: content for path, (_, content) in again.items()} == {
        path: content for path, (_, content) in done.items()
    }
    changed = {path for path in done if again[path][0] != done[path][0]}
    assert changed == set(clouds[::2])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", NAMES)
def test_no_file_that_is_there_is_replaced_or_deleted(name, tmp_path, caplog):
    folder, run = download(name, tmp_path)
    downloaded = snapshot(folder)
    run()
    written = sorted(
        path
        for path in snapshot(folder).keys() - downloaded.keys()
        if path.name not in ("classes.txt", "groups.json")
    )
    for path in written:
        path.unlink()
    own, dangling, *_ = (path for path in written if "rooms" not in path.parts)
    own.write_bytes(b"the user's")
    dangling.symlink_to(tmp_path / "nothing")
    run()
    assert own.read_bytes() == b"the user's"
    assert dangling.is_symlink() and not (tmp_path / "nothing").exists()
    (classes,) = folder.rglob("classes.txt")
    names = classes.read_text().splitlines()
    colored = "".join(f"{name} {i} 0 0\n" for i, name in enumerate(names))
    classes.write_text(colored)
    groups = classes.with_name("groups.json")
    groups.write_text(json.dumps({"my group": names[:2]}))
    caplog.clear()
    with caplog.at_level("INFO"):
        run()
    assert classes.read_text() == colored and "my group" in groups.read_text()
    # Only ScanNet200 has groups of its own.
    assert (f"{groups} stays" in caplog.text) == (name == "scannet")
    classes.write_text("my class\n")
    with pytest.raises(InputError, match=f"{classes} has other classes than"):
        run()
    assert classes.read_text() == "my class\n"


@pytest.mark.parametrize(
    "name, file, expected",
    [
        ("oakland", "oakland_part2_ac.npz", r"1 of 2 tiles of the split train are missing"),
        ("s3dis", "Area_1/hall_2/Annotations", r"Area_1: 1 found, 2 expected \(1 missing\)"),
        ("s3dis", "Area_5", "Folder not found: .*Area_5"),
        ("scannet", "scans/scene0001_00/scene0001_00_vh_clean_2.ply", r"1 of 9 files of the split"),
        ("scannet", "scans/scene0011_00/scene0011_00.aggregation.json", r"1 of 3 files.*val are"),
        ("scannet", "scans_test/scene0707_00", "1 of 1 files of the split test are missing"),
        ("scannet", "scannetv2-labels.combined.tsv", "labels.combined.tsv cannot be read"),
        ("semantic_kitti", "dataset/sequences/00/velodyne/000001.bin", r"2 found, 3 expected"),
        ("semantic_kitti", "dataset/sequences/08/labels/000001.label", r"1 of 2 labels of seq.*08"),
        ("semantic_kitti", "dataset/sequences/08/velodyne", "Folder not found: .*08/velodyne"),
    ],
)
def test_missing_files_are_named_before_anything_is_written(name, file, expected, tmp_path):
    folder, run = download(name, tmp_path)
    (folder / file).rename(tmp_path / "elsewhere")
    before = snapshot(folder)
    with pytest.raises(InputError, match=rf"{expected}.*--help"):
        run()
    assert snapshot(folder) == before


@pytest.mark.parametrize("name", NAMES)
def test_command_line(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    tool = load_tool(name)
    assert tool.main([]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path / LAYOUTS[name][0]) in error and f"tools/prepare_{name}.py --help" in error
    for words in (["--classes", "21"], ["--test-area", "7"], ["--output"]):
        with pytest.raises(SystemExit):
            tool.main(words)
    capsys.readouterr()
