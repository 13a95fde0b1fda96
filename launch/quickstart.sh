#!/usr/bin/env bash
# From nothing to a trained, evaluated, visible model: embedded synthetic images, a few minutes on two CPU cores.
#
#   bash launch/quickstart.sh
#   bash launch/quickstart.sh --workdir=runs/quickstart_float32 --gin_param="train.precision='float32'"
#
# --workdir (runs/quickstart in the clone) and --data_dir (data in the clone) count for every step; all other arguments go to
# `flexseg train`. Started again it resumes what was cut off, or says that the run is finished and shows its figures.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

run=$root/runs/quickstart
data=$root/data
training=()
for argument in "$@"; do
    case $argument in
    --workdir=*) run=${argument#*=} ;;
    --data_dir=*) data=${argument#*=} ;;
    --workdir | --data_dir) fail "$argument: expected $argument=DIR" ;;
    --help | -h) sed -n '2,8s/^# \{0,1\}//p' "$0" && exit ;;
    *) training+=("$argument") ;;
    esac
done

typed() { # a command as one would type it
    local word line=""
    for word in "$@"; do
        case $word in
        *[\"\$\`\\]*) word=${word@Q} ;;
        *[!A-Za-z0-9_./=:,-]*) word="\"$word\"" ;;
        esac
        line+=" $word"
    done
    echo "${line# }"
}

step() {
    echo
    echo "\$ $(typed "$@")"
    "$@"
}

activated=${VIRTUAL_ENV:-}
prepare_environment
SECONDS=0
run=$(realpath -m --relative-base="$PWD" "$run")
data=$(realpath -m --relative-base="$PWD" "$data")

step flexseg build --dataset=synthetic_nuclei --data_dir="$data"
step flexseg train --gin_file=quickstart.gin --dataset=synthetic_nuclei --data_dir="$data" --workdir="$run" ${training[@]+"${training[@]}"}
step flexseg evaluate --workdir="$run" --split=test
step python -m flexseg.launch.export_images --dataset=synthetic_nuclei --data_dir="$data" --split=test --output="$run/test_images"
step flexseg predict --workdir="$run" --images="$run/test_images" --output="$run/predictions" --overwrite

echo
python -m flexseg.launch.summary "$run"
echo "time, without the installation: $((SECONDS / 60)) min $((SECONDS % 60)) s"
echo
echo "run directory: $run"
[[ $activated == "$VIRTUAL_ENV" ]] || typed source "$(realpath -m --relative-base="$PWD" "$VIRTUAL_ENV")/bin/activate"
# Without the option TensorBoard keeps 10 epochs' images; images=0, said to keep all, shows none (tensorboard#5550).
typed tensorboard --logdir="$run/tensorboard" --samples_per_plugin=images=1000
