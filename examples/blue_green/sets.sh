# shellcheck shell=bash
# The two sets, for the scripts beside this one: names and addresses of a colour's servers.
set_of() {
    case $1 in
        blue) echo "blue-a=127.0.0.1:18201 blue-b=127.0.0.1:18202" ;;
        green) echo "green-a=127.0.0.1:18211 green-b=127.0.0.1:18212" ;;
        *)
            echo "there is no set \`$1\`: write blue or green" >&2
            return 2
            ;;
    esac
}
