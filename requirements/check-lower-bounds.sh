#!/bin/sh
# Runs the unit tests with the oldest versions that pyproject.toml allows: of what it names itself, that is; what these
# need in turn is as new as they allow.
#
#   requirements/check-lower-bounds.sh VENV BIN
#
# VENV is made; BIN is the bin folder of the environment of `make setup`.
set -eu
cd "$(dirname "$0")/.."
venv=$1
bin=$2
python=$bin/python
. requirements/index.sh

"$bin/uv" venv --quiet --clear --python 3.11 "$venv"
VIRTUAL_ENV="$PWD/$venv"
export VIRTUAL_ENV
"$bin/uv" pip compile --quiet --resolution lowest-direct --no-emit-index-url --no-header pyproject.toml --extra dev \
    --output-file "$venv/lowest.txt" >/dev/null
"$bin/uv" pip install --quiet -r "$venv/lowest.txt"
"$bin/uv" pip install --quiet --no-deps --no-build-isolation --editable .
# Old versions of what we use warn of newer ones of what they use: that is not ours to mend, and no fault of a bound.
"$venv/bin/python" -m pytest -W default::DeprecationWarning tests/unit
