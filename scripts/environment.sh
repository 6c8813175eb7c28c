# shellcheck shell=bash
# Sourced by the scripts. Sets ROOT, the repository; `environment FILE` sets PYTHON to one that has the packages of the
# requirements file: the active Python (or PYTHON=...), else that of .venv, which is made or completed where need be.
unset CDPATH # with it, cd says where it went
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
INSTALLING=$ROOT/.venv.installing # the process that installs; one that is left over tells of an interruption

fail() {
    echo "error: $*" >&2
    exit 2
}

# check PYTHON [--exact] FILE: one line about the packages of FILE; fails where some are lacking.
check() {
    "$1" -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || return 1
    "$1" "$ROOT/scripts/check_environment.py" "${@:2}" 2>/dev/null
}

environment() {
    local file=$ROOT/$1 python about lacking=""
    for python in ${PYTHON:+"$PYTHON"} python python3; do
        about=$(check "$python" "$file") && PYTHON=$(command -v -- "$python") && echo "environment: $about" && return
        lacking=${lacking:-$about}
    done
    if [[ -e $INSTALLING ]] || ! about=$(check "$VENV/bin/python" --exact "$file"); then
        echo "environment: installing ${file##*/} into $VENV, for the active Python ${lacking:-is none from 3.11 on};" \
            "torch is large, this takes minutes"
        install "$file"
        about=$(check "$VENV/bin/python" --exact "$file") || fail "$VENV ${about:-does not work}; remove it and try again"
    fi
    PYTHON=$VENV/bin/python
    echo "environment: $about"
}

# install FILE: an interrupted .venv is made anew, for pip may take half a package for a whole one.
install() {
    local log=$VENV/install.log python reason
    if [[ -s $INSTALLING ]] && kill -0 "$(<"$INSTALLING")" 2>/dev/null; then
        fail "process $(<"$INSTALLING") is installing into $VENV: wait for it, or end it"
    elif [[ -e $INSTALLING ]] || ! "$VENV/bin/python" -m pip --version &>/dev/null; then
        for python in ${PYTHON:+"$PYTHON"} python3 python python3.{14,13,12,11} ""; do
            "${python:-false}" -c "import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))" \
                2>/dev/null && break
        done
        [[ -n $python ]] || fail "no Python 3.11 to 3.14 with its venv module found: install one (Debian: python3-venv)"
    fi
    { echo $$ >"$INSTALLING"; } 2>/dev/null || fail "cannot write to $ROOT"
    if [[ -n ${python:-} ]]; then
        reason=$("$python" -m venv --clear "$VENV" 2>&1) || fail "cannot make $VENV: ${reason##*$'\n'}"
    fi
    if ! "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input -r "$1" &>"$log"; then
        reason=$(grep '^ERROR' "$log" || tail -n 1 "$log")
        fail "pip failed: ${reason##*$'\n'} (its whole output: $log)"
    fi
    rm -f -- "$INSTALLING"
}
