#!/bin/sh
# What a site's administrator does, once.
#
#   site-administrator.sh make NAME [--passphrase]   makes the keys and NAME.pub, to send to the root keeper
#   site-administrator.sh join NAME ROOT.pub ROSTER [FINGERPRINT]   trusts the root, checks the roster it signed
#   CA=ca.pem site-administrator.sh join ...         keeps the server's CA certificate for fedclient too
#
# FINGERPRINT is what the root keeper read out by telephone; without it, `join` shows the file's and asks.
set -eu

usage() {
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

make_keys() {
    name=$1
    fedkeys init "$@"
    fedkeys public "$name" >"$name.pub"
    echo "send $name.pub to the root keeper" >&2
}

join_consortium() {
    name=$1 root=$2 roster=$3 fingerprint=${4:-}
    fedkeys trust "$root" --site "$name" ${fingerprint:+--fingerprint "$fingerprint"} ${CA:+--ca "$CA"}
    fedkeys roster verify "$roster" --site "$name"
}

case "${1:-}:$#" in
make:[2-9]) shift; make_keys "$@" ;;
join:[45]) shift; join_consortium "$@" ;;
*) usage ;;
esac
