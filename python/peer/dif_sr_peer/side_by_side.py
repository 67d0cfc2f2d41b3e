"""The peer and the Rust reference path on one machine and one thread: are their batch losses identical?

    python -m dif_sr_peer.side_by_side --dif-sr PROGRAM --config FILE... --data_path DIR [--key=value]

Runs both with the same configuration and compares every batch's total loss as float32. Exit code 0: identical;
1: they differ, and the first batch that does is named.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def rust_losses(program, arguments, folder):
    """The losses in the run folder of `dif-sr train`."""
    run = Path(folder) / "run"
    fixed = [f"--out={run}", "--threads=1", "--use_gpu=False", "--show_progress=False"]
    done = subprocess.run([program, "train", *fixed, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{program} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    with open(run / "losses.tsv", newline="") as file:
        return [np.float32(row["total"]) for row in csv.DictReader(file, delimiter="\t")]


def peer_losses(arguments, folder):
    out = Path(folder) / "peer.json"
    command = [sys.executable, "-m", "dif_sr_peer.train", *arguments, "--threads", "1", "--json", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [np.float32(batch["loss"]) for batch in json.loads(out.read_text())["batches"]]


def main():
    parser = argparse.ArgumentParser(prog="dif_sr_peer.side_by_side", description=__doc__.splitlines()[0])
    parser.add_argument("--dif-sr", required=True, metavar="PROGRAM", help="such as target/release/dif-sr")
    parser.add_argument("--config", nargs="+", required=True, help="RecBole YAML files, later ones win")
    parser.add_argument("--data_path", required=True, help="the folder that holds the data set's folder")
    arguments, keys = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        data = f"--data_path={arguments.data_path}"
        rust = rust_losses(arguments.dif_sr, ["--config_files", *arguments.config, data, *keys], folder)
        peer = peer_losses(["--config", *arguments.config, "--data_path", arguments.data_path, *keys], folder)
    if len(rust) != len(peer):
        print(f"differ: {len(rust)} batches here, {len(peer)} from the peer")
        return 1
    for batch, (ours, theirs) in enumerate(zip(rust, peer), 1):
        if ours != theirs:
            print(f"differ: batch {batch} of {len(peer)}: {ours:.9g} here, {theirs:.9g} from the peer")
            return 1
    print(f"identical: {len(peer)} of {len(peer)} batch losses")
    return 0


if __name__ == "__main__":
    sys.exit(main())
