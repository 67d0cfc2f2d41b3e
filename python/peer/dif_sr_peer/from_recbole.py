"""Converts a RecBole `.pth` to safetensors without running anything that is in it.

    python -m dif_sr_peer.from_recbole MODEL.pth OUT.safetensors

RecBole pickles its configuration, and the authors' files their data set, beside the parameters; `torch.load` refuses such a
file with `weights_only`, and without it runs whatever the file names. The unpickler here resolves tensors and ordered
dictionaries. Every other name becomes a stub that takes its arguments and does nothing. `torch` itself is not needed.
Numbers of 16 bits become float32, which holds each of them exactly.

SASRecD's attribute tables are in no `.pth`: RecBole 1.0.1 does not register them. `dif-sr import` draws them from the
seed, as RecBole did. SASRecF's are parameters in RecBole 1.2.1.
"""

import argparse
import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

class BFloat16(np.generic):
    """Stands for the 16 bits with which a float32 begins: NumPy has no such numbers."""


STORAGES = {
    "BFloat16Storage": BFloat16,
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Refused(Exception):
    """One sentence that says why a file cannot be converted."""


class Stub:
    """Stands for any object that is no tensor: it can be made, filled and set, and does nothing."""

    def __new__(cls, *_args: Any, **_keywords: Any) -> "Stub":
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_keywords: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _value: Any) -> None:
        pass

    def extend(self, _values: Any) -> None:
        pass

    def add(self, _value: Any) -> None:
        pass


def rebuild_tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_rest: Any) -> np.ndarray:
    """What `torch._utils._rebuild_tensor_v2` does: a view of a storage, in elements; copied, and held to its bounds."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if offset < 0 or min((*size, *stride, 0)) < 0 or (0 not in size and last >= storage.size):
        raise Refused(f"a tensor of shape {tuple(size)} lies outside of its {storage.size} numbers")
    bytes_of = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], tuple(size), bytes_of).copy()


def rebuild_parameter(tensor: np.ndarray, *_rest: Any) -> np.ndarray:
    return tensor


class Unpickler(pickle.Unpickler):
    """Resolves [`RESOLVED`] and the names of storages; every other name is a stub."""

    RESOLVED = {
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
        ("collections", "OrderedDict"): OrderedDict,
    }

    def __init__(self, data: bytes, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(data))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return self.RESOLVED.get((module, name)) or type(name.replace(".", "_"), (Stub,), {})

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _location, numel = pid
        if kind != "storage" or not (isinstance(dtype, type) and issubclass(dtype, np.generic)):
            return Stub()
        data = self.archive.read(f"{self.root}/data/{key}")
        if dtype is BFloat16:
            return (np.frombuffer(data, dtype="<u2", count=numel).astype("<u4") << 16).view("<f4")
        if dtype is np.float16:
            return np.frombuffer(data, dtype="<f2", count=numel).astype("<f4")
        return np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<"), count=numel)


def load(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """The parameters of a `.pth` under RecBole's names, and the epoch that it was saved after."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise Refused(f"{path}: expected a file that PyTorch 1.6 or newer saved, found {error}") from error
    with archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Refused(f"{path}: expected one data.pkl in the archive, found {len(pickles)}")
        try:
            state = Unpickler(archive.read(pickles[0]), archive, pickles[0].removesuffix("/data.pkl")).load()
        except Refused:
            raise
        except Exception as error:  # Whatever is wrong with a pickle arrives as an error of any type.
            raise Refused(f"{path}: cannot read the pickle: {error}") from error
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        raise Refused(f"{path}: expected RecBole's dictionary with a `state_dict`, found none")
    wrong = [str(name) for name, value in state["state_dict"].items() if not isinstance(value, np.ndarray)]
    if wrong or not state["state_dict"]:
        raise Refused(f"{path}: expected tensors in `state_dict`, found {', '.join(wrong) or 'nothing'}")
    epoch = state.get("epoch")
    return dict(state["state_dict"]), epoch if isinstance(epoch, int) else 0


def convert(source: Path, target: Path) -> dict[str, np.ndarray]:
    """Writes the parameters of `source` to the new file `target`, complete or not at all."""
    if target.exists():
        raise Refused(f"{target}: expected no file, found one; choose another name")
    tensors, epoch = load(source)
    part = target.with_name(target.name + ".part")
    part.write_bytes(save(tensors, {"format": "recbole state_dict", "epoch": str(epoch)}))
    os.replace(part, target)
    return tensors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, metavar="MODEL.pth")
    parser.add_argument("target", type=Path, metavar="OUT.safetensors")
    arguments = parser.parse_args()
    try:
        tensors = convert(arguments.source, arguments.target)
    except (Refused, OSError) as error:
        print(f"from_recbole: {error}", file=sys.stderr)
        return 2
    print(f"{len(tensors)} tensors, {sum(t.size for t in tensors.values())} numbers: {arguments.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
