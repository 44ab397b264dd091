# To be sourced: uv takes packages from where pip does, and from nowhere else that this machine looks.
# Reads INDEX_URL (optional) and python (one with pip).
unset PIP_FIND_LINKS UV_FIND_LINKS
[ -z "${INDEX_URL:-}" ] || export PIP_INDEX_URL="$INDEX_URL"
index=$("$python" -m pip config get global.index-url 2>/dev/null) || index=${PIP_INDEX_URL:-}
[ -z "$index" ] || export UV_DEFAULT_INDEX="${INDEX_URL:-$index}"
