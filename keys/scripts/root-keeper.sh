#!/bin/sh
# What the root keeper does, on a machine that stays offline, in a folder of its own.
#
#   root-keeper.sh make [--passphrase]   makes root.key, and root.pub to send to every site
#   root-keeper.sh sign CONSORTIUM SITE.pub...        signs roster.json, to send to every site and to the server
#
# Before sending roster.json, compare the fingerprints that `sign` prints with each site, by telephone.
# Later rosters: fedkeys roster add, fedkeys roster revoke, fedkeys roster renew.
set -eu

usage() {
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

make_root() {
    fedkeys root init --out root.key "$@"
    fedkeys root public --root root.key >root.pub
}

sign_first() {
    consortium=$1
    shift
    fedkeys roster sign --root root.key --consortium "$consortium" -o roster.json "$@"
    fedkeys roster verify roster.json --root-pub root.pub
}

case "${1:-}:$#" in
make:*) shift; make_root "$@" ;;
sign:0 | sign:1 | sign:2) usage ;;
sign:*) shift; sign_first "$@" ;;
*) usage ;;
esac
