#!/usr/bin/env bash
# Makes the environment and runs ruff, mypy and pytest.
#
#   bash launch/test.sh                                  without the slow tests
#   bash launch/test.sh --all                            with them
#   bash launch/test.sh --gpu                            no tests: what one GPU must show, at most 15 minutes (benchmarks/gpu_check.py)
#   bash launch/test.sh tests/test_split.py -k leak      further arguments go to pytest
#
# Without further arguments two tests run at a time. The slow tests come last, in processes of their own: TensorFlow keeps the memory of every
# function that ran, 19 GB by the end of all of them. The ten slowest of each kind are named at the end. Fails when one of the three does; all
# run in any case.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

selections=("not slow")
arguments=()
gpu=0
for argument in "$@"; do
    case $argument in
    --all) selections+=("slow") ;;
    --gpu) gpu=1 ;;
    --help | -h) sed -n '2,11s/^# \{0,1\}//p' "$0" && exit ;;
    *) arguments+=("$argument") ;;
    esac
done

install_browser() { # for the one test that looks at TensorBoard; without it that test is skipped and says so
    local log
    command -v chromium >/dev/null && command -v chromedriver >/dev/null && return
    [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || return 0
    log=$VIRTUAL_ENV/chromium_install.log
    echo "installing Debian's chromium and chromium-driver for the browser test"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium chromium-driver; } >"$log" 2>&1 ||
        echo "that failed, the browser test will be skipped; log: $log"
}

prepare_environment test
if [[ $gpu == 1 ]]; then
    cd "$root"
    exec python benchmarks/gpu_check.py ${arguments[@]+"${arguments[@]}"}
fi
[[ ${#selections[@]} == 1 ]] || install_browser
cd "$root"
[[ ${#arguments[@]} != 0 ]] || arguments=(-n 2 --dist loadgroup)
ruff=0 mypy=0
python -m ruff check || ruff=$?
python -m ruff format --check --quiet || { ruff=1; echo "run: ruff format"; }
python -m mypy || mypy=$?
pytest=0 chosen=0
for selection in "${selections[@]}"; do
    code=0
    python -m pytest -m "$selection" --durations=10 ${arguments[@]+"${arguments[@]}"} || code=$?
    [[ $code == 5 ]] && continue # none of these was chosen
    chosen=1
    [[ $code == 0 ]] || pytest=$code
done
[[ $ruff == 0 ]] || fail "ruff failed, see above"
[[ $mypy == 0 ]] || fail "mypy failed, see above"
[[ $chosen == 1 ]] || exit 5
exit "$pytest"
