#!/usr/bin/env bash
# Gets the tools that check this folder, the first time; then it takes a second. tests/deploy uses what is there.
#
#   deploy/tools.sh FOLDER [quick | cluster | images]
#
# cluster: quick, and a kube-apiserver (minutes).
# images: also what builds images without Docker, buildah and mmdebstrap of Debian, if you are root.
# quick: only what takes a minute or two, for each run of CI: no kubeconform and no kube-apiserver, and of helm its engine alone
# (tests/deploy/renderer), where helm itself is not there.
#
# Into FOLDER: linters from the Python index, and with Go helm, kubeconform, Compose's parser, the CRDs of the Prometheus operator
# and of KEDA, and a kube-apiserver; promtool, Prometheus and etcd from Debian's packages. Into the system, if you are root:
# Debian's chromium. On two cores the Go builds take ten
# minutes and 6 GB of caches. What is not available here is named, and the tests skip what needs it.
set -euo pipefail
folder=$1 extent=${2:-all}
cd "$(dirname "$0")/.."

HELM=helm.sh/helm/v3/cmd/helm@v3.22.0
KUBECONFORM=github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0
OPERATOR=github.com/prometheus-operator/prometheus-operator@v0.85.0
KEDA=github.com/kedacore/keda/v2@v2.21.0
KUBERNETES=v1.33.13

mkdir -p "$folder/bin" "$folder/crds"
folder=$(cd "$folder" && pwd)
export GOBIN=$folder/bin

note() { echo "deploy tools: $*"; }

if ! cmp --silent requirements/deploy.txt "$folder/venv/deploy.txt"; then
    note "linters"
    "${PYTHON:-python3}" -m venv --clear "$folder/venv"
    "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/deploy.txt
    cp requirements/deploy.txt "$folder/venv/"
fi

# package: its tools. Unpacked and not installed: that needs no root, and starts no service.
debian=("prometheus: prometheus promtool")
[ "$extent" = quick ] || [ "$extent" = images ] || debian+=("etcd-server: etcd")
for line in "${debian[@]}"; do
    package=${line%%:*} missing=()
    for tool in ${line#*:}; do
        [ -x "$GOBIN/$tool" ] || command -v "$tool" >/dev/null || missing+=("$tool")
    done
    if [ "${#missing[@]}" = 0 ]; then
        continue
    fi
    if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
        note "${missing[*]} missing: install it"
        continue
    fi
    note "${missing[*]} from Debian's $package"
    unpacked=$(mktemp -d)
    [ "$(id -u)" != 0 ] || apt-get update --quiet=2
    (cd "$unpacked" && apt-get download --quiet=2 "$package" && dpkg -x ./*.deb .)
    for tool in "${missing[@]}"; do
        install "$unpacked/usr/bin/$tool" "$GOBIN/"
    done
    rm -rf "$unpacked"
done

# The browser in which the status page is tested; it has too many libraries to be unpacked only.
if ! command -v chromium >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        note "chromium from Debian"
        if ! apt-get update --quiet=2 ||
            ! DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends chromium >/dev/null; then
            note "chromium could not be installed: the status page is not tested"
        fi
    else
        note "no chromium: install it, else the status page is not tested"
    fi
fi

if [ "$extent" = images ]; then
    if ! command -v buildah >/dev/null || ! command -v mmdebstrap >/dev/null; then
        note "buildah, mmdebstrap from Debian"
        apt-get update --quiet=2
        DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends buildah mmdebstrap >/dev/null
    fi
    exit 0
fi

if ! command -v go >/dev/null; then
    note "no Go here: without it there is no helm, kubeconform or kube-apiserver, unless they are on the PATH"
    exit 0
fi

# tool, package
get() {
    [ -x "$GOBIN/$1" ] || command -v "$1" >/dev/null || { note "$1"; go install "$2"; }
}

# folder in tests/deploy, tool, further arguments of go build: built outside of the tree, which stays as it is.
build() {
    local source=$1 tool=$2 place
    shift 2
    place=$(mktemp -d)
    cp "tests/deploy/$source/main.go" "tests/deploy/$source/go.mod" "$place/"
    (cd "$place" && GOFLAGS=-mod=mod go build -o "$GOBIN/$tool" "$@" .)
    rm -rf "$place"
}

if [ "$extent" != all ]; then
    if [ ! -x "$GOBIN/helm" ] && [ ! -x "$GOBIN/helm-template" ] && ! command -v helm >/dev/null; then
        note "helm's engine (a minute)"
        build renderer helm-template
    fi
else
    get kubeconform "$KUBECONFORM"
    get helm "$HELM"
fi

if [ ! -x "$GOBIN/compose-config" ]; then
    note "Compose's parser"
    build compose compose-config
fi

module_folder() { go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }
if [ ! -e "$folder/crds/keda.sh_scaledobjects.yaml" ]; then
    note "CRDs"
    operator=$(module_folder "$OPERATOR") keda=$(module_folder "$KEDA")
    for kind in podmonitors prometheusrules; do
        install -m 644 "$operator/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" "$folder/crds/"
    done
    install -m 644 "$keda/config/crd/bases/keda.sh_scaledobjects.yaml" "$folder/crds/"
fi

if [ "$extent" != quick ] && [ ! -x "$GOBIN/kube-apiserver" ]; then
    note "kube-apiserver $KUBERNETES (minutes)"
    build apiserver kube-apiserver -ldflags "-X k8s.io/component-base/version.gitVersion=$KUBERNETES"
fi
