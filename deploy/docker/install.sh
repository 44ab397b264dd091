#!/bin/sh
# Makes a virtual environment with the locked requirements of the service: no tools, not the project itself.
# The image's counterpart of requirements/install.sh; what they leave out is the same (tested).
#
#   deploy/docker/install.sh REQUIREMENTS UV VENV
#
# REQUIREMENTS is the folder with run.txt and uv.txt, UV where uv goes, VENV what is made. From the environment:
#   INDEX_URL    another package index
#   TORCH_INDEX  an index with CPU builds of torch: takes torch from there, and no CUDA libraries at all
#   DEVICE       cpu leaves out the CUDA libraries that torch starts without, cuda keeps them
set -eu
requirements=$1 uv=$2 venv=$3

case $DEVICE in
    cpu | cuda) ;;
    *) echo "DEVICE is $DEVICE: it takes cpu or cuda" >&2; exit 2 ;;
esac
if [ "$DEVICE" = cuda ] && [ -n "${TORCH_INDEX:-}" ]; then
    echo "TORCH_INDEX is for CPU builds of torch: leave it out with DEVICE=cuda" >&2
    exit 2
fi

[ -z "${INDEX_URL:-}" ] || export PIP_INDEX_URL="$INDEX_URL" UV_DEFAULT_INDEX="$INDEX_URL"
# The cache is another file system than the image. A file's date can change on its way into an image, and bytecode
# that is then out of date would be recompiled in every process: so it is marked as never to be checked.
export PIP_DISABLE_PIP_VERSION_CHECK=1 UV_LINK_MODE=copy PYC_INVALIDATION_MODE=UNCHECKED_HASH

python -m venv "$uv"
"$uv/bin/pip" install --quiet --require-hashes -r "$requirements/uv.txt"

python -m venv --without-pip "$venv"
export VIRTUAL_ENV="$venv"
left_out=$(mktemp)
trap 'rm -f "$left_out"' EXIT
if [ -n "${TORCH_INDEX:-}" ]; then
    # Another build of the same version has other hashes, so torch itself goes first and unchecked; what it needs
    # is locked like everything else.
    torch=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' "$requirements/run.txt")
    "$uv/bin/uv" pip install --no-deps --compile-bytecode --default-index "$TORCH_INDEX" "$torch"
    sed -n -E 's/^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==.*/\1/p' "$requirements/run.txt" >"$left_out"
elif [ "$DEVICE" = cpu ]; then
    # torch loads all the others when it is imported.
    printf '%s\n' triton nvidia-cusolver nvidia-nvjitlink nvidia-cuda-cccl nvidia-nvtx cuda-bindings \
        >"$left_out"
fi
# Wheels only: a source package would need a compiler, and would run code while it is built.
set -- --require-hashes --only-binary :all: --compile-bytecode -r "$requirements/run.txt"
[ ! -s "$left_out" ] || set -- "$@" --excludes "$left_out"
"$uv/bin/uv" pip install "$@"
