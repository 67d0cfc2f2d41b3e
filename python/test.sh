#!/usr/bin/env bash
# Builds the wheel, installs it with a current PyTorch in a fresh environment, and runs its tests; all in target/python-wheel.
# PYTHON names the interpreter, TORCH what pip installs for PyTorch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
folder=../target/python-wheel
rm -rf "$folder"
"${PYTHON:-python3}" -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" --disable-pip-version-check --quiet)
"${pip[@]}" install "maturin>=1.8,<2"
"$folder/venv/bin/maturin" build --release --out "$folder/dist"
read -ra torch <<<"${TORCH:-torch}"
"${pip[@]}" install "${torch[@]}"
"${pip[@]}" install pytest "$folder"/dist/*.whl
"$folder/venv/bin/pytest" tests
