#!/bin/sh
# Makes the project's environment in .venv: requirements.lock, exactly, and the project itself
# (editable). Run again it does only what is missing, and nothing at all when nothing changed.
#
#   sh scripts/setup.sh                           with python3, or else python3.14 to python3.11
#   PYTHON=/path/to/python sh scripts/setup.sh    with that one
#
# Packages come from wherever pip is configured to look (an index or a folder of wheels:
# pip.conf and PIP_* variables are honoured). The machine decides the build of torch: with an
# NVIDIA GPU the general one with its CUDA packages, else the CPU build.
set -eu

torch_cpu_index=https://download.pytorch.org/whl/cpu
venv_python=.venv/bin/python
stamp=.venv/setup-done              # what the finished environment was made for
unfinished=.venv/setup-unfinished   # holds the process at work; left behind only by a killed one
started=no

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
    # pip takes back what it cannot finish, so after an error the next run may build on this one.
    if [ "$started" = yes ]; then rm -f "$unfinished"; fi
    say "$*"
    exit 1
}
trap 'say "stopped; run the same line again to start anew."; exit 130' INT TERM HUP

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null
}
# An environment prints the same as the interpreter that it was made from.
identity() { "$1" -c 'import sys; print(*sys.version_info[:2], sys.base_prefix)' 2>/dev/null; }
has_gpu() { nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }
fingerprint() {
    { pwd && identity "$venv_python" && cat requirements.lock pyproject.toml scripts/setup.sh; } |
        cksum
}

# True if the environment is whole and up to date. One made for a GPU also serves without one.
is_current() {
    [ -f "$stamp" ] && [ ! -e "$unfinished" ] && [ -x "$venv_python" ] || return 1
    is_wanted_python || return 1
    read -r stamped_kind stamped_sum <"$stamp"
    [ "$stamped_sum" = "$(fingerprint)" ] || return 1
    [ "$stamped_kind" = cuda ] || ! has_gpu
}
is_wanted_python() {
    [ -z "${PYTHON:-}" ] || [ "$(identity "$PYTHON")" = "$(identity "$venv_python")" ]
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        found=$("$PYTHON" -V 2>&1) || die "PYTHON=$PYTHON does not run; name a Python 3.11 to 3.14."
        is_supported "$PYTHON" || die "PYTHON=$PYTHON is $found; name a Python 3.11 to 3.14."
        python=$PYTHON
        return
    fi
    for python in python3 python3.14 python3.13 python3.12 python3.11; do
        if is_supported "$python"; then return; fi
    done
    found=$(python3 -V 2>&1) || found="no python3"
    die "Python 3.11 to 3.14 is needed, found $found; install one, or name one with PYTHON=..."
}

# Marks .venv as being worked on; sets interrupted=yes if an earlier run was killed in its work.
start() {
    mkdir -p .venv || die "cannot write to $PWD; clone the project where you may write."
    interrupted=no
    if ! (set -C && echo $$ >"$unfinished") 2>/dev/null; then
        other=$(cat "$unfinished") || other=
        if [ -n "$other" ] && kill -0 "$other" 2>/dev/null; then
            die "another set-up (process $other) is at work in $PWD; wait for it to end" \
                "(if process $other is something else, delete $unfinished)."
        fi
        interrupted=yes
        echo $$ >"$unfinished"
    fi
    started=yes
    rm -f "$stamp"
}

make_environment() {
    if [ "$interrupted" = no ] && is_supported "$venv_python" && is_wanted_python &&
        "$venv_python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    say "making .venv with $("$python" -V 2>&1)"
    find .venv/. ! -name . -prune ! -name "${unfinished##*/}" -exec rm -rf {} +
    "$python" -m venv .venv >&2 ||
        die "$python cannot make environments; install its venv module (Debian: python3-venv)."
}

pip_install() { "$venv_python" -m pip install --no-build-isolation "$@"; }

# install_torch_cpu PIP-OPTIONS...: true if done, false if that build is not on offer there.
install_torch_cpu() {
    if pip_install $verbosity --no-deps "$torch+cpu" "$@" 2>.venv/setup-pip.log; then return 0; fi
    if grep -q 'No matching distribution' .venv/setup-pip.log; then return 1; fi
    cat .venv/setup-pip.log >&2
    die "the CPU build of $torch could not be installed (see above); run the same line again."
}

install_torch() {
    if [ "$kind" = cuda ]; then
        say "installing $torch for the NVIDIA GPU (with CUDA packages, several GB)"
    elif [ "$(uname -s)" = Linux ]; then
        say "installing $torch, CPU build (about 200 MB)"
        # First where pip is configured to look, then PyTorch's own index: a machine that cannot
        # reach it must not wait long.
        if install_torch_cpu; then return; fi
        if install_torch_cpu --index-url "$torch_cpu_index" --timeout 15 --retries 1; then return; fi
        say "found $torch+cpu neither where pip is configured to look nor at $torch_cpu_index:" \
            "installing the general build (with CUDA packages, several GB)"
    else
        say "installing $torch"
    fi
    pip_install $verbosity -c requirements.lock "$torch" ||
        die "$torch could not be installed (see above); check pip's index and run this again."
}

check_torch() {
    "$venv_python" -c 'import torch' ||
        die "$torch is installed but does not load (see above); delete .venv and run this again."
    if [ "$kind" = cuda ] && ! "$venv_python" -c 'import torch; exit(not torch.version.cuda)'; then
        say "there is an NVIDIA GPU, but pip found a build of torch without CUDA: for the other" \
            "one, '$venv_python -m pip install torch===${torch#torch==}'."
    fi
}

cd "$(dirname "$0")/.."
if is_current; then exit 0; fi

# Settings that make pip install elsewhere, or see packages of elsewhere, do not apply here.
unset PIP_TARGET PIP_PREFIX PYTHONPATH
export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1
verbosity=-q
if [ -t 1 ]; then verbosity=; fi # a person at a terminal sees torch's large download move
torch=$(grep '^torch==' requirements.lock) && setuptools=$(grep '^setuptools==' requirements.lock) ||
    die "requirements.lock has no line torch==... or setuptools==...; restore the file from git."

find_python
start
make_environment
kind=cpu
if has_gpu; then kind=cuda; fi
# setuptools comes first: what comes as source (pure Python) and the project are built with it,
# not with one that pip would have to find on its own.
pip_install -qq --no-deps "$setuptools" ||
    die "$setuptools could not be installed (see above); check pip's index and run this again."
install_torch
say "installing the other packages of requirements.lock (about 235 MB)"
pip_install -qq --no-deps -r requirements.lock ||
    die "requirements.lock could not be installed (see above); check pip's index and run this again."
check_torch
pip_install -qq --no-deps -e . ||
    die "the project itself could not be installed (see above); is this clone complete?"
printf '%s %s\n' "$kind" "$(fingerprint)" >"$stamp"
rm -f "$unfinished"
say "done: the environment is in $PWD/.venv"
