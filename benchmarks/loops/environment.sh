#!/bin/sh
# Makes a virtual environment for a framework at a pinned version: its packages win over those of this project's own
# environment, which it sees too (torch is not installed twice).
#
#   benchmarks/loops/environment.sh VENV PYTHON REQUIREMENT
#
# PYTHON is the Python of this project's environment, with uv beside it.
set -eu
cd "$(dirname "$0")/../.."
venv=$1
python=$2
requirement=$3
[ ! -e "$venv/ready" ] || [ "$(cat "$venv/ready")" != "$requirement" ] || exit 0
. requirements/index.sh
uv=$(dirname "$python")/uv
"$uv" venv --quiet --clear --python "$python" "$venv"
"$uv" pip install --quiet --python "$venv" "$requirement"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/zz_project.pth"
echo "$requirement" >"$venv/ready"
