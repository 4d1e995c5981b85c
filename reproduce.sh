#!/usr/bin/env bash
# ./reproduce.sh PROFILE [options]   install from the lock, run the profile's grid, write and print its tables
# ./reproduce.sh test [options]      install from the lock, run lint, types and tests
# Options go to `floe-bench run`, or to pytest. An active virtual environment is used; without one, .venv is made.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
needed="$(sed -n 's/^requires-python = ">=\(.*\)"$/\1/p' "$here/pyproject.toml")"
profiles=("$here"/harness/spec/profiles/*.toml)
profiles=("${profiles[@]##*/}")
profiles=("${profiles[@]%.toml}")

# What is set for other Pythons would put other packages under the run. Of pip's settings, those stay that say how
# packages are reached.
unset PYTHONHOME PYTHONPATH
for name in "${!PIP_@}"; do
    case "$name" in
        PIP_*INDEX* | PIP_FIND_LINKS | PIP_*CERT | PIP_PROXY | PIP_TRUSTED_HOST | PIP_CONFIG_FILE) ;;
        PIP_*CACHE_DIR | PIP_*TIMEOUT | PIP_RETRIES) ;;
        *) unset "$name" ;;
    esac
done

usage() {
    sed -n '2,4s/^# //p' "$here/reproduce.sh"
    echo "profiles: ${profiles[*]}"
}

die() {
    echo "reproduce.sh: $*" >&2
    exit 2
}

# Print a Python's version. Fail where it does not run or is too old.
version() {
    "$1" -c 'import sys
print("%d.%d" % sys.version_info[:2])
sys.exit(sys.version_info[:2] < tuple(map(int, sys.argv[1].split("."))))' "$needed" 2>/dev/null
}

# Print the user's choice of a Python, or the first one on PATH that is new enough.
find_python() {
    local candidate found="" seen=""
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.11 python3.12 python3.13 python3.14; fi
    for candidate in "$@"; do
        if found="$(version "$candidate")"; then
            echo "$candidate"
            return
        fi
        [ -z "$found" ] || seen="$seen, $candidate is $found"
    done
    die "Python $needed or newer is needed${seen:-, and none is on PATH}: name one with PYTHON=/path/to/python"
}

# The stamp of a finished installation: Python, lock, project file and checkout.
wanted() {
    echo "$(version "$python") $(cat "$here/requirements.lock" "$here/pyproject.toml" | cksum) $here"
}

is_installed() {
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(wanted)" ]
}

# Hold a folder until this script, or the pip that it started, ends. A file system without locks gives none.
lock() {
    exec 9<"$1"
    "$2" -c 'import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("waiting for another installation here", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    pass'
}

# Make .venv, or make it again after an installation that was cut or where its Python has vanished.
make_environment() {
    local base
    [ -w "$here" ] || die "$here cannot be written: activate a virtual environment made elsewhere, and give --results DIR"
    base="$(find_python)"
    lock "$here" "$base"
    if ! version "$python" >/dev/null || [ "$(cat "$stamp" 2>/dev/null)" = unfinished ]; then
        "$base" -m venv --clear --without-pip "$venv" || die "$base cannot make $venv: it says why above"
    fi
}

install() {
    if [ -z "${VIRTUAL_ENV:-}" ] || [ "$venv" -ef "$here/.venv" ]; then
        make_environment
    else
        version "$python" >/dev/null ||
            die "the active virtual environment $venv has no Python $needed or newer: run \`deactivate\`, or mend it"
        [ -w "$venv" ] || die "the active virtual environment $venv cannot be written: run \`deactivate\`"
        lock "$venv" "$python"
    fi
    ! is_installed || return 0
    echo "installing into $venv (minutes)" >&2
    echo unfinished >"$stamp"
    "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null 2>&1 ||
        die "$venv has no pip and its Python brings none: install your system's python3-venv, or use another Python"
    # torch brings its own dependencies, which differ between CPU and CUDA builds. All else is exactly as locked.
    pip "$(grep '^torch==' "$here/requirements.lock")"
    pip --no-deps --requirement "$here/requirements.lock"
    # A checkout that cannot be written is found by PYTHONPATH.
    [ ! -w "$here" ] || (cd "$here" && pip --no-deps --no-build-isolation --editable .)
    wanted >"$stamp"
}

pip() {
    "$python" -m pip install --quiet --no-input --disable-pip-version-check "$@" 2>"$log" && return
    if tail -n 20 "$log" | grep -qi 'connect\|resol.* name\|timed out\|retries exceeded'; then
        rm "$stamp" # nothing was cut: the next start goes on from here
        die "no package index can be reached: run again with a network, or name a mirror with PIP_INDEX_URL"
    fi
    tail -n 20 "$log" >&2
    die "the installation failed, as pip says above: mend that and run the same command again"
}

case "${1:-}" in
    "") usage >&2 && exit 2 ;;
    help | -h | --help) usage && exit ;;
    test) ;;
    *)
        if [ ! -f "$here/harness/spec/profiles/$1.toml" ]; then
            base="$(find_python)"
            die "$("$base" -c 'import sys
sys.path.insert(0, sys.argv[1])
from errors import unknown
print(unknown("profile", sys.argv[2], sys.argv[3:]))' "$here/harness" "$1" "${profiles[@]}" test help)"
        fi
        ;;
esac

venv="${VIRTUAL_ENV:-$here/.venv}"
python="$venv/bin/python"
stamp="$venv/.floe-bench-installed"
log="$venv/.floe-bench-pip.log"
is_installed || install
exec 9<&-
export VIRTUAL_ENV="$venv"
[ -w "$here" ] || export PYTHONPATH="$here"

if [ "$1" = test ]; then
    shift
    cd "$here"
    "$python" -m ruff format --check .
    "$python" -m ruff check .
    "$python" -m pyright --pythonpath "$python"
    exec "$python" -m pytest -n auto --dist loadfile "$@"
fi
exec "$python" -P -m floe_bench run "$@"
