#!/usr/bin/env bash
# Train an inverter and a structure synthesizer on images, and invert a photograph that they have not seen: 10 minutes
#
#   bash train-sample.sh                     # on photographs that come with scikit-image: a demonstration
#   bash train-sample.sh FOLDER              # on your own images, or an LMDB of prepare_data.py
#   FROM_SCRATCH=1 bash train-sample.sh FOLDER   # from nothing; otherwise it goes on from the shipped checkpoint
#   INVERTER_MINUTES=30 STRUCTURE_MINUTES=60 bash train-sample.sh FOLDER
#
# The images are shrunk to a shorter side of 150 pixels first, which a large folder takes longer for. Everything goes to
# a folder of its own in runs/; the same command again resumes, or shows the finished run. A GPU is used where there is
# one. On first use without a suitable environment the packages are installed into .venv.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for `sh`
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "$0")")/scripts/environment.sh"

SHORTER_SIDE=150
from_scratch=${FROM_SCRATCH:-0}
inverter_minutes=${INVERTER_MINUTES:-4}
structure_minutes=${STRUCTURE_MINUTES:-6}

[[ $# -le 1 && ${1:-} != -* ]] || fail "usage: bash train-sample.sh [FOLDER]"
images=${1:-}
if [[ -n $images ]]; then
    images=$(cd -- "$images" 2>/dev/null && pwd) || fail "$1: no such folder"
fi
for minutes in "$inverter_minutes" "$structure_minutes"; do
    [[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "INVERTER_MINUTES, STRUCTURE_MINUTES: '$minutes' is no number of minutes"
done
[[ $from_scratch =~ ^[01]$ ]] || fail "FROM_SCRATCH: '$from_scratch'; allowed: 0 or 1"

# Other arguments, another run: resuming never mixes images, lengths or beginnings.
name=${images##*/}
number=$(printf '%s\n' "$images" "$inverter_minutes" "$structure_minutes" "$from_scratch" | cksum)
run=$ROOT/runs/sample-${name:-photographs}-${number%% *}
inverter=$run/inverter/inverter.safetensors
result=$run/structure/inverter.safetensors

environment requirements.txt
cd -- "$ROOT"

if [[ -z $images ]]; then
    images=$run/photographs
    "$PYTHON" -m datasets.samples "$images"
fi
if [[ ! -d $run/data/train || -d $run/data/.unfinished ]]; then
    status=0 # 1: damaged images were named and left out
    "$PYTHON" prepare_data.py --input "$images" --output "$run/data" --size "$SHORTER_SIDE" || status=$?
    [[ $status -lt 2 ]] || exit "$status"
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

texture=() structure=()
if [[ $from_scratch = 0 ]]; then
    shipped=checkpoints/sample.safetensors
    texture=("train.generator=$shipped" train.optimizer.lr=0.001)
    structure=("train.generator=$shipped" train.discriminator=checkpoints/critic.safetensors)
fi
train inverter "$inverter_minutes" "${texture[@]}"
train structure "$structure_minutes" "train.inverter=$inverter" "${structure[@]}"
"$PYTHON" generate.py --checkpoint "$result" --output "$run/generated" count=4 height=256 width=512
"$PYTHON" -m datasets.samples "$run/unseen" --of "$images" --listed "$run/data/valid"
"$PYTHON" infer.py --checkpoint "$result" --input "$run/unseen" --output "$run/inverted"
"$PYTHON" -m scripts.overview --checkpoint "$result" --input "$run/unseen" --output "$run/overview.png"

echo "Images of the generator: $run/generated"
echo "An image that was not trained on, its reconstruction and the error: $run/inverted/comparison"
echo "All in one picture: $run/overview.png"
echo "Weights: $result    curves for TensorBoard: $run/*/events"
