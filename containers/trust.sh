# Which files can be believed on a node that others use too: the beginning of enter.sh and of stage.sh.

# In a namespace that knows this user alone, the folders above are owned by nobody.
nobody=none
read -ra map < /proc/self/uid_map
[ "${map[*]}" = "0 0 4294967295" ] || nobody=$(cat /proc/sys/kernel/overflowuid)

# The group in which this user is alone, by its name, as some systems give one to each.
own_group=none
[ "$(id -un 2> /dev/null)" != "$(id -gn 2> /dev/null)" ] ||
    ! [[ "$(getent group "$(id -g)")" =~ ^[^:]*:[^:]*:[0-9]*:("$(id -un)")?$ ]] || own_group=$(id -g)

# is_mine OWNER [ABOVE]: ABOVE of a folder above what is meant.
is_mine() { [ "$1" = "$EUID" ] || [ "$1" = 0 ] || { [ -n "${2:-}" ] && [ "$1" = "$nobody" ]; }; }

# links_are_mine PATH: a link on the way leads where its owner likes, and so does one to which it leads.
links_are_mine() {
    local path=$1 to
    [[ $path = /* ]] || path=$PWD/$path
    while [ "$path" ]; do
        if [ -L "$path" ]; then
            is_mine "$(stat -c %u -- "$path")" || return 1
            to=$(readlink -- "$path" && echo .) to=${to%$'\n.'}
            [[ $to = /* ]] || to=${path%/*}/$to
            links_are_mine "$to" || return 1
        fi
        path=${path%/*}
    done
}

# only_mine PATH: prints the path without links if nobody but this user and root can change what lies there, or put
# another thing in its place; else the status is 1. (The same in Python: cxr_core/home.py.)
only_mine() {
    local path whole above= owner group mode loose folders=() i=0
    whole=$(realpath -e -- "$1" 2> /dev/null && echo .) && whole=${whole%$'\n.'} || return 1
    links_are_mine "$1" || return 1
    path=$whole
    while [ "$path" ]; do folders+=("$path") path=${path%/*}; done
    while read -r owner group mode; do
        is_mine "$owner" "$above" || return 1
        # In a folder whose sticky bit is set, nobody renames what is another's.
        loose=0022
        # A list of further users (ACL) shows as a right of the group, and `ls` as a + behind the mode.
        [ "$group" != "$own_group" ] || [[ $(ls -ld -- "${folders[i]:-/}") = ??????????+* ]] || loose=0002
        (((8#$mode & loose) == 0)) || { [ "$above" ] && ((8#$mode & 01000)); } || return 1
        above=yes i=$((i + 1))
    done < <(stat -c '%u %g %a' -- "${folders[@]}" / || echo -1 -1 7777)  # one is gone meanwhile
    printf %s "$whole"
}

# Stays the same as long as nobody writes to the file: the last time is the kernel's, which no user can set.
identity() { stat -L -c '%i %s %.9Y %.9Z' -- "$1" 2> /dev/null; }

# is_image FILE SHA256 RECORD: whether its bytes have this digest. They are read through, unless RECORD, in a folder that
# is only mine, says that they were, and FILE is only mine too.
is_image() {
    local before record=$3
    before=$(identity "$1") && [ -f "$1" ] || return 1
    only_mine "$1" > /dev/null && only_mine "${record%/*}" > /dev/null || record=/dev/null
    [ "$(head -c 200 -- "$record" 2> /dev/null)" != "$2 $before" ] || return 0
    [ "$(sha256sum < "$1" | cut -c -64)" = "$2" ] || return 1
    [ "$(identity "$1")" != "$before" ] || printf '%s %s\n' "$2" "$before" 2> /dev/null > "$record"
    return 0
}
