#!/usr/bin/env bash
# Everything that needs a GPU, in some ten minutes of one once it is built: the tests, step by step beside eager steps, the
# profile of a step, and Amazon_Beauty to its early stop, whose metrics and times must hold. What came out lies in a folder.
#
#   DIF_SR_AMAZON_BEAUTY=/data tests/gpu.sh [FOLDER]
#
# Needs ./setup --cuda (or a LIBTORCH with CUDA) and, for the last part, the folder that holds Amazon_Beauty. A part that
# fails does not keep the others from running; the exit code is 1 then.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-runs/gpu}
mkdir -p "$out"
failed=()

# part NAME COMMAND...: its output goes to NAME.txt, and the last lines of it to the terminal
part() {
    local name=$1 begin=$SECONDS code=0
    shift
    printf '== %s: %s\n' "$name" "$*" | tee "$out/$name.txt"
    "$@" >>"$out/$name.txt" 2>&1 || code=$?
    printf 'exit code %s after %s s\n' "$code" "$((SECONDS - begin))" >>"$out/$name.txt"
    tail -n 6 "$out/$name.txt"
    [ "$code" -eq 0 ] || failed+=("$name")
}

part card nvidia-smi
part build cargo build --release --benches
part tests env DIF_SR_GPU=required cargo test --test cuda
part steps cargo bench --bench step -- cuda
if [ -n "${DIF_SR_AMAZON_BEAUTY:-}" ]; then
    part epoch_fast cargo bench --bench epoch -- Amazon_Beauty --compute_path=fast --epoch_seconds=0.5 --training_seconds=60
    part epoch cargo bench --bench epoch -- Amazon_Beauty --epoch_seconds=1.5 --training_seconds=180
    if command -v nsys >/dev/null; then
        rm -rf "$out/profiled"
        part profile nsys profile --stats=true --cuda-graph-trace=node --duration=60 --force-overwrite=true \
            --output="$out/profile" target/release/dif-sr train --config_files configs/amazon_beauty.yaml --use_gpu=True \
            --compute_path=fast --epochs=2 --data_path="$DIF_SR_AMAZON_BEAUTY" --out="$out/profiled"
    else
        echo "left out: no nsys, so no profile of a step" | tee "$out/profile.txt"
    fi
else
    echo "left out: DIF_SR_AMAZON_BEAUTY names no folder" | tee "$out/epoch.txt"
fi
if command -v compute-sanitizer >/dev/null; then
    part sanitizer compute-sanitizer --error-exitcode 1 target/release/dif-sr verify --gpu --fast golden/gate
else
    echo "left out: no compute-sanitizer" | tee "$out/sanitizer.txt"
fi

if [ "${#failed[@]}" -gt 0 ]; then
    printf 'failed: %s; see %s\n' "${failed[*]}" "$out" >&2
    exit 1
fi
echo "all held; the output of each part is in $out"
