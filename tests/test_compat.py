"""The shims of sar.compat, each in its own interpreter, since they stay set in a process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE_ROOT = Path(__file__).parents[1] / "projects" / "SAR"


def run(code: str, *search_path: Path) -> None:
    """Run Python code that finds modules in `search_path` first; on failure, show its errors."""
    inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    paths = [*map(str, search_path), str(PACKAGE_ROOT), *inherited]
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def write_package(root: Path, *modules: str) -> Path:
    """Write a detectron2 of empty modules into `root`, and return `root`."""
    for module in ("__init__.py", *modules):
        path = root / "detectron2" / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.fixture
def release(tmp_path):
    """A detectron2 laid out as release 0.6."""
    return write_package(tmp_path, "modeling/backbone/fpn.py", "model_zoo/__init__.py")


@pytest.fixture
def main_branch(tmp_path):
    """A detectron2 laid out as the main branch."""
    return write_package(tmp_path, "modeling/backbone/vit.py", "model_zoo/__init__.py")


def test_release_gets_what_numpy_and_pillow_removed(release):
    run(
        """
import numpy
from PIL import Image
numpy_bool = vars(numpy).get("bool")
import sar
assert numpy.array([1.5], dtype=numpy.int).tolist() == [1]
assert numpy.zeros(1, dtype=numpy.float).dtype == numpy.float64
assert vars(numpy).get("bool") is numpy_bool
assert Image.LINEAR == Image.BILINEAR
""",
        release,
    )


def test_release_gets_a_stand_in_for_its_extension(release):
    run(
        """
import sar
from detectron2 import _C
import detectron2._C as same
assert same is _C and not hasattr(_C, "box_iou_rotated")
assert _C.get_compiler_version() == _C.get_cuda_version() == "not compiled"
assert _C.has_cuda() is False
""",
        release,
    )


def test_a_compiled_extension_is_kept(release):
    write_package(release, "_C.py")
    run("import sar; from detectron2 import _C; assert _C.__file__.endswith('_C.py')", release)


def test_what_is_there_is_kept(release):
    run(
        """
import sys, types
import numpy
from PIL import Image
numpy.int, Image.LINEAR = "numpy's own", "Pillow's own"
sys.modules["detectron2._C"] = extension = types.ModuleType("detectron2._C")
import sar
assert (numpy.int, Image.LINEAR) == ("numpy's own", "Pillow's own")
assert sys.modules["detectron2._C"] is extension
""",
        release,
    )


# `import sar` must not change this; {prepare} runs first.
NOTHING_IS_SET = """
import os, sys
import numpy
from PIL import Image
before = set(vars(numpy)), set(vars(Image))
{prepare}
finders = list(sys.meta_path)
import sar
assert (set(vars(numpy)), set(vars(Image))) == before
assert "detectron2._C" not in sys.modules and "pkg_resources" not in sys.modules
"""


def test_main_branch_gets_neither_names_nor_extension(main_branch):
    run(NOTHING_IS_SET.format(prepare=""), main_branch)


def test_nothing_is_set_where_detectron2_is_blocked(release):
    code = NOTHING_IS_SET.format(prepare="sys.modules['detectron2'] = None")
    run(code + "assert sys.meta_path == finders", release)


def test_nothing_is_set_for_a_folder_of_that_name(tmp_path):
    # Beside the clone of detectron2's repository, its folder imports as a package without a file.
    (tmp_path / "detectron2" / "docs").mkdir(parents=True)
    hide_installed = """
import importlib.util
sys.path = [p for p in sys.path if not os.path.exists(f"{p}/detectron2/__init__.py")]
assert importlib.util.find_spec("detectron2").origin is None
"""
    code = NOTHING_IS_SET.format(prepare=hide_installed)
    run(code + "assert sys.meta_path == finders", tmp_path)


@pytest.mark.skipif(
    importlib.util.find_spec("pkg_resources") is not None, reason="setuptools has pkg_resources"
)
@pytest.mark.parametrize("layout", ["release", "main_branch"])
def test_pkg_resources_is_lent_to_the_model_zoo_only(layout, request):
    run(
        """
import os, sys
import sar, detectron2
assert "pkg_resources" not in sys.modules
import detectron2.model_zoo
import pkg_resources
path = pkg_resources.resource_filename("detectron2.model_zoo", os.path.join("configs", "x.yaml"))
assert path == os.path.join(os.path.dirname(detectron2.model_zoo.__file__), "configs", "x.yaml")
""",
        request.getfixturevalue(layout),
    )


def test_detectron2_is_imported_without_its_future_warnings():
    run(
        """
import warnings
with warnings.catch_warnings(record=True) as caught:
    import sar.training.trainer
assert not [warning for warning in caught if warning.category is FutureWarning]
warnings.warn("something else", FutureWarning)
"""
    )


def test_regularizers_do_not_import_detectron2():
    run("import sys, sar, sar.regularizers; assert 'detectron2' not in sys.modules")


def test_regularizers_work_without_detectron2():
    run("import sys; sys.modules['detectron2'] = None; import sar, sar.regularizers")


def test_package_offers_its_config():
    run(
        """
import sar
from sar import add_sar_config
import sar.config
assert add_sar_config is sar.config.add_sar_config and sar.__all__ == ["add_sar_config"]
try:
    sar.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
else:
    raise AssertionError("no error")
"""
    )


def test_installed_detectron2_runs():
    """The installed detectron2 imports all that segmentation needs, and old names work in it."""
    run(
        """
import sar
import numpy as np
import detectron2.checkpoint, detectron2.engine, detectron2.modeling, detectron2.solver
import detectron2.evaluation, detectron2.projects.deeplab
from detectron2 import model_zoo
from detectron2.data import transforms
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.events import TensorboardXWriter

assert "detectron2" in collect_env_info()
assert "R_50" in model_zoo.get_checkpoint_url("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
crop = transforms.ExtentTransform((0, 0, 3, 2), output_size=(2, 3))
assert crop.apply_image(np.zeros((4, 6, 3), dtype=np.uint8)).shape == (2, 3, 3)
"""
    )


def test_evaluator_of_the_installed_detectron2_runs(tmp_path):
    """Release 0.6 uses numpy.int and numpy.float there."""
    run(
        f"""
import sar
import numpy as np, torch
from PIL import Image
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator

label = np.array([[0, 0, 1], [1, 1, 255]], dtype=np.uint8)
Image.fromarray(label).save({str(tmp_path / "label.png")!r})
dataset = [dict(file_name="image.png", sem_seg_file_name={str(tmp_path / "label.png")!r})]
DatasetCatalog.register("two", lambda: dataset)
MetadataCatalog.get("two").set(stuff_classes=["a", "b"], ignore_label=255)
logits = torch.zeros(2, 2, 3)
logits[1, 1] = 1  # the upper row is a, the lower row b: one pixel of b is taken for a
evaluator = SemSegEvaluator("two", distributed=False)
evaluator.reset()
evaluator.process(dataset, [dict(sem_seg=logits)])
results = evaluator.evaluate()["sem_seg"]
assert abs(results["mIoU"] - 100 * 2 / 3) < 1e-9, results
"""
    )


def test_tools_of_detectron2_can_be_imported():
    pytest.importorskip("matplotlib")
    code = (
        "import sar, detectron2.utils.visualizer, detectron2.utils.video_visualizer, "
        "detectron2.projects.point_rend"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
