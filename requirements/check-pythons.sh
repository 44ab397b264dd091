#!/bin/sh
# Runs the unit tests with other Pythons and the locked versions.
#
#   requirements/check-pythons.sh FOLDER BIN VERSION...
#
# An environment for each version is made in FOLDER; BIN is the bin folder of the one of `make setup`. A Python that is
# not on this machine is downloaded by uv. Exit status 1: tests fail; 3: they pass where they ran, but a Python is
# missing, and a line says so with the cure.
set -eu
cd "$(dirname "$0")/.."
folder=$1
bin=$2
shift 2
python=$bin/python
. requirements/index.sh

status=0
for version; do
    if ! "$bin/uv" python find --quiet --system "$version" >/dev/null 2>&1 &&
        ! timeout 120 "$bin/uv" python install --quiet "$version" >/dev/null 2>&1; then
        echo "check-pythons: no Python $version on this machine, and uv cannot download one:" \
            "install it, so that python$version is on the PATH" >&2
        [ "$status" -ne 0 ] || status=3
        continue
    fi
    echo "check-pythons: Python $version"
    venv=$folder/python-$version
    "$bin/uv" venv --quiet --clear --python "$version" "$venv"
    VIRTUAL_ENV="$PWD/$venv"
    export VIRTUAL_ENV
    "$bin/uv" pip install --quiet --require-hashes -r requirements/dev.txt
    "$bin/uv" pip install --quiet --no-deps --no-build-isolation --editable .
    "$venv/bin/python" -m pytest tests/unit || status=1
done
exit "$status"
