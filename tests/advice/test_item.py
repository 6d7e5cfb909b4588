import subprocess

from sar.advice.item import Advice, format_advice, format_command


def test_texts_are_wrapped_in_their_column_and_end_with_keys():
    items = [
        Advice("tail", "word " * 40, {"A.B": "1,2"}, {"C": ""}),
        Advice("longer topic", "short."),
    ]
    lines = format_advice(items).splitlines()
    assert max(map(len, lines)) <= 100
    assert all(
        line.startswith("  tail          word" if not i else " " * 16)
        for i, line in enumerate(lines[:-1])
    )
    assert lines[-1] == "  longer topic  short."
    assert " ".join(format_advice(items).split()).endswith("Set A.B 1,2, C ''. longer topic short.")


def test_a_shell_reads_a_wrapped_command_as_given():
    keys = {"DATASETS.FOLDER": "/my data/" + "x y" * 60, "MODEL.LOSS.CLASS_WEIGHTS": ""}
    keys |= {f"KEY{i}": f"({i}, 'a')" for i in range(9)}
    command = format_command("python train_net.py --config-file a.yaml", keys)
    assert command.count("\n") > 3 and max(map(len, command.splitlines()[2:])) <= 102
    words = ["python", "train_net.py", "--config-file", "a.yaml"]
    words += [word for pair in keys.items() for word in pair]
    printed = subprocess.run(
        ["sh", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True
    )
    assert printed.stdout.split("\0")[:-1] == words
