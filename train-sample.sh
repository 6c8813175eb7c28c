#!/usr/bin/env bash
# Train a small generator and then its inverter, and invert a photograph that they have not seen: 12 minutes of training
#
#   bash train-sample.sh                     # on photographs that come with scikit-image: a demonstration
#   bash train-sample.sh FOLDER              # on your own images, or an LMDB of prepare_data.py
#   GENERATOR_MINUTES=60 INVERTER_MINUTES=30 bash train-sample.sh FOLDER
#
# The images are shrunk to a shorter side of 150 pixels first, which a large folder takes longer for. Everything goes to
# a folder of its own in runs/; the same command again resumes, or shows the finished run. A GPU is used where there is
# one. On first use without a suitable environment the packages are installed into .venv.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for `sh`
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "$0")")/scripts/environment.sh"

SHORTER_SIDE=150
generator_minutes=${GENERATOR_MINUTES:-7}
inverter_minutes=${INVERTER_MINUTES:-5}

[[ $# -le 1 && ${1:-} != -* ]] || fail "usage: bash train-sample.sh [FOLDER]"
images=${1:-}
if [[ -n $images ]]; then
    images=$(cd -- "$images" 2>/dev/null && pwd) || fail "$1: no such folder"
fi
for minutes in "$generator_minutes" "$inverter_minutes"; do
    [[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "GENERATOR_MINUTES, INVERTER_MINUTES: '$minutes' is no number of minutes"
done

# Other arguments, another run: resuming never mixes images or lengths.
name=${images##*/}
number=$(printf '%s\n' "$images" "$generator_minutes" "$inverter_minutes" | cksum)
run=$ROOT/runs/sample-${name:-photographs}-${number%% *}
generator=$run/generator/generator.safetensors
inverter=$run/inverter/inverter.safetensors

environment requirements.txt
cd -- "$ROOT"

if [[ -z $images ]]; then
    images=$run/photographs
    "$PYTHON" -m datasets.samples "$images"
fi
if [[ ! -d $run/data ]]; then
    rm -rf -- "$run/data.new" # of an interrupted run
    status=0 # 1: damaged images were named and left out
    "$PYTHON" prepare_data.py --input "$images" --output "$run/data.new" --size "$SHORTER_SIDE" || status=$?
    [[ $status -lt 2 ]] || exit "$status"
    mv -- "$run/data.new" "$run/data"
fi

# train STAGE MINUTES [key=value ...]: a stage that has come to its end is not trained again.
train() {
    local stage=$1 minutes=$2
    if [[ -e $run/$stage/complete ]]; then # weights alone do not tell: a stopped run writes them too
        echo "$stage: trained already"
        return
    fi
    echo "$stage: training for $minutes minutes"
    "$PYTHON" train.py --config "configs/sample/$stage.yaml" data.train="$run/data/train" data.val="$run/data/valid" \
        train.output="$run/$stage" train.minutes="$minutes" train.save_every=200 "${@:3}"
    touch -- "$run/$stage/complete"
}

train generator "$generator_minutes"
"$PYTHON" generate.py --checkpoint "$generator" --output "$run/generated" \
    count=4 height=256 width=512
train inverter "$inverter_minutes" train.generator="$generator"
"$PYTHON" -m datasets.samples "$run/unseen" --of "$images" --listed "$run/data/valid"
"$PYTHON" infer.py --checkpoint "$inverter" --input "$run/unseen" --output "$run/inverted"

echo "Images of the generator: $run/generated"
echo "An image that was not trained on, its reconstruction and the error: $run/inverted/comparison"
echo "Weights: $inverter    curves for TensorBoard: $run/*/events"
