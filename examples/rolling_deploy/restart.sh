#!/usr/bin/env bash
# The hook: ends one server as its service manager would, and starts it again in the version of the day.
#
#   evenkeel deploy shop --exec ./restart.sh
#
# It is told which one in EVENKEEL_UPSTREAM, EVENKEEL_SERVER and EVENKEEL_ADDRESS. With systemd all of this is
# `systemctl restart shop@a` (see systemd/). Pid files and logs are in RUN, by default ./run.
#
#   restart.sh start   starts it, where it does not run
#   restart.sh stop    ends it, and starts nothing
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
run=${RUN:-$here/run}
mkdir -p "$run"
run=$(cd "$run" && pwd)
server=$EVENKEEL_UPSTREAM-$EVENKEEL_SERVER
pid_file=$run/$server.pid

# A process whose parent has not asked for its end yet is over as well.
is_running() { [ -e "/proc/$1" ] && ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null; }

# TERM lets what runs end: evenkeel has drained it, so there is nothing, and this takes a moment.
stop() {
    [ -f "$pid_file" ] || return 0
    local pid
    pid=$(cat "$pid_file")
    kill -TERM "$pid" 2>/dev/null || true
    for _ in $(seq 300); do
        is_running "$pid" || break
        sleep 0.1
    done
    if is_running "$pid"; then
        echo "$server does not end by itself: killed" >&2
        kill -KILL "$pid"
    fi
    rm -f "$pid_file"
}

start() {
    # Where yours come from a new release, this is where it is unpacked.
    VERSION=$(cat "$run/version" 2>/dev/null || echo 1)
    export VERSION SHOP_ORDERS="$run/orders"
    local command
    case $EVENKEEL_UPSTREAM in
        shop)
            command=(gunicorn --chdir "$here/wsgi" --config "$here/wsgi/gunicorn.conf.py"
                --bind "$EVENKEEL_ADDRESS" app:application)
            ;;
        board) command=(node "$here/node/app.js") ;;
        *)
            echo "there is no app for upstream $EVENKEEL_UPSTREAM" >&2
            exit 1
            ;;
    esac
    # In a session of its own: it outlives the terminal and the deploy.
    setsid "${command[@]}" </dev/null >>"$run/$server.log" 2>&1 &
    echo $! >"$pid_file"
}

case ${1:-restart} in
    start) start ;;
    stop) stop ;;
    restart) stop && start ;;
    *)
        echo "usage: restart.sh [start|stop]" >&2
        exit 2
        ;;
esac
