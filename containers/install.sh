#!/bin/sh
# install.sh SOURCE TARGET: the project and the packages of SOURCE/containers/TARGET.lock in /opt/cxr, for both the
# Dockerfile and cxr.def. pip's own variables (PIP_INDEX_URL, PIP_FIND_LINKS) say where packages come from.
set -eu
source=$1 target=$2
lock=$source/containers/$target.lock

python3 -m venv /opt/cxr
install() { /opt/cxr/bin/python -m pip --quiet --no-cache-dir --disable-pip-version-check install --no-compile --no-deps "$@"; }

# pip wants a hash of every package or of none.
grep '^torch==' "$lock" > /tmp/unhashed.txt
grep -v '^torch==' "$lock" > /tmp/hashed.txt
install -r /tmp/unhashed.txt
install --require-hashes -r /tmp/hashed.txt
if [ "$target" = cuda ]; then
    # Built here, where there is a compiler: a node has none, and hundreds of tasks must not compile at once.
    export DS_BUILD_CPU_ADAM=1 DS_BUILD_FUSED_ADAM=1 TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0+PTX"
    CFLAGS=-mavx2 CXXFLAGS=-mavx2 install --no-build-isolation --force-reinstall --no-binary deepspeed \
        "$(grep -o '^deepspeed==[^ ]*' "$lock")"
fi
install "$source"

# Valid whatever the times of files become when an image is made of them. Some packages ship files for other Pythons,
# for which it complains and compiles the rest.
/opt/cxr/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/cxr/lib > /dev/null || true
rm -rf /tmp/unhashed.txt /tmp/hashed.txt
