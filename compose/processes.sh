# Processes that outlive the script that started them. To be sourced, with `dir` set to the directory of one server or one
# process of Gantry. DIR/pids holds "pid starttime" per line, the main process last, so that a recycled pid is never taken
# for ours; DIR/pid holds the main process's pid alone, for people; DIR/log is what they print.
# shellcheck shell=bash disable=SC2154

# Prints when process $1 started (in ticks since boot); fails if it is gone or a zombie.
start_ticks() {
    local stat
    { read -r -d '' stat < "/proc/$1/stat" || [[ -n ${stat:-} ]]; } 2> /dev/null || return 1
    local -a field
    read -r -a field <<< "${stat##*) }"
    [[ ${field[0]} != Z ]] && echo "${field[19]}"
}

# Is $1 the pid of the process that started at $2?
is_alive() { [[ $(start_ticks "$1") == "$2" ]]; }

# Prints "pid starttime" of ours that are alive: those in DIR/pids, main process first, and all their descendants.
family() {
    [[ -f $dir/pids ]] || return 0
    local pid ticks roots=()
    while read -r pid ticks; do
        if is_alive "$pid" "$ticks"; then roots=("$pid" "${roots[@]}"); fi
    done < "$dir/pids"
    (( ${#roots[@]} )) || return 0
    ps -e -o pid=,ppid= | awk -v roots="${roots[*]}" '
        { parent[$1] = $2 }
        END {
            n = split(roots, order, " ")
            for (i = 1; i <= n; i++) seen[order[i]] = 1
            for (i = 1; i <= n; i++) {
                print order[i]
                for (p in parent) if (parent[p] == order[i] && !seen[p]) { order[++n] = p; seen[p] = 1 }
            }
        }' | while read -r pid; do
        if ticks=$(start_ticks "$pid"); then echo "$pid $ticks"; fi
    done
}

main_pid() { tail -n 1 "$dir/pids" 2> /dev/null | cut -d' ' -f1; }

main_is_alive() {
    local pid ticks
    [[ -s $dir/pids ]] && read -r pid ticks < <(tail -n 1 "$dir/pids") && is_alive "$pid" "$ticks"
}

main_is_gone() { ! main_is_alive; }

# Sends signal $1 to all of ours.
signal_family() {
    local pid ticks
    while read -r pid ticks; do kill -"$1" "$pid" 2> /dev/null || true; done < <(family)
}

# Starts "$@" in DIR as a session of its own, its output appended to DIR/log, and writes it down.
spawn() {
    (cd "$dir" && exec setsid "$@" >> "$dir/log" 2>&1 < /dev/null 9>&-) &
    local pid=$! ticks
    disown "$pid"
    ticks=$(start_ticks "$pid") || ticks=gone
    echo "$pid $ticks" >> "$dir/pids"
    echo "$pid" > "$dir/pid"
}

# Runs "$@" every 0.1 s until it succeeds; fails after $1 seconds.
within() {
    local deadline=$(( SECONDS + $1 ))
    shift
    until "$@"; do
        (( SECONDS < deadline )) || return 1
        sleep 0.1
    done
}

# Asks the main process to end with signal $1, kills after $2 seconds what has not, and returns when all are gone.
stop_family() {
    local members
    members=$(family)
    # A stopped process cannot act on a request to end.
    signal_family CONT
    if main_is_alive; then
        kill -"$1" "$(main_pid)" 2> /dev/null || true
        within "$2" main_is_gone || echo "$dir: did not end within $2 s of SIG$1, killing it" >&2
    fi
    kill_family "$members"
}

# SIGKILL to all of ours, and to those in $1 ("pid starttime" lines), which were ours before their parent ended.
kill_family() {
    local members pid ticks
    members=$(printf '%s\n' "${1:-}" "$(family)" | sort -u)
    while read -r pid ticks; do
        if [[ $pid ]] && is_alive "$pid" "$ticks"; then kill -KILL "$pid" 2> /dev/null || true; fi
    done <<< "$members"
    while read -r pid ticks; do
        [[ -z $pid ]] || within 10 is_gone "$pid" "$ticks" || { echo "$dir: process $pid survives SIGKILL" >&2; return 1; }
    done <<< "$members"
    rm -f "$dir/pids" "$dir/pid"
}

is_gone() { ! is_alive "$1" "$2"; }

# Prints running, paused or stopped; succeeds only if running.
print_status() {
    if ! main_is_alive; then echo stopped; return 1; fi
    if grep -q '^State:.*T' "/proc/$(main_pid)/status"; then echo paused; return 1; fi
    echo running
}

# Prints $1 TCP ports that the kernel found free on loopback.
free_ports() {
    python3 -c '
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))' "$1"
}
