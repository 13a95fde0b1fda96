# Sourced by the launchers: one virtual environment with the pinned dependencies, its programs first on PATH.
#
#   . "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
#   prepare_environment [EXTRA...]      # the extras of pyproject.toml, e.g. test; [gpu] joins where an NVIDIA GPU answers
#
# The active virtual environment is used, else .venv in the clone. Nothing is installed again while pyproject.toml and
# requirements.lock stay as they were. Sets `root`, the clone.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

supported() { # whether this interpreter runs and fits requires-python in pyproject.toml
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

make_environment() {
    local candidate log
    for candidate in python3.11 python3.12 python3.13 python3; do
        if supported "$candidate"; then
            log=$(mktemp)
            "$candidate" -m venv "$root/.venv" >"$log" 2>&1 ||
                fail "$candidate could not make $root/.venv, on Debian it needs the package python3-venv; log: $log"
            rm "$log"
            return
        fi
    done
    fail "expected Python 3.11, 3.12 or 3.13 on PATH, found $(python3 --version 2>/dev/null || echo none); install one of them"
}

prepare_environment() {
    local wanted=(base "$@") stamp key found="" installed="" word
    [[ -n ${VIRTUAL_ENV:-} && -x $VIRTUAL_ENV/bin/python ]] || VIRTUAL_ENV=$root/.venv
    export VIRTUAL_ENV PATH=$VIRTUAL_ENV/bin:$PATH
    # The stamp says for which files, for which clone and with which extras this environment was installed.
    stamp=$VIRTUAL_ENV/flexseg_installed
    key="$(cat "$root/pyproject.toml" "$root/requirements.lock" | sha256sum | cut -d ' ' -f 1) $root"
    if [[ -f $stamp && -x $VIRTUAL_ENV/bin/flexseg ]]; then
        { read -r found && read -r installed; } <"$stamp" || true
        [[ $found == "$key" ]] || installed=""
    fi
    if [[ " $installed " == *" gpu "* ]] || nvidia-smi -L >/dev/null 2>&1; then
        wanted+=(gpu)
    fi
    for word in "${wanted[@]}"; do
        [[ " $installed " == *" $word "* ]] || { install_pinned "$stamp" "$key" "${wanted[@]}" $installed; return; }
    done
}

install_pinned() { # stamp, key, words
    local stamp=$1 key=$2 log=$VIRTUAL_ENV/flexseg_install.log words extras
    words=$(printf '%s\n' "${@:3}" | sort -u | tr '\n' ' ')
    extras=$(tr ' ' '\n' <<<"$words" | grep -vx -e base -e '' | paste -sd , || true)
    [[ " $words" != *" gpu "* ]] || echo "an NVIDIA GPU is here: the extra [gpu] (CUDA libraries, several GB) is installed too"
    "$VIRTUAL_ENV/bin/python" -m pip --version >/dev/null 2>&1 || [[ $VIRTUAL_ENV != "$root/.venv" ]] || make_environment
    supported "$VIRTUAL_ENV/bin/python" ||
        fail "expected Python 3.11, 3.12 or 3.13 in $VIRTUAL_ENV, found $("$VIRTUAL_ENV/bin/python" --version 2>&1); leave that environment or move it"
    echo "installing pinned dependencies into $VIRTUAL_ENV: some minutes the first time"
    # PIP_CONSTRAINT and, from pip 25.3 on, PIP_BUILD_CONSTRAINT pin the build tools as well; a relative path, because they are split at spaces.
    if ! (cd "$root" && export PIP_CONSTRAINT=requirements.lock PIP_BUILD_CONSTRAINT=requirements.lock &&
        python -m pip install --disable-pip-version-check --no-input -c requirements.lock -e ".${extras:+[$extras]}" >"$log" 2>&1); then
        tail -n 5 "$log" >&2
        fail "the installation failed; log: $log"
    fi
    printf '%s\n' "$key" "$words" >"$stamp"
}
