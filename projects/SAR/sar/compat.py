"""What detectron2 0.6 needs to run on today's NumPy and Pillow, and without its extension.

`import sar` applies this, so it comes before the import of detectron2. Only what is missing is set,
and nothing at all where detectron2 is not installed. detectron2's main branch needs but the last of
these: a stand-in for pkg_resources.
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
    """Sets what the installed detectron2 lacks; does not import it."""
    spec = importlib.util.find_spec("detectron2")
    # A folder that happens to have this name (the clone of a repository) is a spec without origin.
    if spec is None or spec.origin is None:
        return
    # detectron2, fvcore and iopath call it when they are imported.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    folder = Path(spec.origin).parent
    # The main branch calls itself 0.6 too; its vision transformers are younger than the release.
    if not (folder / "modeling" / "backbone" / "vit.py").exists():
        _restore_removed_names()
        _stand_in_for_extension(folder)
    if importlib.util.find_spec("pkg_resources") is None:
        sys.meta_path.insert(0, _PkgResourcesForModelZoo())


def _restore_removed_names() -> None:
    # Not numpy.bool: NumPy 2 has one of its own, and numpy.ma breaks if it is replaced.
    for owner, name, value in (
        (numpy, "int", int),
        (numpy, "float", float),
        (Image, "LINEAR", Image.BILINEAR),
    ):
        if not hasattr(owner, name):
            setattr(owner, name, value)


def _stand_in_for_extension(folder: Path) -> None:
    # The layers of 0.6 import detectron2._C, though only rotated boxes and deformable convolutions
    # call it. The main branch goes without, and says what was not compiled where that is used.
    name = "detectron2._C"
    if name in sys.modules or importlib.machinery.PathFinder.find_spec("_C", [str(folder)]):
        return
    extension = ModuleType(name, "Stands in for the extension that was not compiled.")
    # detectron2's report on the environment asks for these.
    extension.get_compiler_version = lambda: "not compiled"
    extension.get_cuda_version = lambda: "not compiled"
    extension.has_cuda = lambda: False
    sys.modules[name] = extension


class _PkgResourcesForModelZoo:
    """Lends detectron2.model_zoo the one function it wants of pkg_resources, gone from setuptools.

    At that import and not before: others (pytest, debuggers) look whether pkg_resources is there,
    and would use far more of it.
    """

    def find_spec(self, name, path=None, target=None):
        if name == "detectron2.model_zoo" and "pkg_resources" not in sys.modules:
            module = ModuleType("pkg_resources", "Stands in for setuptools' pkg_resources.")
            module.resource_filename = _resource_filename
            sys.modules["pkg_resources"] = module
        return None  # the import itself is left to the other finders


def _resource_filename(package: str, path: str) -> str:
    return str(importlib.resources.files(package).joinpath(path))
