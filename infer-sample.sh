#!/usr/bin/env bash
# Invert photographs, which come with scikit-image, by the shipped checkpoint:
#
#   bash infer-sample.sh [FOLDER] [arguments of infer.py ...]
#   bash infer-sample.sh inverted block=128 refine=30
#
# The results go to FOLDER, by default results/infer-sample. A GPU is used where there is one. On first use without a
# suitable environment the packages are installed into .venv. Ends as infer.py does: with 0 where all went well.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for `sh`
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "$0")")/scripts/environment.sh"

results=$ROOT/results/infer-sample
if [[ $# -gt 0 && ! $1 =~ ^(-|[A-Za-z_.]+=) ]]; then # neither an option nor key=value
    results=$1
    shift
fi
environment requirements.txt
mkdir -p -- "$results" || fail "cannot make the folder $results"
results=$(cd -- "$results" && pwd)

(cd -- "$ROOT" && "$PYTHON" -m datasets.samples "$results/photographs")
status=0
"$PYTHON" "$ROOT/infer.py" --input "$results/photographs" --output "$results" "$@" || status=$?
if [[ $status -lt 2 ]]; then
    echo "Input, reconstruction and error side by side: $results/comparison"
    echo "Reconstructions: $results/reconstruction    figures: $results/metrics.csv and summary.json"
fi
exit "$status"
