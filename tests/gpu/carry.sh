#!/usr/bin/env bash
# Packs what tests/gpu need and a GPU machine without network may lack, as wheels:
#     tests/gpu/carry.sh FOLDER [PYTHON_VERSION] [PACKAGE-THAT-IS-THERE ...]
# of the versions that are installed here, for x86_64, without torch (which such a machine brings, 2.11 or newer) and
# without the packages that are named. DeepSpeed has no wheel; `pip wheel --no-deps deepspeed` makes one, without which
# the tests of ZeRO are skipped. Then there, in the checkout, with Python 3.11 or 3.12:
#     python -m pip install --no-index --no-deps FOLDER/*.whl
#     python -m pytest -m gpu -s tests/gpu
#     python -m tests.gpu G1
set -euo pipefail
folder=$(realpath -m "${1:?FOLDER is missing}")
version=${2:-3.11}
shift $(($# < 2 ? $# : 2))
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
mkdir -p "$folder"
"$python" -m tests.gpu.needs "$@" 2>/dev/null > "$folder/packages.txt"
platforms=()
for glibc in 2_17 2_24 2_26 2_27 2_28 2_31 2_34; do
    platforms+=(--platform "manylinux_${glibc}_x86_64")
done
"$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$version" \
    --abi "cp${version/./}" --abi abi3 --abi none --platform manylinux2014_x86_64 "${platforms[@]}" \
    --dest "$folder" --requirement "$folder/packages.txt"
du -sh "$folder"
