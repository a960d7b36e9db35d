#!/bin/sh
# What the server's administrator does, once.
#
#   server-administrator.sh FOLDER ROSTER ROOT.pub HOST...   makes the signing key and TLS, checks the roster
#
# HOST is each name or address that sites connect to. Send FOLDER/tls/ca.pem to every site.
set -eu

if [ $# -lt 4 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi

folder=$1 roster=$2 root=$3
shift 3

fedkeys roster verify "$roster" --root-pub "$root"
fedkeys server init --out "$folder"
for host in "$@"; do
    shift
    set -- "$@" --host "$host"
done
fedkeys tls "$@" --out "$folder/tls"
