# Lines of a batch script, run by the batch shell of a node, after trust.sh. They use bash, flock and coreutils, since a
# node need not have Python.

# hold_image FILE: descriptor 9 stays open, and its shared lock says until the end of the job that FILE is in use; its
# time is when it was last used, to a day: each change makes it a file that nobody has read through yet.
hold_image() {
    exec 9< "$1" && flock -s 9
    [ -z "$(find -L "$1" -maxdepth 0 -mmin +1440 2> /dev/null)" ] || touch -c -- "$1" 2> /dev/null || true
}

# stage_image IMAGE SHA256 BYTES FOLDER: one copy of a SIF on this node, in FOLDER, for all tasks of all jobs of a user.
# Sets CXR_IMAGE_FILE. Without room, or where FOLDER is not this user's alone, the image is read where it lies; status 1
# if it is damaged. The copy's lock file holds what is known of the copy (see is_image); its time is the last use.
stage_image() {
    local image=$1 sha256=$2 bytes=$3 folder=$4 code copy part lock
    in_place() { echo "image: $1; read where it lies" >&2; hold_image "$image"; }
    # In a folder that is not for this alone, as /tmp is or a home folder, one of this user's.
    [ ! -d "$folder" ] || [[ $(stat -L -c %a -- "$folder") = *700 && ! -k $folder ]] || folder=$folder/cxr-images-$UID
    if ! mkdir -p -m 700 -- "$folder" || [ ! -w "$folder" ]; then
        in_place "$folder cannot be written"
        return 0
    fi
    if ! folder=$(only_mine "$folder") || [ ! -O "$folder" ] || ! chmod 700 -- "$folder"; then
        in_place "$4 is not this user's alone: others can change what lies there"
        return 0
    fi
    copy=$folder/$sha256.sif part=$folder/.$sha256.part lock=$folder/.$sha256.lock
    if [ -L "$lock" ] || ! exec 8<> "$lock"; then
        in_place "$lock cannot be opened"
        return 0
    fi
    until flock -w 10 8; do
        code=$?
        if [ "$code" != 1 ]; then in_place "no locks in $folder"; return 0; fi
        echo "image: another task copies it: $(stat -c %s -- "$part" 2> /dev/null || echo 0) of $bytes bytes" >&2
    done
    if [ -L "$copy" ] || ! only_mine "$copy" > /dev/null || ! is_image "$copy" "$sha256" "$lock"; then
        rm -f -- "$copy" "$part"
        if ! make_room "$bytes" "$folder"; then
            in_place "no room for $bytes bytes in $folder"
            exec 8>&-
            return 0
        fi
        if ! cp --remove-destination -- "$image" "$part"; then
            rm -f -- "$part"
            in_place "it cannot be copied"  # a quota of the user, or others have filled the disk meanwhile
            exec 8>&-
            return 0
        fi
        mv -T -- "$part" "$copy"
        if ! is_image "$copy" "$sha256" "$lock"; then
            rm -f -- "$copy"
            echo "image: $image is not what its name says (sha256): run cxr image verify, then pull it again" >&2
            exec 8>&-
            return 1
        fi
        echo "image: copied to $copy" >&2
    fi
    touch -- "$lock"
    exec 9< "$copy" && flock -s 9
    exec 8>&-
    export CXR_IMAGE_FILE=$copy
}

# Remove the copies that were used longest ago and are not in use, until there is room.
make_room() {
    local need=$(($1 + $1 / 20)) folder=$2 old
    for old in "" $(find "$folder" -maxdepth 1 -type f -name '.*.lock' -printf '%T@ %f\n' | sort -n | cut -d . -f 3); do
        if [ -n "$old" ] && [ -f "$folder/$old.sif" ]; then
            (flock -n 6 && flock -n -x 7 && rm -f -- "$folder/$old.sif") 6<> "$folder/.$old.lock" 7< "$folder/$old.sif"
        fi
        [ "$(df --output=avail -B 1 -- "$folder" | tail -n 1)" -lt "$need" ] || return 0
    done
    return 1
}
