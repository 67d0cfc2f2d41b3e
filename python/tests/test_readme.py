"""The walk of README.md: its Python runs, and prints what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (HERE.parent / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def run(folder, *command):
    (folder / "my_project.py").write_text((HERE / "ports" / "fused.py").read_text())
    (folder / "my_recbole_project.py").write_text((HERE / "ports" / "recbole_style.py").read_text())
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_walk_prints_what_it_says(tmp_path):
    """Every `python` block that defines no test runs in one program; a `text` block behind one is what it prints."""
    steps, expected = [], []
    for (language, code), (following, output) in zip(BLOCKS, [*BLOCKS[1:], ("", "")]):
        if language == "python" and "def test_" not in code:
            steps.append(f"print('--- {len(steps)}')\n{code}")
            expected.append(output if following == "text" else None)
    (tmp_path / "walk.py").write_text("\n".join(steps))
    result = run(tmp_path, sys.executable, "walk.py")
    assert result.returncode == 0, result.stderr
    printed = re.split(r"^--- \d+\n", result.stdout, flags=re.MULTILINE)[1:]
    assert len(printed) == len(expected) >= 2
    for found, said in zip(printed, expected):
        for line in [] if said is None else said.splitlines():
            start = line.rstrip()[: -len("...")] if line.rstrip().endswith("...") else None
            lines = [own.rstrip() for own in found.splitlines()]
            fits = line.rstrip() in lines if start is None else any(own.startswith(start) for own in lines)
            assert fits or not (start or line).strip(), f"{line}\n\nprinted:\n{found}"


def test_the_walk_s_tests_pass(tmp_path):
    tests = [code for language, code in BLOCKS if language == "python" and "def test_" in code]
    assert tests
    for number, code in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(code)
    result = run(tmp_path, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert result.returncode == 0, result.stdout + result.stderr
