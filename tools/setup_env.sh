#!/usr/bin/env bash
# Makes .venv, the project's own environment: tools/setup_env.sh lint|demo|test. `make` calls it if
# the stamp .venv/NAME.ready is missing or older than the files that list the packages.
#   lint  ruff and codespell alone
#   demo  MMPretrain on mmcv-lite, which needs no compiler
#   test  everything: MMDet too, mmcv compiled, and what lint and demo need
# After an interruption, run it again: each step first checks what is installed. Stamps are written
# last, and only for what was installed.
# Environment variables: PYTHON (a Python 3.11), TORCH_INDEX (another index for torch alone),
# MAX_JOBS (compilers at once).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=${1:-}
case $profile in
    lint) stamps=(lint) steps=2 usual=seconds ;;
    demo) stamps=(demo) steps=4 usual='4 to 14 min' ;;
    test) stamps=(lint demo test) steps=4 usual='12 to 30 min' ;;
    *) echo 'usage: tools/setup_env.sh lint|demo|test' >&2 && exit 2 ;;
esac
venv=.venv
python=$venv/bin/python

refuse() {
    echo "setup: $*" >&2
    exit 1
}

# Print a line a minute while a step runs. It ends with the script, even if that is killed.
beat_seconds=${SETUP_BEAT_SECONDS:-60}
heartbeat() { # the step's usual time, its name
    local began=$SECONDS never
    exec {never}<> <(:)
    while read -rt "$beat_seconds" -u "$never" || [ $? -gt 128 ]; do # nothing comes: this waits
        kill -0 $$ 2>/dev/null || exit 0
        echo "setup [$number/$steps]: $(((SECONDS - began) / 60)) min, usually $1; in all" \
            "$((SECONDS / 60)) min, usually $usual: $2"
    done
}

number=0 beat=
end_heartbeat() {
    [ -n "$beat" ] || return 0
    kill "$beat" 2>/dev/null || true
    wait "$beat" 2>/dev/null || true # after this it prints nothing
    beat=
}
step() { # usual time, name
    end_heartbeat
    number=$((number + 1))
    echo "setup [$number/$steps]: $2 (usually $1)"
    heartbeat "$@" 2>/dev/null & # on a busy machine bash reports that <(:) has ended already
    beat=$!
}

pin() { sed -n "s/^$1==//p" constraints.txt; }

is_3_11() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

# Whether the pinned version is installed, in any build (2.9.1+cpu is 2.9.1).
installed() {
    "$python" -c 'import sys
from importlib.metadata import version
sys.exit(version(sys.argv[1]).split("+")[0] != sys.argv[2])' "$1" "$(pin "$1")" 2>/dev/null
}

# On a terminal pip shows its bars. A log is spared a hundred lines about what is installed already.
pip_install() {
    if [ -t 1 ]; then
        "$python" -m pip install -c constraints.txt "$@"
    else
        "$python" -m pip install -c constraints.txt "$@" |
            { grep --line-buffered -v '^Requirement already satisfied' || true; }
    fi
}

# ---- checks before the first download ----------------------------------------------------------

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_3_11 "$PYTHON" ||
            refuse "needs Python 3.11, but PYTHON=$PYTHON is $("$PYTHON" -V 2>&1 | head -n 1)"
        base_python=$PYTHON
        return
    fi
    for candidate in python3.11 python3 python; do
        if is_3_11 "$candidate"; then
            base_python=$candidate
            return
        fi
    done
    refuse "needs Python 3.11, found $(python3 -V 2>/dev/null || echo none): install it, or name" \
        "it: make $profile PYTHON=/path/to/python3.11"
}

need_compiler() {
    local compiler=${CXX:-g++} headers
    command -v "$compiler" >/dev/null ||
        refuse "mmcv must be compiled, and there is no C++ compiler ($compiler): install one" \
            "(Debian: apt-get install g++); make demo needs none"
    headers=$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -f "$headers/Python.h" ] ||
        refuse "mmcv must be compiled, and $headers/Python.h is missing: install Python's headers" \
            "(Debian: apt-get install python3.11-dev)"
    echo '#include <string_view>' | "$compiler" -std=c++17 -x c++ -fsyntax-only - 2>/dev/null ||
        refuse "mmcv must be compiled, and $compiler cannot compile C++17: install a newer one" \
            '(g++ 9 or later)'
}

need_disk() { # GiB, its purpose
    local free
    free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
    [ "$free" -ge "$1" ] || refuse "needs $1 GiB free in this folder ($2), found $free GiB"
}

preflight() {
    if [ -x $python ] && "$python" -c '' 2>/dev/null && ! is_3_11 $python; then
        refuse "$venv holds $("$python" -V), and 3.11 is needed: remove it (make distclean)"
    fi
    base_python=$python
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        find_python
        "$base_python" -c 'import ensurepip, venv' 2>/dev/null ||
            refuse "$base_python has no venv module: install it" \
                '(Debian: apt-get install python3.11-venv)'
    fi
    [ "$profile" != lint ] || return 0
    [ "$profile" = demo ] || installed mmcv || need_compiler "$base_python"
    if installed torch; then
        need_disk 2 'the packages that are still missing'
    elif [ -n "${TORCH_INDEX:-}" ]; then
        need_disk 5 'the environment and the downloads'
    else # torch from PyPI brings CUDA along
        need_disk 14 'environment 8, downloads 6; less without GPU: TORCH_INDEX in CONTRIBUTING.md'
    fi
}

# ---- the steps ---------------------------------------------------------------------------------

make_venv() {
    step seconds "the environment $venv"
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        [ ! -e $venv ] || echo "setup: $venv is incomplete and is made anew"
        rm -rf $venv
        "$base_python" -m venv $venv
    fi
    # pip considers a package complete if its installation was killed. It writes RECORD last.
    local info packages=$venv/lib/python3.11/site-packages
    for info in $packages/*.dist-info $packages/~*; do
        [ ! -e "$info" ] || [ -f "$info/RECORD" ] || rm -rf "$info"
    done
    # pip unpacks and compiles here too, so nothing is left behind, on one disk.
    rm -rf $venv/tmp
    mkdir $venv/tmp
    export TMPDIR=$PWD/$venv/tmp
}

install_torch() {
    step '2 to 10 min' "torch $(pin torch) and torchvision $(pin torchvision), up to 3 GB"
    if ! installed torch || ! installed torchvision; then
        if [ -n "${TORCH_INDEX:-}" ]; then
            pip_install --no-deps --index-url "$TORCH_INDEX" torch torchvision
        else
            pip_install torch torchvision
        fi
    fi
}

install_packages() { # extra
    step '1 to 3 min' "mmkd_plugin and the packages of its extra $1, 250 MB"
    pip_install setuptools wheel
    pip_install --no-build-isolation -e ".[$1]"
    # The hosts require opencv-python, which needs libGL. The headless package lacks only windows.
    if ! "$python" -c 'import cv2' 2>/dev/null; then
        echo 'setup: opencv-python cannot be imported (no libGL?); the headless one replaces it'
        "$python" -m pip uninstall --quiet --yes opencv-python
        pip_install --no-deps --force-reinstall opencv-python-headless
        "$python" -c 'import cv2'
    fi
}

# mmcv and mmcv-lite share the import name mmcv: the one must be removed before the other comes.
install_mmcv_lite() {
    step seconds 'mmcv-lite, unless the compiled mmcv is installed'
    installed mmcv || installed mmcv-lite || pip_install --no-deps mmcv-lite
}

ops_work() {
    "$python" -c 'import torch; from mmcv.ops import nms
nms(torch.tensor([[0., 0., 1., 1.]]), torch.ones(1), 0.5)' 2>/dev/null
}

install_mmcv() {
    local jobs attempt wheels=$venv/tmp/wheels
    jobs=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)}
    step '8 to 17 min on 2 cores' "mmcv $(pin mmcv), compiled by $jobs jobs; pip keeps the wheel"
    ! installed mmcv || ! ops_work || return 0
    pip_install ninja psutil
    for attempt in kept new; do
        # The wheel comes first, so that the installed one works until the new one is ready.
        MMCV_WITH_OPS=1 MAX_JOBS=$jobs "$python" -m pip wheel \
            --no-deps --no-build-isolation -w $wheels "mmcv==$(pin mmcv)"
        "$python" -m pip uninstall --quiet --yes mmcv mmcv-lite
        "$python" -m pip install --no-deps $wheels/mmcv-*.whl
        if ops_work; then
            break
        fi
        [ $attempt = kept ] ||
            refuse "mmcv was compiled, and its operators fail: see $python -c 'import mmcv.ops'"
        echo 'setup: the kept wheel of mmcv does not fit this torch, and mmcv is compiled anew'
        "$python" -m pip cache remove mmcv
        rm $wheels/*.whl
    done
}

preflight
finish() { # exit code
    end_heartbeat
    [ "$1" -eq 0 ] || echo 'setup: stopped before the end; the same command continues from here' >&2
}
trap 'finish $?' EXIT
make_venv
for stamp in "${stamps[@]}"; do rm -f "$venv/$stamp.ready"; done
case $profile in
    lint)
        step seconds 'ruff and codespell'
        pip_install ruff codespell
        ;;
    demo)
        install_torch
        install_packages demo
        install_mmcv_lite
        "$python" -c 'import mmkd_plugin, mmpretrain'
        ;;
    test)
        install_torch
        install_packages dev
        install_mmcv
        "$python" -c 'import mmkd_plugin, mmpretrain, mmdet'
        ;;
esac
end_heartbeat
rm -rf $venv/tmp
for stamp in "${stamps[@]}"; do touch "$venv/$stamp.ready"; done
echo "setup: $venv is ready after $SECONDS s"
