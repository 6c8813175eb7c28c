#!/usr/bin/env bash
# Style check and tests. Arguments go to pytest:
#
#   bash run-tests.sh
#   bash run-tests.sh tests/models -x
#
# Ends with 0 only where the style is clean and at least one test ran and none failed.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for `sh`
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "$0")")/scripts/environment.sh"
environment requirements-dev.txt
cd -- "$ROOT"

style=0
"$PYTHON" -m ruff check . || style=1

# More threads than a few slow the small tensors of tests down.
cores=$(nproc 2>/dev/null || echo 2)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores < 4 ? cores : 4))}
"$PYTHON" -m pytest "$@" # its exit code is 5 where no test ran
exit "$style"
