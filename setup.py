"""Packs the files that are outside the package, where a web UI looks for them; the rest is in pyproject.toml."""

from pathlib import Path
from shutil import copy2

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class WithShared(build_py):
    """Copies the page's shared scripts and style, and its example pictures, into the package's data."""

    def run(self) -> None:
        """Build."""
        super().run()
        data = Path(self.build_lib, "instruct_pix2pix", "data")
        for target, files in {
            "web": [ROOT / "style.css", *(ROOT / "javascript").glob("*.js")],
            "examples": [*(ROOT / "examples").glob("*.png"), *(ROOT / "examples").glob("*.webp")],
        }.items():
            (data / target).mkdir(parents=True, exist_ok=True)
            for file in files:
                copy2(file, data / target)


setup(cmdclass={"build_py": WithShared})
