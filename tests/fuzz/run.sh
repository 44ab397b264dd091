#!/bin/sh
# Fuzzes each target for some time, with atheris, which is installed into FOLDER the first time.
#
#   tests/fuzz/run.sh FOLDER BIN SECONDS [TARGET...]
#
# BIN is the bin folder of the one of `make setup`. Exit status 1: a target has a defect; the input lies in FOLDER/found.
set -eu
cd "$(dirname "$0")/../.."
folder=$1
bin=$2
seconds=$3
shift 3
python=$bin/python
. requirements/index.sh

if ! cmp -s requirements/fuzz.txt "$folder/fuzz.txt"; then
    "$bin/uv" pip install --quiet --python "$python" --target "$folder" --require-hashes -r requirements/fuzz.txt
    cp requirements/fuzz.txt "$folder/"
fi
mkdir -p "$folder/found"
[ $# -gt 0 ] || set -- messages schemas sequences bundles checkpoints
status=0
for target; do
    log=$folder/$target.log
    if PYTHONPATH=$folder OMP_NUM_THREADS=1 "$python" -m tests.fuzz "$target" -max_total_time="$seconds" \
        -artifact_prefix="$folder/found/$target-" >"$log" 2>&1; then
        echo "fuzz: $target: $(sed -n 's/^Done //p' "$log"), no defect"
    else
        echo "fuzz: $target: a defect, see $log; run its input again with: PYTHONPATH=$folder $python -m tests.fuzz" \
            "$target $(sed -n 's/.*Test unit written to //p' "$log" | tail -1)" >&2
        status=1
    fi
done
exit "$status"
