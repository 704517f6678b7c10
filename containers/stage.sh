# Lines of a batch script, run by the batch shell of a node. They use bash, flock and coreutils, since a node need not
# have Python.

# hold_image FILE: descriptor 9 stays open, and its shared lock says until the end of the job that FILE is in use; its
# time is when it was last used.
hold_image() {
    exec 9< "$1" && flock -s 9
    touch -c -- "$1" 2> /dev/null || true
}

# stage_image IMAGE SHA256 BYTES FOLDER: one copy of a SIF on this node, in FOLDER, for all tasks of all jobs.
# Sets CXR_IMAGE_FILE. Without room the image is read where it lies; status 1 if it is damaged.
stage_image() {
    local image=$1 sha256=$2 bytes=$3 folder=$4 code
    local copy=$folder/$sha256.sif part=$folder/.$sha256.part
    in_place() { echo "image: $1; read where it lies" >&2; hold_image "$image"; }
    touch -c -- "$image" 2> /dev/null
    if ! mkdir -p -- "$folder" || ! exec 8> "$folder/.$sha256.lock"; then
        in_place "$folder cannot be written"
        return 0
    fi
    until flock -w 10 8; do
        code=$?
        if [ "$code" != 1 ]; then in_place "no locks in $folder"; return 0; fi
        echo "image: another task copies it: $(stat -c %s -- "$part" 2> /dev/null || echo 0) of $bytes bytes" >&2
    done
    if [ "$(stat -c %s -- "$copy" 2> /dev/null)" != "$bytes" ]; then
        rm -f -- "$copy" "$part"
        if ! make_room "$bytes" "$folder"; then
            in_place "no room for $bytes bytes in $folder"
            exec 8>&-
            return 0
        fi
        cp -- "$image" "$part" || { rm -f -- "$part"; exec 8>&-; return 1; }
        if [ "$(sha256sum < "$part" | cut -c -64)" != "$sha256" ]; then
            rm -f -- "$part"
            echo "image: $image is not what its name says (sha256): run cxr image verify, then pull it again" >&2
            exec 8>&-
            return 1
        fi
        mv -- "$part" "$copy"
        echo "image: copied to $copy" >&2
    fi
    hold_image "$copy"
    exec 8>&-
    export CXR_IMAGE_FILE=$copy
}

# Remove the copies that were used longest ago and are not in use, until there is room.
make_room() {
    local need=$(($1 + $1 / 20)) folder=$2 old
    for old in "" $(find "$folder" -maxdepth 1 -name '*.sif' -printf '%T@ %f\n' | sort -n | cut -d ' ' -f 2); do
        if [ -n "$old" ]; then
            (flock -n 6 && flock -n -x 7 && rm -f -- "$folder/$old") 6> "$folder/.${old%.sif}.lock" 7< "$folder/$old"
        fi
        [ "$(df --output=avail -B 1 -- "$folder" | tail -n 1)" -lt "$need" ] || return 0
    done
    return 1
}
