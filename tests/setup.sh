#!/usr/bin/env bash
# Tests of ./setup: offline and quick. Each test works in a fresh folder that holds a copy of ./setup, tiny wheels in place
# of the real ones, and a PATH in which `python3`, `c++`, `cargo`, `df`, ... can be taken away or replaced.
#   tests/setup.sh [NAME...]    all tests, or those named
# shellcheck disable=SC2016  # programs for the PATH of a test stand in single quotes on purpose
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
real_python=$(python3 -c 'import sys; print(sys.executable)') # behind any shim that looks at PATH
real_path=$PATH
case "$(uname -m)" in aarch64) arch=aarch64 ;; *) arch=x86_64 ;; esac
unset LIBTORCH LIBTORCH_USE_PYTORCH LIBTORCH_BYPASS_VERSION_CHECK VIRTUAL_ENV CXX

# ------------------------------------------------------------------------------------------------------------ scaffolding

# program NAME <<'END' ... END: puts a program into the PATH of the test
program() {
    rm -f "bin/$1"
    { echo '#!/bin/bash' && cat; } >"bin/$1"
    chmod +x "bin/$1"
}

# A folder as a user has it, in which everything ./setup asks for works and `pip download` serves from wheels/.
prepare() {
    local tool
    cp "$repository/setup" .
    mkdir bin wheels
    for tool in awk bash cat cc cmp cp cut df dirname find flock getconf grep head ldd ln ls mkdir mv rm sed setpriv \
        setsid sha256sum sleep sort stat uname wc; do
        if PATH=$real_path command -v "$tool" >/dev/null; then ln -s "$(PATH=$real_path command -v "$tool")" "bin/$tool"; fi
    done
    program c++ <<<'cat >/dev/null'
    program cargo <<<'echo "cargo 1.95.0 (abc 2026-01-01)"'
    # The real Python, without PyTorch; `pip` is a program of its own, so that a test can replace it.
    program python3 <<END
if [ "\$1 \$2" = "-m pip" ]; then shift 2; exec "$PWD/bin/fake-pip" "\$@"; fi
if [ -n "\${FAKE_SITE:-}" ]; then export PYTHONPATH=\$FAKE_SITE; fi
exec "$real_python" -S "\$@" # -S: without its packages
END
    program fake-pip <<'END'
if [ "$1" = --version ]; then echo "pip 24.0 from /somewhere (python 3.12)"; exit; fi
while [ $# -gt 1 ]; do
    if [ "$1" = --dest ]; then into=$2; fi
    shift
done
package=${1%%=*}
echo "$package" >>pip-calls
cp wheels/"${package//-/_}"-* "$into"
END
    fake_wheels
}

# Wheels of a few bytes with the real names, and the setup.sums that goes with them.
fake_wheels() {
    "$real_python" - "$arch" <<'END'
import hashlib, sys, zipfile

arch = sys.argv[1]
plat = "manylinux_2_28_" + arch
data = "recbole/dataset_example/ml-100k/ml-100k."
wheels = [
    ("cpu", "torch-2.11.0-cp311-cp311-" + plat, [
        "torch/include/torch/csrc/api/include/torch/torch.h", "torch/include/ATen/ATen.h", "torch/lib/libtorch_cpu.so",
        "torch/lib/libtorch.so", "torch/lib/libc10.so", "torch/lib/libgomp.so.1", "torch/lib/libtorch_cuda.so",
        "torch/lib/libc10_cuda.so", "torch/lib/libtorch_python.so", "torch/lib/libshm/err.h", "torch/_C.so"]),
    ("cpu", "nvidia_cuda_runtime-13.0.96-py3-none-" + plat, [
        "nvidia/cu13/lib/libcudart.so.13", "nvidia/cu13/lib/libcudart_static.a", "nvidia/cu13/include/cuda.h"]),
    ("cpu", "nvidia_cuda_cupti-13.0.85-py3-none-" + plat, [
        "nvidia/cu13/lib/libcupti.so.13", "nvidia/cu13/lib/libcheckpoint.so"]),
    ("cuda", "nvidia_cublas-13.1.0.3-py3-none-" + plat, ["nvidia/cu13/lib/libcublas.so.13"]),
    ("data", "recbole-1.2.1-py3-none-any", [data + "inter", data + "item"]),
]
with open("setup.sums", "w") as sums:
    for part, name, members in wheels:
        with zipfile.ZipFile("wheels/%s.whl" % name, "w") as archive:
            for member in members:
                archive.writestr(member, "contents of " + member)
        content = open("wheels/%s.whl" % name, "rb").read()
        print(hashlib.sha256(content).hexdigest(), len(content), part, name + ".whl", file=sums)
    for kind in ["inter", "item"]:
        content = ("contents of " + data + kind).encode()
        print(hashlib.sha256(content).hexdigest(), len(content), "ml-100k", "ml-100k." + kind, file=sums)
END
}

# fake_torch FOLDER VERSION: a PyTorch as pip lays it down
fake_torch() {
    mkdir -p "$1/lib" "$1/include/torch/csrc/api/include/torch"
    touch "$1/__init__.py" "$1/lib/libtorch_cpu.so" "$1/include/torch/csrc/api/include/torch/torch.h"
    echo "__version__ = '$2'" >"$1/version.py"
}

# run [VARIABLE=VALUE...] [-- OPTION...]: ./setup with the PATH of the test; leaves its output in `out`, exit code in `code`
run() {
    local environment=()
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        environment+=("$1")
        shift
    done
    shift || true
    code=0
    out=$(env PATH="$PWD/bin" "${environment[@]}" "$PWD/bin/bash" ./setup "$@" 2>&1) || code=$?
}

wrong() {
    printf '%s\n--- code %s, output:\n%s\n' "$*" "$code" "$out"
    exit 1
}

succeeds() { [ "$code" -eq 0 ] || wrong "expected success"; }

# refuses TEXT...: exit code 2, a last line of ./setup with these texts, and no error of the shell or of Python
refuses() {
    local text last=${out##*$'\n'}
    [ "$code" -eq 2 ] || wrong "expected exit code 2"
    for text in "$@"; do
        [[ "$last" == "setup: "*"$text"* ]] || wrong "expected '$text' in the last line"
    done
    [[ "$out" != *Traceback* && "$out" != *"line "[0-9]* ]] || wrong "expected no error of the shell or of Python"
}

says() { [[ "$out" == *"$1"* ]] || wrong "expected '$1' in the output"; }

# complete [LIBRARY...]: all of libtorch for CPUs, the LIBRARYs and the data set are there, and nothing else
complete() {
    local libraries
    libraries=$(printf '%s\n' libc10.so libcudart.so.13 libcupti.so.13 libgomp.so.1 libtorch.so libtorch_cpu.so "$@" | sort)
    [ "$(find .libtorch/lib -type f -printf '%f\n' | sort)" = "$libraries" ] || wrong "unexpected libraries: $(ls .libtorch/lib)"
    [ "$(cat .libtorch/build-version)" = 2.11.0 ] || wrong "unexpected build-version"
    [ -e .libtorch/include/ATen/ATen.h ] || wrong "no headers"
    [ "$(cat dataset/ml-100k/ml-100k.inter)" = "contents of recbole/dataset_example/ml-100k/ml-100k.inter" ] || wrong "no data"
    [ ! -e .setup.part ] || wrong ".setup.part was left behind"
}

# ------------------------------------------------------------------------------------------------------------------ tests

test_sets_up_libtorch_and_data() {
    run
    succeeds
    complete
}

test_second_run_downloads_nothing() {
    run
    rm pip-calls
    program fake-pip <<<'echo called >pip-calls; exit 1'
    run
    succeeds
    says "libtorch 2.11.0 (CPU) is in .libtorch"
    says "ml-100k is in dataset/ml-100k"
    [ ! -e pip-calls ] || wrong "pip was called"
}

test_works_from_another_folder() {
    mkdir elsewhere
    cd elsewhere
    code=0
    out=$(PATH=$PWD/../bin ../bin/bash ../setup 2>&1) || code=$?
    cd ..
    succeeds
    complete
}

test_works_in_a_folder_with_a_space_in_its_name() {
    mkdir "a b"
    mv bin setup setup.sums wheels "a b"
    cd "a b"
    sed -i "s|exec .*/bin/fake-pip.|exec '$PWD/bin/fake-pip'|" bin/python3
    run
    succeeds
    complete
}

test_quiet_prints_nothing() {
    run -- --quiet
    succeeds
    [ -z "$out" ] || wrong "expected no output"
}

test_cuda_adds_the_gpu_libraries_to_a_cpu_setup() {
    run
    run -- --cuda
    succeeds
    says "CPU and CUDA"
    complete libtorch_cuda.so libc10_cuda.so libtorch_python.so libcheckpoint.so libcublas.so.13
    run
    says "libtorch 2.11.0 (CPU and CUDA) is in .libtorch"
}

test_restores_a_damaged_libtorch() {
    run
    : >.libtorch/lib/libc10.so
    run
    succeeds
    says "downloading"
    complete
    [ -s .libtorch/lib/libc10.so ] || wrong "libc10.so is still empty"
}

test_leaves_a_folder_it_did_not_make() {
    mkdir -p .libtorch/lib
    run
    refuses ".libtorch, which ./setup did not make, has no lib/libtorch_cpu.so: move it away"
}

test_restores_missing_data_and_keeps_changed_data() {
    run
    rm dataset/ml-100k/ml-100k.item
    run
    succeeds
    complete
    echo mine >dataset/ml-100k/ml-100k.inter
    run
    refuses "dataset/ml-100k/ml-100k.inter is not the file of the recbole 1.2.1 package: move it away"
    [ "$(cat dataset/ml-100k/ml-100k.inter)" = mine ] || wrong "the changed file was overwritten"
}

# --- interruptions

wait_for() {
    for _ in {1..6000}; do
        if [ -e "$1" ]; then return; fi
        sleep 0.05
    done
    wrong "'$1' did not appear"
}

# Starts ./setup and kills it and its children with SIGKILL once the file $1 exists.
kill_when() {
    local pid
    PATH=$PWD/bin setsid "$PWD/bin/bash" ./setup >killed-output 2>&1 &
    pid=$!
    wait_for "$1"
    kill -9 -- "-$pid"
    wait "$pid" 2>/dev/null || true
}

# stop_at PROGRAM TEXT: PROGRAM, when its arguments contain TEXT, does its work, leaves `reached` and waits to be killed.
stop_at() {
    mv "bin/$1" "bin/real-$1"
    program "$1" <<END
"$PWD/bin/real-$1" "\$@"
code=\$?
if [[ "\$*" == *"$2"* ]] && [ ! -e reached ]; then : >reached; sleep 20; fi
exit \$code
END
}

# resumes PROGRAM TEXT CALLS: killed there, a second run completes with CALLS downloads in all
resumes() {
    code=killed out=''
    stop_at "$1" "$2"
    kill_when reached
    run
    succeeds
    complete
    [ "$(wc -l <pip-calls)" -eq "$3" ] || wrong "expected $3 downloads in all, not: $(cat pip-calls)"
}

test_resumes_after_kill_in_the_first_download() { resumes fake-pip torch 5; }
test_resumes_after_kill_before_the_hash_is_checked() { resumes sha256sum nvidia_cuda_runtime 5; }
test_resumes_after_kill_between_downloads() { resumes mv nvidia_cuda_runtime 4; }
test_resumes_after_kill_while_unpacking() { resumes python3 .setup.part/libtorch 4; }
test_resumes_after_kill_before_libtorch_is_in_place() { resumes mv setup-files 4; }
test_resumes_after_kill_once_libtorch_is_in_place() { resumes mv "part/libtorch .libtorch" 4; }
test_resumes_after_kill_between_the_files_of_the_data_set() { resumes mv ml-100k.inter.part 4; }

test_resumes_after_kill_between_the_old_libtorch_and_the_new() {
    run
    : >.libtorch/lib/libc10.so
    rm pip-calls
    resumes mv ".libtorch .setup.part/old" 3
}

test_waits_for_another_run() {
    [ -e bin/flock ] || return 0
    code=first out=''
    mv bin/fake-pip bin/quick-pip
    program fake-pip <<<'[ "$1" = --version ] || { : >started; sleep 0.5; }; exec bin/quick-pip "$@"'
    PATH=$PWD/bin bin/bash ./setup >first-output 2>&1 &
    wait_for started
    run
    succeeds
    says "waiting for another ./setup"
    wait $! || wrong "the first run failed: $(cat first-output)"
    complete
    [ "$(wc -l <pip-calls)" -eq 4 ] || wrong "expected one run to download"
}

# --- what is missing

test_refuses_without_python() {
    rm bin/python3
    run
    refuses "python3 is missing" "apt install python3"
}

test_refuses_an_old_python() {
    program python3 <<<'echo 3.5'
    run
    refuses "python3 is Python 3.5 and 3.7 or newer is needed"
}

test_refuses_without_pip() {
    program fake-pip <<<'echo "No module named pip" >&2; exit 1'
    run
    refuses "python3 has no pip" "apt install python3-pip" "ensurepip"
}

test_refuses_an_old_pip() {
    program fake-pip <<<'echo "pip 18.1 from /somewhere (python 3.7)"'
    run
    refuses "pip is 18.1 and 20.0 or newer is needed"
}

test_refuses_without_a_cpp_compiler() {
    rm bin/c++
    run
    refuses "no C++ compiler" "apt install build-essential"
}

test_refuses_a_compiler_without_cpp17() {
    program c++ <<<'exit 1'
    run
    refuses "cannot compile C++17"
}

test_takes_the_compiler_from_cxx() {
    rm bin/c++
    program my-c++ <<<'[ "$1" = --wrapped ] && cat >/dev/null'
    run CXX="my-c++ --wrapped"
    succeeds
}

test_refuses_without_cargo() {
    rm bin/cargo
    run
    refuses "cargo is missing" "rustup"
}

test_refuses_an_old_cargo() {
    program cargo <<<'echo "cargo 1.75.0"'
    run
    refuses "cargo is 1.75.0 and Rust 1.89 or newer is needed"
}

test_refuses_an_unknown_option() {
    run -- --gpu
    refuses "there is no option '--gpu'" "--help"
}

test_help_needs_nothing() {
    rm bin/python3 bin/cargo bin/c++
    run -- --help
    succeeds
    says "Usage: ./setup"
}

# --- what goes wrong

test_refuses_without_disk_space() {
    program df <<'END'
echo "Filesystem 1024-blocks Used Available Capacity Mounted on"
echo "/dev/sda 1000000 900000 100000 90% /a mount"
END
    run
    refuses "not enough disk space" "needed, 10" "MB available"
    [ ! -e pip-calls ] || wrong "pip was called"
}

test_refuses_a_wrong_hash_and_recovers() {
    cp wheels/nvidia_cuda_cupti-* kept
    echo altered >>"$(echo wheels/nvidia_cuda_cupti-*)"
    run
    refuses "nvidia_cuda_cupti-13.0.85" "does not have the SHA-256"
    [ ! -e .libtorch ] || wrong ".libtorch was made"
    cp kept "$(echo wheels/nvidia_cuda_cupti-*)"
    run
    succeeds
    complete
}

test_refuses_another_wheel_than_asked_for() {
    mv wheels/torch-2.11.0-* wheels/torch-2.11.0+cpu-cp311-cp311-linux_x86_64.whl
    run
    refuses "the package index gave torch-2.11.0+cpu"
}

# pip_says WORDS: pip fails with them
pip_says() {
    program fake-pip <<END
if [ "\$1" = --version ]; then echo "pip 24.0 from /somewhere (python 3.12)"; exit; fi
echo "$1" >&2
exit 1
END
    run
}

test_explains_what_pip_says() {
    local retry="WARNING: Retrying (Retry(total=4)) after connection broken by"
    pip_says "$retry 'NewConnectionError(...: Temporary failure in name resolution)'
ERROR: Could not find a version that satisfies the requirement torch (from versions: none)
ERROR: No matching distribution found for torch"
    refuses "the package index cannot be reached" "check the network" "pip.log"
    pip_says "$retry 'ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 403 Forbidden'))'"
    refuses "refused" "proxy settings"
    pip_says "ERROR: HTTP error 403 while getting it"
    refuses "refused" "index and proxy settings"
    pip_says "$retry 'SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] ...'))'"
    refuses "certificate is not trusted"
    pip_says "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    refuses "the disk filled up"
    pip_says "ERROR: No matching distribution found for torch===2.11.0"
    refuses "pip's package index does not have torch 2.11.0"
    pip_says "something new"
    refuses "pip could not download torch 2.11.0: see .setup.part/pip.log"
}

test_refuses_an_unsupported_platform() {
    program uname <<<'[ "$1" = -m ] && echo riscv64 || echo Linux'
    run
    refuses "no libtorch to download for Linux on riscv64" "set LIBTORCH"
    program uname <<<'[ "$1" = -m ] && echo arm64 || echo Darwin'
    run
    refuses "no libtorch to download for Darwin on arm64"
}

test_refuses_an_old_or_foreign_c_library() {
    program getconf <<<'echo "glibc 2.17"'
    run
    refuses "needs the GNU C library 2.28 or newer and this system has 2.17"
    program getconf <<<'exit 1'
    run
    refuses "this system has another one"
}

test_refuses_a_folder_it_cannot_write_in() {
    local as_other=()
    if [ "$(id -u)" -eq 0 ]; then # root may write anywhere
        [ -e bin/setpriv ] || return 0
        as_other=(bin/setpriv --reuid=65534 --regid=65534 --clear-groups)
    fi
    chmod 755 .
    chmod a-w .
    code=0
    # A python3 that nobody may run too; it is asked for its version and for PyTorch only.
    program python3 <<<'[ "$1" != -c ] || echo 3.12'
    out=$(PATH=$PWD/bin "${as_other[@]}" bin/bash ./setup 2>&1) || code=$?
    chmod u+w .
    refuses "cannot write in" "write permission"
}

# --- a libtorch of the user

test_links_to_the_pytorch_of_python() {
    fake_torch site/torch 2.11.0+cu130
    run FAKE_SITE="$PWD/site"
    succeeds
    says "libtorch 2.11.0+cu130 (CPU): .libtorch links to python3's PyTorch in $PWD/site/torch"
    [ -L .libtorch ] && [ -e .libtorch/lib/libtorch_cpu.so ] || wrong "expected a link"
    run
    says "libtorch 2.11.0 (CPU) is in .libtorch"
    rm -r site
    run
    succeeds
    complete
}

test_downloads_although_python_has_pytorch_if_told_to() {
    fake_torch site/torch 2.11.0
    run FAKE_SITE="$PWD/site"
    [ -L .libtorch ] || wrong "expected a link"
    run FAKE_SITE="$PWD/site" -- --download
    succeeds
    complete
    [ -e site/torch/lib/libtorch_cpu.so ] || wrong "the PyTorch of python3 was touched"
}

test_downloads_if_the_pytorch_of_python_does_not_fit() {
    fake_torch site/torch 2.9.1+cpu
    run FAKE_SITE="$PWD/site"
    succeeds
    complete
    rm -r .libtorch
    fake_torch site/torch 2.11.0+cpu
    run FAKE_SITE="$PWD/site" -- --cuda
    succeeds
    [ ! -L .libtorch ] && [ -e .libtorch/lib/libtorch_cuda.so ] || wrong "expected a download with CUDA"
}

test_uses_and_checks_libtorch() {
    fake_torch mine 2.11.0
    run LIBTORCH="$PWD/mine"
    succeeds
    says "libtorch 2.11.0 (CPU) is in $PWD/mine, as LIBTORCH says"
    [ ! -e .libtorch ] || wrong ".libtorch was made"
    run LIBTORCH=mine
    refuses "make it an absolute path"
    run LIBTORCH="$PWD/nowhere"
    refuses "$PWD/nowhere has no lib/libtorch_cpu.so" "unset it"
    echo 2.10.0+cpu >mine/build-version
    run LIBTORCH="$PWD/mine"
    refuses "is version 2.10.0+cpu, not 2.11.0"
    run LIBTORCH="$PWD/mine" LIBTORCH_BYPASS_VERSION_CHECK=1
    succeeds
    rm mine/build-version mine/version.py
    echo '#define TORCH_VERSION "2.6.0"' >mine/include/torch/csrc/api/include/torch/version.h
    run LIBTORCH="$PWD/mine"
    refuses "is version 2.6.0, not 2.11.0"
    rm -r mine/include
    run LIBTORCH="$PWD/mine"
    refuses "has no headers in include/"
}

test_uses_and_checks_libtorch_use_pytorch() {
    run LIBTORCH_USE_PYTORCH=1
    refuses "LIBTORCH_USE_PYTORCH is set, but python3 has no PyTorch"
    fake_torch site/torch 2.11.0+cpu
    run LIBTORCH_USE_PYTORCH=1 FAKE_SITE="$PWD/site"
    succeeds
    says "PyTorch's in $PWD/site/torch, as LIBTORCH_USE_PYTORCH says"
    [ ! -e .libtorch ] || wrong ".libtorch was made"
    run LIBTORCH_USE_PYTORCH=1 FAKE_SITE="$PWD/site" -- --cuda
    refuses "has no lib/libtorch_cuda.so, which --cuda asks for"
}

# ------------------------------------------------------------------------------------------------------------------- main

# one_test NAME: in a folder of its own
one_test() {
    cd "$scratch"
    mkdir "$1"
    cd "$1"
    prepare
    "$1"
}

main() {
    local name names=("$@") failed=0 count=0 output
    scratch=$(mktemp -d)
    chmod 755 "$scratch"
    trap 'rm -rf "$scratch"' EXIT
    [ $# -gt 0 ] || mapfile -t names < <(compgen -A function test_)
    for name in "${names[@]}"; do
        count=$((count + 1))
        # Not in a condition: there, `set -e` would not hold.
        set +e
        output=$(set -e; one_test "$name" 2>&1)
        code=$?
        set -e
        if [ "$code" -eq 0 ]; then
            printf 'test %s ... ok\n' "${name#test_}"
        else
            printf 'test %s ... FAILED\n%s\n' "${name#test_}" "$output"
            failed=$((failed + 1))
        fi
    done
    printf 'test result: %d passed; %d failed\n' $((count - failed)) "$failed"
    [ "$failed" -eq 0 ]
}

main "$@"
