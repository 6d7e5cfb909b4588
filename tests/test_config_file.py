"""Configs of strangers: each is refused within seconds, in one message."""

import os
import time

import pytest

from sar import config_file
from sar.config_file import locate, names_in, read_config_file
from sar.errors import InputError

LAUGHS = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"] + [
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)
]
MERGES = ["a0: &a0 {x: 1}"] + [
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 12)
]
DEEP_ALIASES = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 500)]


def write(tmp_path, text, name="config.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def refusal(path):
    start = time.process_time()
    with pytest.raises(InputError) as error:
        read_config_file(str(path))
    assert time.process_time() - start < 5
    text = str(error.value)
    assert len(text) < 600 and "\n" not in text
    return text


@pytest.mark.parametrize(
    "text, message",
    [
        ("SEED: " + "9" * 5000, "found a number of 5000 characters, line 1"),
        ("\nSEED: -" + "9_" * 5000, "found a number of 10001 characters, line 2"),
        ("SEED: 0x" + "f" * 5000, "number of 5002 characters"),
        ("SEED: 0b" + "1" * 5000, "number of 5002 characters"),
        ("SEED: 1" + ":59" * 5000, "number of 15001 characters"),
        ("LR: " + "9" * 5000 + ".5", "number of 5002 characters"),
        ("LR: 1" + ":59" * 5000 + ".5", "number of"),
        ("SEED: !!int x", 'found "x", expected a number'),
        ('SEED: !!int ""', 'found "", expected a number, line 1'),
        ("LR: !!float ''", 'found "", expected a number'),
        ("\nSEED: !!bool abc", 'found "abc", expected true or false, line 2'),
        ("SEED: !!bool " + "y" * 5000, "found true or false of 5000 characters"),
        ('A: 1\nOUTPUT_DIR: "\\UFFFFFFFF"', "is not valid YAML: found an escape .* range, line 2"),
        ('OUTPUT_DIR: "\\U00110000"', "is not valid YAML: found an escape .* out of range, line 1"),
        (f"%YAML {'9' * 5000}.1\n---\nSEED: 1", "is not valid YAML: .* a %YAML version"),
        ("\n".join(LAUGHS), "more than 20000 values"),
        ("\n".join(MERGES), "more than 20000 values"),
        ("\n".join(DEEP_ALIASES), "more than 32 levels of nesting"),
        ("a: &a [*a]", "contains itself"),
        ("a: &a {b: *a}", "contains itself"),
        ("a: " + "[" * 40 + "]" * 40, "more than 32 levels of nesting"),
        ("a: " + "[" * 50_000, "more than 32 levels of nesting"),
        ("- " * 50_000, "more than 32 levels of nesting"),
        ("{a: " * 50_000, "more than 32 levels of nesting"),
        ("a: " + "x" * 300_000, "more than 200000 bytes"),
        ("A: 1\nB: 2\nA: 3", "the key A twice in one group, line 3"),
        ("a: [1\nb: 2", "is not valid YAML: .*, line 2"),
        ("a: \x07", "is not valid YAML"),
        ("? [a, b]\n: 1", "unhashable key"),
        ("1", "not a mapping"),
    ],
)
def test_what_is_refused(text, message, tmp_path):
    path = write(tmp_path, text)
    found = refusal(path)
    assert found.startswith(f"config {path}")
    with pytest.raises(InputError, match=message):
        read_config_file(path)


def test_a_chain_of_bases_that_doubles_at_each_level(tmp_path):
    for i in range(25):
        write(tmp_path, f"_BASE_: [{i + 1}.yaml, {i + 1}.yaml]", f"{i}.yaml")
    write(tmp_path, "SEED: 1", "25.yaml")
    assert "_BASE_ leads to more than 32 files" in refusal(tmp_path / "0.yaml")


@pytest.mark.parametrize("text", ["_BASE_: config.yaml", "_BASE_: ./link.yaml"])
def test_a_base_that_leads_back(text, tmp_path):
    path = write(tmp_path, text)
    (tmp_path / "link.yaml").symlink_to("config.yaml")
    assert "leads back to itself" in refusal(path)


def special_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return [tmp_path / "pipe", "/dev/zero", "/dev/stdin", tmp_path]


def test_a_file_that_would_be_waited_for(tmp_path):
    for number, special in enumerate(special_files(tmp_path)):
        if special != "/dev/stdin":  # a regular file if the tests read from one
            assert f"{special} is not a regular file" in refusal(special)
            path = write(tmp_path, f"_BASE_: {special}", f"{number}.yaml")
            message = refusal(path)
            assert f"config {special} (_BASE_ of {path}) is not a regular file" in message


@pytest.mark.parametrize("special", ["/proc/kmsg", "/proc/self/maps"])
def test_a_file_of_the_kernel_is_not_read(special, tmp_path, monkeypatch):
    if not os.path.isfile(special):
        pytest.skip("this system has no such file")
    path = write(tmp_path, f"_BASE_: {special}")
    opened = []
    monkeypatch.setattr(
        config_file,
        "open",
        lambda file, mode: opened.append(file) or open(file, mode),
        raising=False,
    )
    assert f"config {special} (_BASE_ of {path}) is empty" in refusal(path)
    assert opened == [path]


def test_a_path_that_cannot_be_one(tmp_path):
    assert "not a file name" in refusal(write(tmp_path, '_BASE_: "a\\0b"'))
    assert "No such file" in refusal(write(tmp_path, "_BASE_: ../missing.yaml"))
    assert "not a file name" in refusal(write(tmp_path, "_BASE_: [a.yaml, [b.yaml]]"))
    assert "not a file name" in refusal(write(tmp_path, '_BASE_: ""'))


def test_what_yaml_allows_stays(tmp_path):
    text = "A: &a {X: 1, Y: [1e-4, 2024-01-01]}\nB: {<<: *a, X: 2}\nC: *a\nD: 0x10\nE: .5"
    tree = read_config_file(write(tmp_path, text))
    a = {"X": 1, "Y": ["1e-4", "2024-01-01"]}
    assert tree == {"A": a, "B": {**a, "X": 2}, "C": a, "D": 16, "E": 0.5}


def test_a_group_that_yaml_repeats_is_changed_alone(tmp_path):
    (tmp_path / "base.yaml").write_text("A: &x {K: 1}\nB: *x")
    tree = read_config_file(write(tmp_path, "_BASE_: base.yaml\nA: {K: 2}"))
    assert tree == {"A": {"K": 2}, "B": {"K": 1}}


def test_bases_in_a_list_and_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sub").mkdir()
    write(tmp_path, "A: {X: 1, Y: 1, Z: 1}", "first.yaml")
    write(tmp_path, "_BASE_: ../first.yaml\nA: {Y: 2, Z: 2}", "sub/second.yaml")
    path = write(tmp_path, "_BASE_: [~/first.yaml, sub/second.yaml]\nA: {Z: 3}\nB: []")
    assert read_config_file(path) == {"A": {"X": 1, "Y": 2, "Z": 3}, "B": []}


def test_a_key_replaces_its_other_spelling_in_a_base(tmp_path):
    write(tmp_path, "A: {B: {X: 1, Y: 1}}", "nested.yaml")
    write(tmp_path, "_BASE_: nested.yaml\nA.B.X: 2", "dotted.yaml")
    path = write(tmp_path, "_BASE_: dotted.yaml\nA: {B.X: 3}")
    assert read_config_file(str(tmp_path / "dotted.yaml")) == {"A": {"B": {"X": 2, "Y": 1}}}
    assert read_config_file(path) == {"A": {"B": {"X": 3, "Y": 1}}}


@pytest.mark.parametrize(
    "text, message",
    [
        ("A.B: 1\nA: {B: 2}", "has the key A.B twice, in two spellings: keep one"),
        ("A: 1\nA.B: 2", "A in A.B is a value and a group: keep one"),
        ("A.B: 1\nA: 2", "has the key A twice"),
        ("? A" + ".A" * 50_000 + "\n: 1", "more than 32 levels of nesting"),
    ],
)
def test_two_spellings_in_one_file(text, message, tmp_path):
    assert message in refusal(write(tmp_path, text))


def test_names_can_have_dots(tmp_path):
    path = write(tmp_path, "A.B: {X.Y: 1}\nC:\nD: 2")
    expected = {"A.B": {"X": {"Y": 1}}, "C": None, "D": 2}
    assert read_config_file(path, has_names=True) == expected


def write_file(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def folders(tmp_path):
    """configs/Mine/baseline_net_1.yaml and three methods."""
    write_file(
        tmp_path / "Mine/baseline_net_1.yaml", "SEED: 1\nOUTPUT_DIR: output/baseline_net_1\n"
    )
    for number, method in enumerate(("a", "a_b", "c"), start=2):
        write_file(tmp_path / f"methods/{method}.yaml", f"SEED: {number}\n")
    return tmp_path


@pytest.mark.parametrize("method, seed", [("a", 2), ("a_b", 3), ("c", 4)])
def test_a_method_and_a_baseline_make_a_config(method, seed, folders):
    found = read_config_file(str(folders / f"Mine/{method}_net_1.yaml"))
    assert found == {"SEED": seed, "OUTPUT_DIR": f"output/{method}_net_1"}


def test_a_combination_can_be_a_base(folders):
    write_file(folders / "own.yaml", "_BASE_: Mine/a_net_1.yaml\nVERSION: 2\n")
    found = read_config_file(str(folders / "own.yaml"))
    assert found == {"SEED": 2, "OUTPUT_DIR": "output/a_net_1", "VERSION": 2}


def test_a_file_comes_before_a_combination(folders):
    write_file(folders / "Mine/a_net_1.yaml", "SEED: 9\n")
    assert read_config_file(str(folders / "Mine/a_net_1.yaml")) == {"SEED": 9}


@pytest.mark.parametrize("name", ["d_net_1.yaml", "a_net_2.yaml", "a.yaml", "a_net_1.yml"])
def test_what_cannot_be_combined_is_missing(name, folders):
    with pytest.raises(InputError, match=f"{name} cannot be read: No such file.*Did you mean"):
        read_config_file(str(folders / "Mine" / name))
    assert names_in(folders / "Mine") == [
        "a_b_net_1.yaml", "a_net_1.yaml", "baseline_net_1.yaml", "c_net_1.yaml",
    ]  # fmt: skip


def test_a_config_of_the_package_is_used_if_the_folder_has_none(tmp_path, monkeypatch):
    name = "configs/Folder/sar_sem_fpn_R_18.yaml"
    expected = read_config_file(name)
    monkeypatch.chdir(tmp_path)
    packaged = os.path.join(os.path.dirname(config_file.__file__), name)
    assert locate(name) == locate(f"./{name}") == packaged and read_config_file(name) == expected
    write(tmp_path, f"_BASE_: {name}\nSEED: 7", "mine.yaml")
    assert read_config_file("mine.yaml") == {**expected, "SEED": 7}

    (tmp_path / "configs" / "Folder").mkdir(parents=True)
    write(tmp_path, "SEED: 5", name)
    assert locate(name) == name and read_config_file(name) == {"SEED": 5}
    for other in ("Folder/sar_sem_fpn_R_18.yaml", f"configs/../{name[8:]}", os.path.abspath("x")):
        assert locate(other) == other
    assert 'Did you mean "sar_sem_fpn_R_50.yaml"?' in refusal(
        "configs/Folder/sar_sem_fpn_R_51.yaml"
    )
