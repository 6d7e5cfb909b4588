"""Make detectron2 0.6 run on current NumPy and Pillow, and without its compiled extension.

`import sar` applies this, so import sar before detectron2. It sets only missing names, and nothing
if detectron2 is not installed. detectron2's main branch needs only a stand-in for pkg_resources.
"""

import importlib.machinery
import importlib.resources
import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy
from PIL import Image


def apply() -> None:
    """Set the names that the installed detectron2 lacks, without importing it."""
    spec = importlib.util.find_spec("detectron2")
    # A mere folder of this name (a clone of the repository) gives a spec without origin.
    if spec is None or spec.origin is None:
        return
    # detectron2, fvcore and iopath call it when they are imported.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    folder = Path(spec.origin).parent
    # The main branch also calls itself 0.6, but the release has no vision transformers.
    if not (folder / "modeling" / "backbone" / "vit.py").exists():
        _restore_removed_names()
        _stand_in_for_extension(folder)
    if importlib.util.find_spec("pkg_resources") is None:
        sys.meta_path.insert(0, _PkgResourcesForModelZoo())


def _restore_removed_names() -> None:
    # Not numpy.bool: NumPy 2 has its own, and numpy.ma breaks if it is replaced.
    for owner, name, value in (
        (numpy, "int", int),
        (numpy, "float", float),
        (Image, "LINEAR", Image.BILINEAR),
    ):
        if not hasattr(owner, name):
            setattr(owner, name, value)


def _stand_in_for_extension(folder: Path) -> None:
    # Release 0.6 always imports detectron2._C, but only rotated boxes and deformable convolutions
    # call it.
    name = "detectron2._C"
    if name in sys.modules or importlib.machinery.PathFinder.find_spec("_C", [str(folder)]):
        return
    extension = ModuleType(name, "Stands in for the extension that was not compiled.")
    # collect_env_info calls these.
    extension.get_compiler_version = lambda: "not compiled"
    extension.get_cuda_version = lambda: "not compiled"
    extension.has_cuda = lambda: False
    sys.modules[name] = extension


class _PkgResourcesForModelZoo:
    """Give detectron2.model_zoo the one function of pkg_resources that it uses.

    Recent setuptools lacks pkg_resources. The stand-in appears only at that import, because pytest
    and debuggers would use far more of the module.
    """

    def find_spec(self, name, path=None, target=None):
        if name == "detectron2.model_zoo" and "pkg_resources" not in sys.modules:
            module = ModuleType("pkg_resources", "Stands in for setuptools' pkg_resources.")
            module.resource_filename = _resource_filename
            sys.modules["pkg_resources"] = module
        return None  # the import itself is left to the other finders


def _resource_filename(package: str, path: str) -> str:
    return str(importlib.resources.files(package).joinpath(path))
