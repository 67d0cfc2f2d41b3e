"""The command `dif-sr`: the program in `bin/`, started with the libraries of the installed PyTorch.

The program is linked against libtorch, and only Python knows where that is: beside this package, in another folder of
packages (`pip install --user`, an environment that sees the system's), or where an editable installation points. So
Python looks, and then becomes the program: signals, exit code and process id are the program's own. PyTorch is not
imported, which would take seconds.
"""

import os
import signal
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

PROGRAM = Path(__file__).parent / "bin" / "dif-sr"
PIP = f"{sys.executable} -m pip install"


def main() -> NoReturn:
    """Becomes the program, or exits with code 2 and a sentence."""
    libraries = [libtorch(needed_torch()), *nvidia(), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    # Python ignores these signals, and a program inherits that.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execve(
            PROGRAM, ["dif-sr", *sys.argv[1:]], {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries))}
        )
    except OSError as error:
        fail(f"{PROGRAM}: cannot start the program: {error.strerror}; run `{PIP} --force-reinstall --no-deps dif-sr-train`")


def needed_torch() -> str:
    """What this package requires (`torch==2.11.0`), if that is what is installed: the loader would not notice another."""
    try:
        (needed,) = metadata.requires("dif-sr-train")
        torch = metadata.distribution("torch")
    except metadata.PackageNotFoundError as missing:
        fail(f"{sys.prefix}: expected dif-sr-train with PyTorch, found no {missing.name}; run `{PIP} dif-sr-train`")
    # 2.11.0+cpu is the same release, built for other devices.
    if torch.version.partition("+")[0] != needed.partition("==")[2]:
        fail(
            f"{torch.locate_file('torch')}: expected {needed}, whose libraries the program is linked against, found "
            f"{torch.version}; run `{PIP} {needed}`, or install dif-sr-train into an environment of its own"
        )
    return needed


def libtorch(needed: str) -> Path:
    """The folder of PyTorch's libraries."""
    for folder in folders("torch"):
        if (folder / "lib" / "libtorch_cpu.so").is_file():
            return folder / "lib"
    fail(f"{needed}: expected lib/libtorch_cpu.so in its folder, found none; run `{PIP} --force-reinstall {needed}`")


def nvidia() -> list[Path]:
    """The folders of NVIDIA's libraries. Libtorch finds them itself where they are installed beside it."""
    return sorted(lib for folder in folders("nvidia") for lib in folder.glob("*/lib"))


def folders(package: str) -> list[Path]:
    """Where a package lies, without importing it."""
    spec = find_spec(package)
    return [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or []]


def fail(sentence: str) -> NoReturn:
    """Ends as the program itself ends where it cannot run."""
    print(f"dif-sr: {sentence}", file=sys.stderr)
    raise SystemExit(2)
