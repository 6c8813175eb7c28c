# shellcheck shell=bash
# Sourced by the scripts in the folder above. It sets ROOT, the repository, and offers
#
#   environment FILE    set PYTHON to a Python that has the packages of the requirements file FILE
#
# which is the active environment where that has them, else .venv in the repository, made on first use and completed
# where an installation was interrupted. PYTHON=... in the environment names another Python to try first.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
INSTALLING=$ROOT/.venv.installing # holds the process that installs; one that is left over tells of an interruption

fail() {
    echo "error: $*" >&2
    exit 2
}

environment() {
    local requirements=$ROOT/$1 candidate about lacking=""
    for candidate in ${PYTHON:+"$PYTHON"} python python3; do
        if about=$(check "$candidate" "$requirements"); then
            PYTHON=$(command -v -- "$candidate")
            echo "environment: $about"
            return
        fi
        lacking=${lacking:-$about}
    done
    if [[ -e $INSTALLING ]] || ! about=$(check "$VENV/bin/python" --exact "$requirements"); then
        [[ -z $lacking ]] || echo "environment: the active Python $lacking"
        install "$requirements"
        about=$(check "$VENV/bin/python" --exact "$requirements") ||
            fail "$VENV ${about:-does not work}; remove it and try again"
    fi
    PYTHON=$VENV/bin/python
    echo "environment: $about"
}

# check PYTHON [--exact] FILE: print a line about the packages of FILE; fails where some are not there.
check() {
    "$1" "$ROOT/scripts/check_environment.py" "${@:2}" 2>/dev/null
}

# install FILE: make or complete .venv. An interrupted one is made anew, for pip may take half a package for a whole one.
install() {
    local requirements=$1 log=$VENV/install.log interrupted="" process="" base="" reason
    if [[ -e $INSTALLING ]]; then
        interrupted=yes
        process=$(<"$INSTALLING")
    fi
    if [[ -n $process ]] && kill -0 "$process" 2>/dev/null; then
        fail "process $process is installing into $VENV: wait for it, or end it"
    fi
    if [[ -n $interrupted ]] || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        base=$(base_python) || fail "no Python 3.11 to 3.14 with its venv module found: install one (Debian and Ubuntu" \
            "want python3-venv for that), or activate an environment with the packages of $requirements"
    fi
    { echo $$ >"$INSTALLING"; } 2>/dev/null || fail "cannot write to $ROOT"
    if [[ -n $base ]]; then
        echo "environment: making $VENV with $base"
        reason=$("$base" -m venv --clear "$VENV" 2>&1) || fail "cannot make $VENV: ${reason##*$'\n'}"
    fi
    echo "environment: installing ${requirements##*/} into $VENV; torch is large, this takes minutes"
    if ! "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input -r "$requirements" >"$log" 2>&1; then
        reason=$(grep '^ERROR' "$log" || tail -n 1 "$log")
        fail "pip failed: ${reason##*$'\n'} (its whole output: $log)"
    fi
    rm -f -- "$INSTALLING"
}

# Print the first Python that the pinned packages exist for and that can make a virtual environment.
base_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python python3.13 python3.12 python3.11 python3.14; do
        if "$candidate" -c "import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))" \
            2>/dev/null; then
            command -v -- "$candidate"
            return
        fi
    done
    return 1
}
