#!/usr/bin/env bash
# Everything that needs a GPU, in some ten minutes of one once it is built: the tests, steps with graphs beside eager ones,
# the profile of a step, and Amazon_Beauty to its early stop, whose metrics and times must hold.
#
#   DIF_SR_AMAZON_BEAUTY=/data tests/gpu.sh [FOLDER [PART...]]
#
# Parts: card, build, tests, epoch_fast, steps, epoch, profile, sanitizer, sanitizer_step; without a name all of them. What
# each prints is in FOLDER (runs/gpu). A part that fails does not keep the others from running; the exit code is 1 then.
#
# Needs ./setup --cuda (or a LIBTORCH with CUDA) and, for `epoch*` and `profile`, the folder that holds Amazon_Beauty.
#
# A machine without Rust: build on another one (cargo build --release; cargo test --release --no-run --test cuda; cargo bench
# --no-run --bench step --bench epoch), put the programs as `cuda`, `step` and `epoch` into a folder that DIF_SR_BUILT names
# and `dif-sr` into target/release, have this repository at the same path, and name libtorch's folder in LD_LIBRARY_PATH.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for name in "${@:2}"; do
    [[ " card build tests epoch_fast steps epoch profile sanitizer sanitizer_step " == *" $name "* ]] ||
        { echo "tests/gpu.sh has no part '$name': its first lines name them" >&2; exit 2; }
done
out=${1:-runs/gpu}
asked=" ${*:2} "
mkdir -p "$out"
failed=()
program=target/release/dif-sr
built=${DIF_SR_BUILT:-}

asked() { [ "$asked" = "  " ] || [[ $asked == *" $1 "* ]]; }

# part NAME COMMAND...: its output goes to NAME.txt, and the last lines of it to the terminal
part() {
    local name=$1 begin=$SECONDS code=0
    asked "$name" || return 0
    shift
    printf '== %s: %s\n' "$name" "$*" | tee "$out/$name.txt"
    "$@" >>"$out/$name.txt" 2>&1 || code=$?
    printf 'exit code %s after %s s\n' "$code" "$((SECONDS - begin))" >>"$out/$name.txt"
    tail -n 6 "$out/$name.txt"
    [ "$code" -eq 0 ] || failed+=("$name")
}

# without NAME WHY: the part is left out
without() { if asked "$1"; then echo "left out: $2" | tee "$out/$1.txt"; fi; }

tests() { if [ -n "$built" ]; then "$built/$1"; else cargo test --test "$1"; fi; }
bench() { if [ -n "$built" ]; then "$built/$1" --bench "${@:2}"; else cargo bench --bench "$1" -- "${@:2}"; fi; }

export DIF_SR_GPU=required
part card nvidia-smi
[ -n "$built" ] || part build cargo build --release --benches
part tests tests cuda
if [ -n "${DIF_SR_AMAZON_BEAUTY:-}" ]; then
    part epoch_fast bench epoch Amazon_Beauty --compute_path=fast --epoch_seconds=0.5 --training_seconds=60
fi
part steps bench step cuda
if [ -n "${DIF_SR_AMAZON_BEAUTY:-}" ]; then
    part epoch bench epoch Amazon_Beauty --epoch_seconds=1.5 --training_seconds=180
    if command -v nsys >/dev/null; then
        part profile nsys profile --stats=true --cuda-graph-trace=node --force-overwrite=true --output="$out/profile" \
            "$program" train --config_files configs/amazon_beauty.yaml --data_path="$DIF_SR_AMAZON_BEAUTY" --use_gpu=True \
            --compute_path=fast --epochs=2 --checkpoint_dir="$out"
    else
        without profile "no nsys"
    fi
else
    for name in epoch_fast epoch profile; do without "$name" "DIF_SR_AMAZON_BEAUTY names no folder"; done
fi
if command -v compute-sanitizer >/dev/null; then
    # CUDA's libraries probe for functions; a call that fails so is no error of ours.
    check=(compute-sanitizer --report-api-errors no --error-exitcode 1 "$program")
    part sanitizer "${check[@]}" verify --gpu --fast golden/gate
    part sanitizer_step "${check[@]}" train --config_files configs/ml-100k.yaml --use_gpu=True --compute_path=fast \
        --epochs=1 --checkpoint_dir="$out"
else
    for name in sanitizer sanitizer_step; do without "$name" "no compute-sanitizer"; done
fi

if [ "${#failed[@]}" -gt 0 ]; then
    printf 'failed: %s; see %s\n' "${failed[*]}" "$out" >&2
    exit 1
fi
echo "all held; the output of each part is in $out"
