#!/usr/bin/env bash
# Makes .venv, the project's own environment: tools/setup_env.sh lint|demo|test. `make` calls it when its stamp is out of date.
#   lint  ruff alone
#   demo  the classification host on mmcv-lite, which needs no compiler
#   test  everything: MMDet too, and mmcv compiled
# Whatever was interrupted, run it again: each step looks at what is there. The stamp .venv/NAME.ready is written last.
# From the environment: PYTHON (a Python 3.11), TORCH_INDEX (another index for torch alone), MAX_JOBS (compilers at once).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=${1:-}
case $profile in
    lint) stamps=(lint) steps=2 ;;
    demo) stamps=(lint demo) steps=4 ;;
    test) stamps=(lint demo test) steps=4 ;;
    *) echo 'usage: tools/setup_env.sh lint|demo|test' >&2 && exit 2 ;;
esac
venv=.venv
python=$venv/bin/python

refuse() {
    echo "setup: $*" >&2
    exit 1
}

number=0
step() {
    number=$((number + 1))
    echo "setup [$number/$steps]: $*"
}

pin() { sed -n "s/^$1==//p" constraints.txt; }

is_3_11() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

# The pinned version is there, whatever its build (2.9.1+cpu is 2.9.1).
installed() {
    "$python" -c 'import sys; from importlib.metadata import version as v; sys.exit(v(sys.argv[1]).split("+")[0] != sys.argv[2])' \
        "$1" "$(pin "$1")" 2>/dev/null
}

# pip as it is on a terminal, with its progress bars; in a log without the hundred lines of what is there already.
pip_install() {
    if [ -t 1 ]; then
        "$python" -m pip install -c constraints.txt "$@"
    else
        "$python" -m pip install -c constraints.txt "$@" | { grep --line-buffered -v '^Requirement already satisfied' || true; }
    fi
}

# ---- what would fail later is said now, before anything is downloaded --------------------------------------------------

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_3_11 "$PYTHON" || refuse "needs Python 3.11, but PYTHON=$PYTHON is $("$PYTHON" -V 2>&1 | head -n 1)"
        base_python=$PYTHON
        return
    fi
    for candidate in python3.11 python3 python; do
        if is_3_11 "$candidate"; then
            base_python=$candidate
            return
        fi
    done
    refuse "needs Python 3.11, found $(python3 -V 2>/dev/null || echo none): install it, or name it: make $profile PYTHON=/path/to/python3.11"
}

need_compiler() {
    local compiler=${CXX:-g++} headers
    command -v "$compiler" >/dev/null ||
        refuse "mmcv must be compiled, and there is no C++ compiler ($compiler): install one (Debian: apt-get install g++); make demo needs none"
    headers=$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -f "$headers/Python.h" ] ||
        refuse "mmcv must be compiled, and $headers/Python.h is missing: install Python's headers (Debian: apt-get install python3.11-dev)"
    echo '#include <string_view>' | "$compiler" -std=c++17 -x c++ -fsyntax-only - 2>/dev/null ||
        refuse "mmcv must be compiled, and $compiler cannot compile C++17: install a newer one (g++ 9 or later)"
}

need_disk() { # GiB, what for
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
            refuse "$base_python has no venv module: install it (Debian: apt-get install python3.11-venv)"
    fi
    [ "$profile" != lint ] || return 0
    [ "$profile" = demo ] || installed mmcv || need_compiler "$base_python"
    if installed torch; then
        need_disk 2 'what is still missing'
    elif [ -n "${TORCH_INDEX:-}" ]; then
        need_disk 5 'the environment and the downloads'
    else # torch from PyPI brings CUDA along
        need_disk 14 'the environment takes 8, the downloads 6; on a machine without GPU TORCH_INDEX makes it less, see CONTRIBUTING.md'
    fi
}

# ---- the steps ---------------------------------------------------------------------------------------------------------

make_venv() {
    step "the environment $venv (seconds)"
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        [ ! -e $venv ] || echo "setup: $venv is half made, making it anew"
        rm -rf $venv
        "$base_python" -m venv $venv
    fi
    # pip takes a package whose installation was killed for complete. RECORD is what it writes last.
    local info
    for info in $venv/lib/python3.11/site-packages/*.dist-info $venv/lib/python3.11/site-packages/~*; do
        [ ! -e "$info" ] || [ -f "$info/RECORD" ] || rm -rf "$info"
    done
    # What pip unpacks and compiles goes here too: none of it is left behind, and only one disk has to be large enough.
    rm -rf $venv/tmp
    mkdir $venv/tmp
    export TMPDIR=$PWD/$venv/tmp
}

install_torch() {
    step "torch $(pin torch) and torchvision $(pin torchvision) (a download of up to 3 GB: usually 2 to 10 minutes)"
    if ! installed torch || ! installed torchvision; then
        if [ -n "${TORCH_INDEX:-}" ]; then
            pip_install --no-deps --index-url "$TORCH_INDEX" torch torchvision
        else
            pip_install torch torchvision
        fi
    fi
}

install_packages() { # extra
    step "mmkd_plugin[$1] and what it needs (a download of 250 MB: usually 1 to 3 minutes)"
    pip_install setuptools wheel
    pip_install --no-build-isolation -e ".[$1]"
    # opencv-python, which the hosts ask for, wants a desktop's libGL; its headless twin is the same without windows.
    if ! "$python" -c 'import cv2' 2>/dev/null; then
        echo 'setup: opencv-python does not load here (no libGL?): opencv-python-headless takes its place'
        "$python" -m pip uninstall --quiet --yes opencv-python
        pip_install --no-deps --force-reinstall opencv-python-headless
        "$python" -c 'import cv2'
    fi
}

# mmcv and mmcv-lite share the import name mmcv: whichever comes, the other one has to go first.
install_mmcv_lite() {
    step 'mmcv-lite (seconds), unless the compiled mmcv is there'
    installed mmcv || installed mmcv-lite || pip_install --no-deps mmcv-lite
}

ops_work() {
    "$python" -c 'import torch; from mmcv.ops import nms; nms(torch.tensor([[0., 0., 1., 1.]]), torch.ones(1), 0.5)' 2>/dev/null
}

install_mmcv() {
    local jobs attempt wheels=$venv/tmp/wheels
    jobs=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)}
    step "mmcv $(pin mmcv), compiled with $jobs jobs (usually 8 minutes on 2 cores, only once: pip keeps the wheel)"
    ! installed mmcv || ! ops_work || return 0
    pip_install ninja psutil
    for attempt in kept new; do
        # The wheel comes first: what is there works until the new one is ready.
        MMCV_WITH_OPS=1 MAX_JOBS=$jobs "$python" -m pip wheel --no-deps --no-build-isolation -w $wheels "mmcv==$(pin mmcv)"
        "$python" -m pip uninstall --quiet --yes mmcv mmcv-lite
        "$python" -m pip install --no-deps $wheels/mmcv-*.whl
        if ops_work; then
            break
        fi
        [ $attempt = kept ] || refuse "mmcv was compiled, and its operators do not run: $python -c 'import mmcv.ops' says why"
        echo 'setup: the kept wheel of mmcv does not fit this torch: compiling it anew'
        "$python" -m pip cache remove mmcv
        rm $wheels/*.whl
    done
}

preflight
trap '[ $? -eq 0 ] || echo "setup: stopped before the end; the same command goes on from here" >&2' EXIT
make_venv
for stamp in "${stamps[@]}"; do rm -f "$venv/$stamp.ready"; done
case $profile in
    lint)
        step 'ruff (seconds)'
        pip_install ruff
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
rm -rf $venv/tmp
for stamp in "${stamps[@]}"; do touch "$venv/$stamp.ready"; done
echo "setup: $venv is ready after $SECONDS s"
