#!/bin/sh
# Resolves the dependencies of pyproject.toml for every platform and Python into requirements/*.txt, with hashes.
#
#   requirements/lock.sh UV [further arguments for uv pip compile, for example --upgrade]
#
# Committed files must hold no address of an index and no path of a machine; versions that are in them already
# are kept unless --upgrade is said.
set -eu
cd "$(dirname "$0")/.."
uv=$1
shift
python=$(dirname "$uv")/python
. requirements/index.sh

compile() {
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --custom-compile-command "make lock" "$@" >/dev/null
}

compile pyproject.toml --extra registry --extra otel --output-file requirements/run.txt "$@"
compile pyproject.toml --extra dev --constraints requirements/run.txt --output-file requirements/dev.txt "$@"
compile requirements/uv.in --output-file requirements/uv.txt "$@"
compile requirements/deploy.in --output-file requirements/deploy.txt "$@"
compile requirements/audit.in --output-file requirements/audit.txt "$@"
compile requirements/fuzz.in --output-file requirements/fuzz.txt "$@"
