#!/usr/bin/env bash
# Starts the blue set with evenkeel in front of it, until Ctrl-C or `evenkeel stop`.
#
#   examples/blue_green/up.sh [path of evenkeel]
#
# Needs gunicorn. It listens on 127.0.0.1, ports 18200 to 18212.
set -euo pipefail
evenkeel=$(realpath "${1:-target/release/evenkeel}")
cd "$(dirname "$0")"
# shellcheck source=sets.sh
. ./sets.sh
mkdir -p run/state
export RUN=$PWD/run EVENKEEL_UPSTREAM=shop

# start or stop, the servers of a colour
all() {
    local server
    for server in $(set_of "$2"); do
        EVENKEEL_SERVER=${server%%=*} EVENKEEL_ADDRESS=${server#*=} ../rolling_deploy/restart.sh "$1"
    done
}

# Whichever serves by then.
trap 'all stop blue; all stop green' EXIT
all start blue
"$evenkeel" run -c evenkeel.toml
