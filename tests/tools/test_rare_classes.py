import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ..programs import load_program
from ..runs import train

PATH = Path(__file__).parents[2] / "tools" / "rare_classes.py"


@pytest.fixture
def tool():
    return load_program(PATH)


def test_draws_the_rarest_classes(tool, overrides, folder, tmp_path, capsys):
    train(overrides)
    run = Path(overrides[overrides.index("OUTPUT_DIR") + 1])
    other = shutil.copytree(run, tmp_path / "other")
    picture = tmp_path / "rare.png"
    words = [f"plain={run}", f"better={other}", "--output", str(picture), "--classes", "2"]
    assert tool.main(words) == 0
    assert (
        f"The 2 rarest classes of folder_{folder.name}_val in {picture}" in capsys.readouterr()[0]
    )
    with Image.open(picture) as image:
        two_rows = image.size
    assert tool.main([*words[:-1], "1", "--quiet"]) == 0
    with Image.open(picture) as image:
        assert image.size == (two_rows[0], two_rows[1] // 2)

    def error(*words):
        assert tool.main([*words, "--output", str(picture)]) == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "nowhere" in error(str(run), "--dataset", "nowhere")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub(r"(?m)^  TEST:.*\n(  - .*\n)*", "  TEST: []\n", config))
    assert f"{run} was trained without DATASETS.TEST: give --dataset" in error(str(run))
    (run / "config.yaml").write_text(config)
    assert "two runs are called SAR: give each a name" in error(f"SAR={run}", f"SAR={other}")
    counts = json.loads((other / "class_frequency.json").read_text())
    counts["class_names"].reverse()
    (other / "class_frequency.json").write_text(json.dumps(counts))
    assert f"has other classes than the class_frequency.json in {other}" in error(str(other))
    assert "folder not found: nowhere" in error("nowhere")
    for checkpoint in other.glob("model_*.pth"):
        checkpoint.unlink()
    assert f"{other} has no model_best.pth or model_final.pth" in error(str(run), str(other))
    (other / "class_frequency.json").unlink()
    assert f"{other} has no class_frequency.json" in error(str(other))
