"""Everything about the package is in pyproject.toml, but for the operator library, which is compiled here.

Where that fails, the installation goes on without it: worlds then run in their plain ONNX form, and `dsa info` says
why. And the C sources of libdsa_runtime, which lie outside the package, are put into it.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


def load_builder():
    """`dsa_runtime.ops.build`, without importing the package, whose requirements are not installed yet."""
    spec = importlib.util.spec_from_file_location("dsa_ops_build", HERE / "dsa_runtime" / "ops" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class BuildWithLibrary(build_py):
    """Compiles into the folder that becomes the installed package; an editable installation's is the checkout's."""

    def run(self):
        super().run()
        builder = load_builder()
        folder = (HERE if self.editable_mode else Path(self.build_lib)) / "dsa_runtime" / "ops"
        if not self.editable_mode:  # what an earlier build has left must not be taken for this one's
            for file in (builder.LIBRARY, builder.REPORT):
                (folder / file).unlink(missing_ok=True)
            sources = Path(self.build_lib) / "dsa_runtime" / "capi" / "sources"
            shutil.rmtree(sources, ignore_errors=True)
            for name in ("common", "runtime"):  # the client library needs no Python, so it is not built from here
                shutil.copytree(HERE / "bindings" / "c" / name, sources / name)
            shutil.copy(HERE / "bindings" / "c" / "dsa_runtime.h", sources)
        try:
            print(builder.build(folder))
        except Exception as error:  # the installation goes on, whatever it is
            print(f"WARNING: the operator library was not built, worlds will run in their plain form: {error}")


class PlatformDistribution(Distribution):
    """The wheel holds machine code."""

    def has_ext_modules(self):
        return True


class PlatformWheel(bdist_wheel):
    """For any Python: the machine code knows ONNX Runtime only."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": PlatformWheel}, distclass=PlatformDistribution)
