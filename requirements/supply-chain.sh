#!/bin/sh
# Looks the locked versions up in a vulnerability database, or writes what the service consists of as a CycloneDX file.
#
#   requirements/supply-chain.sh FOLDER BIN audit [REQUIREMENTS...]
#   requirements/supply-chain.sh FOLDER BIN sbom FILE
#
# The tools are installed into FOLDER the first time; BIN is the bin folder of the one of `make setup`. The exit status
# of `audit` is that of requirements/audit.py: 3 where the database does not answer. AUDIT_SERVICE (osv or pypi), OSV_URL
# or AUDIT_DATABASE (a folder) choose the database.
set -eu
cd "$(dirname "$0")/.."
folder=$1
bin=$2
task=$3
shift 3
python=$bin/python
. requirements/index.sh

if ! cmp -s requirements/audit.txt "$folder/audit.txt"; then
    "$bin/uv" venv --quiet --clear --python "$python" "$folder"
    VIRTUAL_ENV="$folder" "$bin/uv" pip install --quiet --require-hashes -r requirements/audit.txt
    cp requirements/audit.txt "$folder/"
fi
case $task in
    audit)
        "$python" -m requirements.audit "$folder/bin/pip-audit" "$@"
        ;;
    sbom)
        mkdir -p "$(dirname "$1")"
        # That the file has no time and no random number makes it the same for the same lock. The warning is that a
        # requirements file does not say which package needs which.
        "$folder/bin/python" -W ignore::UserWarning -m cyclonedx_py requirements requirements/run.txt \
            --pyproject pyproject.toml --output-reproducible --validate --output-file "$1"
        echo "$1: the packages of requirements/run.txt as CycloneDX, valid"
        ;;
    *)
        echo "supply-chain: $task: neither audit nor sbom" >&2
        exit 2
        ;;
esac
