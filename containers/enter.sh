# One container for one task: bash -c "$(cat enter.sh)" enter IMAGE SHA256 NAMES [OPTION...] -- COMMAND...
# Run on the node, once a task. IMAGE is a .sif file or a folder; CXR_IMAGE_FILE, the first node's own copy of it, stands
# in its place there. NAMES is a pattern of further variables that reach the command; one that holds a folder has it
# bound. Options go to the engine.
image=$1 names=$3
[[ ${CXR_IMAGE_FILE:-} != */"$2".sif || ! -f $CXR_IMAGE_FILE ]] || image=$CXR_IMAGE_FILE
export CXR_IMAGE_SHA256=$2 PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1
shift 3
same_place() { printf 'type=bind,"source=%s","destination=%s"' "${1//\"/\"\"}" "${1//\"/\"\"}"; }
options=(--cleanenv --no-mount home,cwd)
home=${TMPDIR:-/tmp}/cxr-home-$UID
mkdir -p -m 700 -- "$home" && [ -O "$home" ] || { echo "enter: $home cannot be the container's home" >&2; exit 1; }
[ -z "${TMPDIR:-}" ] || options+=(--mount "$(same_place "$TMPDIR")")
for name in $(compgen -e); do
    named=; [[ ! $name =~ ^($names)$ ]] || named=yes
    case $name in
        SLURM_* | CUDA_VISIBLE_DEVICES | NCCL_* | CXR_* | TMPDIR | *_NUM_THREADS | PYTHONNOUSERSITE | PYTHONSAFEPATH | PYTHONUNBUFFERED) ;;
        *) [ "$named" ] || continue ;;
    esac
    # Handed over one by one: the engine's --env would split values at commas, as in CUDA_VISIBLE_DEVICES=0,1.
    export "APPTAINERENV_$name=${!name}"
    if [[ $named && ${!name} = /* && -d ${!name} ]]; then options+=(--mount "$(same_place "${!name}")"); fi
done
while [ "$1" != -- ]; do options+=("$1"); shift; done
shift
exec apptainer --silent exec --home "$home" "${options[@]}" "$image" "$@"
