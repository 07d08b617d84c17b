#!/usr/bin/env bash
# Starts one set beside the other, and swaps them at once when all of it is healthy. The other is drained, and
# stopped when nobody is left on it.
#
#   echo 2 >run/version && ./switch.sh green     # the new release
#   ./switch.sh blue                             # and back
#
# More arguments go to `evenkeel deploy`. EVENKEEL is the binary, by default the one in PATH.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=sets.sh
. ./sets.sh

[ $# -gt 0 ] || { sed -n '2,/^set/{/^#/p}' "$0" >&2; exit 2; }
servers=$(set_of "$1")
shift
new=()
for server in $servers; do new+=(--replace "$server"); done

# The same hook as for a rolling deploy: what it keeps is here.
export RUN=$PWD/run
hook=$(cd ../rolling_deploy && pwd)/restart.sh
exec "${EVENKEEL:-evenkeel}" deploy shop "${new[@]}" --exec "$hook" --after "'$hook' stop" "$@"
