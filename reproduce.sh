#!/usr/bin/env bash
# ./reproduce.sh PROFILE [options]   install from the lock, run the profile's grid, write and print its tables
# ./reproduce.sh test                install from the lock, run lint, types and tests
# Options go to `floe-bench run`. An active virtual environment is used; without one, .venv is made.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

if [ $# -eq 0 ]; then
    echo "usage: ./reproduce.sh PROFILE [options] | ./reproduce.sh test" >&2
    echo "profiles: $(cd "$here/harness/spec/profiles" && ls -- *.toml | sed 's/\.toml//' | tr '\n' ' ')" >&2
    exit 2
fi

if [ -z "${VIRTUAL_ENV:-}" ]; then
    VIRTUAL_ENV="$here/.venv"
    if [ ! -x "$VIRTUAL_ENV/bin/python" ]; then
        "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
            echo "reproduce.sh: Python 3.11 or newer is needed; name one with PYTHON=/path/to/python" >&2
            exit 2
        }
        "${PYTHON:-python3}" -m venv "$VIRTUAL_ENV"
    fi
fi
export VIRTUAL_ENV
bin="$VIRTUAL_ENV/bin"

# Install once per lock and project file. The stamp holds their digest.
wanted="$(cat "$here/requirements.lock" "$here/pyproject.toml" | "$bin/python" -c \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())') $here"
stamp="$VIRTUAL_ENV/.floe-bench-installed"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing into $VIRTUAL_ENV" >&2
    # torch brings its own dependencies, which differ between CPU and CUDA builds. All else is exactly as locked.
    "$bin/python" -m pip install --quiet "$(grep '^torch==' "$here/requirements.lock")"
    "$bin/python" -m pip install --quiet --no-deps -r "$here/requirements.lock"
    "$bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable "$here"
    echo "$wanted" >"$stamp"
fi

if [ "$1" = test ]; then
    shift
    cd "$here"
    "$bin/ruff" format --check .
    "$bin/ruff" check .
    "$bin/pyright" --pythonpath "$bin/python"
    exec "$bin/python" -m pytest -n auto --dist loadfile "$@"
fi
exec "$bin/floe-bench" run "$@"
