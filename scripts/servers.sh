#!/usr/bin/env bash
# The servers that the tests use: Mosquitto and PostgreSQL. The NATS server comes with pip.
# Installs what is missing when it may; else says what to install, and the tests that need it skip.
set -euo pipefail

missing=()
PATH="$PATH:/usr/sbin" command -v mosquitto >/dev/null || missing+=(mosquitto)
command -v postgres >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null ||
    missing+=(postgresql)
[ "${#missing[@]}" -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq --no-install-recommends "${missing[@]}" >/dev/null
    exit 0
fi

echo "missing for some tests: ${missing[*]} (sudo apt-get install ${missing[*]})" >&2
[ "${CI:-}" != true ] || exit 1
