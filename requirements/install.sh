#!/bin/sh
# Makes or updates a virtual environment with the locked requirements and this project in it.
#
#   requirements/install.sh VENV
#
# Read from the environment, all optional (the Makefile passes its variables of the same names):
#   PYTHON       the Python to use, 3.11 or newer; else the first one found
#   INDEX_URL    another package index; else the one that pip is configured with
#   TORCH_INDEX  an index with CPU builds of torch: takes torch from there, and no CUDA libraries at all
#   CPU_ONLY     1 leaves out the CUDA libraries that torch starts without (Linux, 1.4 GB less)
set -eu
cd "$(dirname "$0")/.."
venv=$1

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [ -n "${PYTHON:-}" ]; then
    new_enough "$PYTHON" || { echo "setup: $PYTHON is no Python 3.11 or newer" >&2; exit 1; }
else
    for candidate in python3 python3.13 python3.12 python3.11; do
        if new_enough "$candidate"; then PYTHON=$candidate; break; fi
    done
    [ -n "${PYTHON:-}" ] || {
        echo "setup: no Python 3.11 or newer found: install one, or name it: make setup PYTHON=/path/to/python" >&2
        exit 1
    }
fi
echo "setup: $("$PYTHON" --version) -> $venv (about 3 GB to download the first time, nearly all of it torch)"
"$PYTHON" -m venv "$venv"

python=$venv/bin/python
. requirements/index.sh
export PIP_DISABLE_PIP_VERSION_CHECK=1 VIRTUAL_ENV="$PWD/$venv"

"$venv/bin/python" -m pip install --quiet --require-hashes -r requirements/uv.txt

left_out=$(mktemp)
trap 'rm -f "$left_out"' EXIT
if [ -n "${TORCH_INDEX:-}" ]; then
    # Another build of the same version has other hashes, so torch itself goes first and unchecked; what it needs
    # is locked like everything else.
    torch=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements/dev.txt)
    "$venv/bin/uv" pip install --quiet --no-deps --default-index "$TORCH_INDEX" "$torch"
    sed -n -E 's/^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==.*/\1/p' requirements/dev.txt >"$left_out"
elif [ "${CPU_ONLY:-}" = 1 ]; then
    # torch loads all the others when it is imported.
    printf '%s\n' triton nvidia-cusolver nvidia-nvjitlink nvidia-cuda-cccl nvidia-nvtx cuda-bindings \
        >"$left_out"
fi
set -- --require-hashes --compile-bytecode -r requirements/dev.txt
[ ! -s "$left_out" ] || set -- "$@" --excludes "$left_out"
"$venv/bin/uv" pip install "$@"
"$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation --editable .
