#!/usr/bin/env bash
# Starts two servers of each app, with evenkeel in front of them, until Ctrl-C or `evenkeel stop`.
#
#   examples/rolling_deploy/up.sh [path of evenkeel]
#
# Needs gunicorn and node. It listens on 127.0.0.1, ports 18100 to 18112.
set -euo pipefail
evenkeel=$(realpath "${1:-target/release/evenkeel}")
cd "$(dirname "$0")"
mkdir -p run/state

servers=(
    "shop a 127.0.0.1:18101"
    "shop b 127.0.0.1:18102"
    "board a 127.0.0.1:18111"
    "board b 127.0.0.1:18112"
)
# start or stop, all of them
all() {
    local upstream name address
    for server in "${servers[@]}"; do
        read -r upstream name address <<<"$server"
        EVENKEEL_UPSTREAM=$upstream EVENKEEL_SERVER=$name EVENKEEL_ADDRESS=$address ./restart.sh "$1"
    done
}

trap 'all stop' EXIT
all start
"$evenkeel" run -c evenkeel.toml
