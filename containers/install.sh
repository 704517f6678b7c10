#!/bin/sh
# install.sh SOURCE TARGET: the project and the packages of SOURCE/containers/TARGET.lock in /opt/cxr, for both the
# Dockerfile and cxr.def. pip's own variables (PIP_INDEX_URL, PIP_FIND_LINKS) say where packages come from.
set -eu
source=$1 target=$2
lock=$source/containers/$target.lock

python3 -m venv /opt/cxr
# Whatever is fetched has a hash: what builds packages that come as source is of the lock file too, and is there first.
install() {
    /opt/cxr/bin/python -m pip --quiet --no-cache-dir --disable-pip-version-check install --no-compile --no-deps \
        --no-build-isolation "$@"
}
locked() { grep -E "^($1)==" "$lock" > /tmp/locked.txt && shift && install --require-hashes -r /tmp/locked.txt "$@"; }

locked 'setuptools|wheel|torch'
locked '[a-z0-9-]+'
if [ "$target" = cuda ]; then
    # Built here, where there is a compiler: a node has none, and hundreds of tasks must not compile at once.
    export DS_BUILD_CPU_ADAM=1 DS_BUILD_FUSED_ADAM=1 TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0+PTX"
    CFLAGS=-mavx2 CXXFLAGS=-mavx2 locked deepspeed --force-reinstall --no-binary deepspeed
fi
install --no-index "$source"

# Valid whatever the times of files become when an image is made of them. Some packages ship files for other Pythons,
# for which it complains and compiles the rest.
/opt/cxr/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/cxr/lib > /dev/null || true
rm -f /tmp/locked.txt
