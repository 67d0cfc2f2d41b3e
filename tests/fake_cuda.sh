#!/usr/bin/env bash
# Builds a CUDA device that computes nothing (tests/fake_cuda/device.cpp) and runs the tests that need one, on any machine.
#
# Needs libtorch's libraries for CUDA: those of `./setup --cuda`, or of the folder that DIF_SR_CUDA_LIBS names. Two packages
# with NVIDIA's headers (2.4 MB) come from pip's index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
libs=${DIF_SR_CUDA_LIBS:-$PWD/.libtorch/lib}
torch=${LIBTORCH:-$PWD/.libtorch}
made=$PWD/target/fake-cuda
[ -e "$libs/libtorch_cuda.so" ] || {
    echo "$libs has no libtorch_cuda.so: run ./setup --cuda, or name a folder by DIF_SR_CUDA_LIBS" >&2
    exit 2
}

mkdir -p "$made"
cat >"$made/requirements.txt" <<'REQUIREMENTS'
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548 --hash=sha256:ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4 --hash=sha256:ee2ea2a97073e02ee62bb27841f437332be2c248e3eac013df07997ada39c003
REQUIREMENTS
[ -e "$made/packages/nvidia/cu13/include/crt/host_config.h" ] ||
    python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check --require-hashes --no-deps --no-compile \
        --target "$made/packages" --requirement "$made/requirements.txt"
nvidia=$made/packages/nvidia/cu13/include
compile() { "${CXX:-c++}" -std=c++17 -O1 -fPIC -Wall -Wno-unknown-pragmas "$@"; }
# The driver, which the machine lacks: libtorch asks for these of its functions, and whether the device is in use.
nm -D --undefined-only "$libs/libcaffe2_nvrtc.so" | awk '
    $2 == "cuDevicePrimaryCtxGetState" { print "extern \"C\" int " $2 "(int, unsigned *, int *active) { *active = 1; return 0; }"; next }
    $2 ~ /^cu[A-Z]/ { print "extern \"C\" int " $2 "() { return 0; }" }' >"$made/driver.cpp"
compile -shared -Wl,-soname,libcuda.so.1 "$made/driver.cpp" -o "$made/libcuda.so.1"
compile -shared -I "$nvidia" tests/fake_cuda/device.cpp -o "$made/libfakecuda.so"

# The stand-in for NVIDIA's headers, with which every build compiles the shim, says what they say: the code is the same.
headers=(-I "$torch/include" -I "$torch/include/torch/csrc/api/include")
mkdir -p "$made/stand-in"
cp src/cuda/runtime.h "$made/stand-in"
for name in cuda cuda_runtime cuda_runtime_api; do echo '#include <runtime.h>' >"$made/stand-in/$name.h"; done
for which in stand-in nvidia; do
    folder=$made/stand-in
    [ "$which" = stand-in ] || folder=$nvidia
    compile -w -c -I "$folder" "${headers[@]}" src/cuda/shim.cpp -o "$made/shim.o"
    objdump -dr "$made/shim.o" >"$made/shim-$which.txt"
done
cmp "$made/shim-stand-in.txt" "$made/shim-nvidia.txt"
echo "src/cuda/runtime.h and NVIDIA's headers: the same code"

export DIF_SR_FAKE_CUDA=required CUBLAS_WORKSPACE_CONFIG=:4096:8
runner="['env', 'LD_PRELOAD=$made/libfakecuda.so', 'LD_LIBRARY_PATH=$made:$libs']"
cargo --config "target.'cfg(all())'.runner=$runner" test --test fake_cuda -- "$@"
