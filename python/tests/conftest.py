"""Ports with a line changed."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """(module of a port, text, another text) -> the glue's module with that port changed in one place."""

    def change(name, old, new):
        folder = tmp_path / "ports"
        if not folder.exists():
            shutil.copytree(Path(__file__).parent / "ports", folder, ignore=shutil.ignore_patterns("__pycache__"))
        source = (folder / f"{name}.py").read_text()
        assert source.count(old) >= 1, f"{name} has no `{old}`"
        (folder / f"{name}.py").write_text(source.replace(old, new))
        spec = importlib.util.spec_from_file_location(
            "changed", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        for known in [known for known in sys.modules if known.partition(".")[0] == "changed"]:
            monkeypatch.delitem(sys.modules, known)
        package = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "changed", package)
        spec.loader.exec_module(package)
        return importlib.import_module("changed.glue")

    return change
