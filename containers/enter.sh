# One container for one task: bash -c "$(cat trust.sh enter.sh)" enter IMAGE SHA256 NAMES [OPTION...] -- COMMAND...
# Run on the node, once a task. IMAGE is a .sif file or a folder; CXR_IMAGE_FILE, the first node's own copy of it, stands
# in its place there. NAMES is a pattern of further variables that reach the command; one that holds a folder has it
# bound. Options go to the engine.
image=$1 sha256=$2 names=$3
shift 3
fail() { echo "enter: $*" >&2; exit 1; }

# What is run is what was named, whatever has happened to the file meanwhile, or to a link on the way to it.
records=${XDG_CACHE_HOME:-${HOME:-${TMPDIR:-/tmp}/cxr-home-$UID}/.cache}/cxr-images
copy=${CXR_IMAGE_FILE:-}
whole=$(only_mine "$image") && image=$whole
if [[ $copy = */"$sha256".sif ]] && is_image "$copy" "$sha256" "${copy%/*}/.$sha256.lock"; then
    image=$copy
elif [ -d "$image" ]; then
    [ "$whole" ] || fail "$image: others can change this folder; take the .sif, or a folder of your own"
else
    mkdir -p -m 700 -- "$records" 2> /dev/null
    is_image "$image" "$sha256" "$records/$sha256" ||
        fail "$image is not what its name says (sha256): run cxr image verify, then pull it again"
fi

[[ ${TMPDIR:-/tmp} = /* ]] || TMPDIR=$PWD/$TMPDIR
# A folder of this task alone for home and /tmp. What tasks that are gone left is removed; the engine takes our number.
mkdir -p -- "${TMPDIR:-/tmp}"
box=${TMPDIR:-/tmp}/cxr-box-$UID-$HOSTNAME-$(stat -L -c %i /proc/self/ns/pid)
for old in "$box"-*; do
    number=${old##*-} number=${number%%.*}
    [[ -d $old && ! -L $old && -O $old && $number =~ ^[0-9]+$ ]] && [ ! -e "/proc/$number" ] && rm -rf -- "$old"
done
box=$(mktemp -d -- "$box-$$.XXXXXXXX") && mkdir -- "$box/home" "$box/tmp" "$box/var_tmp" ||
    fail "${TMPDIR:-/tmp} has no room for the container's home"

same_place() { printf 'type=bind,"source=%s","destination=%s"' "${1//\"/\"\"}" "${1//\"/\"\"}"; }
options=(--containall --no-eval --home "$box/home" --workdir "$box")
if [ "${CXR_RANKS:-}" ]; then  # ranks of a node are containers that talk by shared memory, and know each other's numbers
    options=(--contain "${options[@]:1}" --cleanenv --mount "$(same_place /dev/shm)")
else
    export CXR_HOST_PID=$$
fi
[ ! -d /dev/infiniband ] || options+=(--mount "$(same_place /dev/infiniband)")
case ${TMPDIR:-/tmp} in /tmp | /var/tmp) ;; *) options+=(--mount "$(same_place "$TMPDIR")") ;; esac

# Of this environment the engine sees no wish of another's making, and the command what is listed here.
drop=()
while IFS= read -r -d '' pair; do
    case ${pair%%=*} in
        APPTAINER_USERNS | APPTAINER_NO_PRIVS | APPTAINER_TMPDIR | APPTAINER_CACHEDIR) ;;
        APPTAINER* | SINGULARITY* | SLURM_JWT) unset -v "${pair%%=*}" 2> /dev/null || drop+=(-u "${pair%%=*}") ;;
    esac
done < <(env -0)
pass() {
    case $1 in
        SLURM_JOB_ID | SLURM_JOBID | SLURM_JOB_N* | SLURM_JOB_PARTITION | SLURM_JOB_*_TIME | SLURM_JOB_GPUS) ;;
        SLURM_ARRAY_* | SLURM_STEP_ID | SLURM_STEP_N* | SLURM_RESTART_COUNT | SLURM_CLUSTER_NAME | SLURMD_NODENAME) ;;
        SLURM_PROCID | SLURM_LOCALID | SLURM_NODEID | SLURM_NNODES | SLURM_NPROCS | SLURM_NTASKS* | SLURM_NODELIST) ;;
        SLURM_TASKS_PER_NODE | SLURM_GPUS* | SLURM_CPUS_* | SLURM_MEM_*) ;;
        CXR_*KEY* | CXR_*SECRET* | CXR_*TOKEN* | CXR_*PASSWORD*) return 1 ;;
        CUDA_VISIBLE_DEVICES | NCCL_* | CXR_* | TMPDIR | *_NUM_THREADS) ;;
        PYTHONNOUSERSITE | PYTHONSAFEPATH | PYTHONUNBUFFERED) ;;
        *) return 1 ;;
    esac
}
export CXR_IMAGE_SHA256=$sha256 PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1
for name in $(compgen -e); do
    named=; [[ ! $name =~ ^($names)$ ]] || named=yes
    [ "$named" ] || pass "$name" || continue
    # Handed over one by one: the engine's --env would split values at commas, as in CUDA_VISIBLE_DEVICES=0,1.
    given=${!name}
    export "APPTAINERENV_$name=$given"
    if [[ $named && $given = /* && -d $given ]]; then options+=(--mount "$(same_place "$given")"); fi
done
while [ "$1" != -- ]; do options+=("$1"); shift; done
shift
exec env "${drop[@]}" apptainer --silent exec "${options[@]}" "$image" "$@"
