#!/usr/bin/env bash
# A rolling restart that nobody notices, with real processes: three toy servers behind evenkeel,
# clients that ask all the time, and the loop in the middle that restarts one server after the other.
#
#   examples/rolling_restart.sh [path of evenkeel]
#
# Needs curl. It listens on 127.0.0.1, ports 18080 and 19001 to 19003, and ends by itself: with 0 when
# every request was answered with 200.
set -euo pipefail

evenkeel=$(realpath "${1:-target/release/evenkeel}")
dir=$(mktemp -d)
cd "$dir"
declare -A pid=() port=([a]=19001 [b]=19002 [c]=19003)
clients=()
proxy=
clean_up() {
    touch stop
    kill "${pid[@]}" $proxy 2>/dev/null || true
    wait
    rm -rf "$dir"
}
trap clean_up EXIT

start_server() {
    "$evenkeel" --quiet origin --listen "127.0.0.1:${port[$1]}" --name "$1" &
    pid[$1]=$!
    until curl -fs -o /dev/null "http://127.0.0.1:${port[$1]}/healthz"; do sleep 0.1; done
}
# Where yours are services, this is `systemctl restart "shop@$1"`.
restart_server() {
    kill "${pid[$1]}"
    wait "${pid[$1]}" || true
    start_server "$1"
}

for s in a b c; do start_server "$s"; done
cat >evenkeel.toml <<'TOML'
[admin]
socket = "admin.sock"

[[listener]]
bind = "127.0.0.1:18080"

[upstream.shop]
check = { http = { path = "/healthz", interval = "1s", timeout = "1s" } }

[[upstream.shop.server]]
name = "a"
address = "127.0.0.1:19001"

[[upstream.shop.server]]
name = "b"
address = "127.0.0.1:19002"

[[upstream.shop.server]]
name = "c"
address = "127.0.0.1:19003"
TOML
"$evenkeel" --quiet run -c evenkeel.toml &
proxy=$!
export EVENKEEL_ADMIN="$dir/admin.sock"
until "$evenkeel" healthcheck >/dev/null 2>&1; do sleep 0.1; done

# Eight clients. Half of their requests take a while, so that there is always something in flight.
ask() {
    while [ ! -e stop ]; do
        curl -s -w '%{http_code}\n' -o /dev/null http://127.0.0.1:18080/ \
            -o /dev/null 'http://127.0.0.1:18080/slow?ms=200' || true
    done
}
for i in 1 2 3 4 5 6 7 8; do
    ask >"answers.$i" &
    clients+=($!)
done
until [ "$(cat answers.* | wc -l)" -gt 50 ]; do sleep 0.1; done

# The restart itself.
for s in a b c; do
    "$evenkeel" drain "shop/$s" --wait --timeout 10m &&
        restart_server "$s" &&
        "$evenkeel" ready "shop/$s" || exit 1
done

touch stop
wait "${clients[@]}"
"$evenkeel" status
total=$(cat answers.* | wc -l)
failed=$(cat answers.* | grep -vc '^200$' || true)
echo "$total requests while three servers were restarted, $failed failed"
[ "$total" -gt 0 ] && [ "$failed" -eq 0 ]
