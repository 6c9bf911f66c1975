#!/bin/sh
# Installs the servers that the tests start: PostgreSQL, Redis, git. Does nothing where they are there.
set -eu

missing=""
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql postgresql-contrib"
command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
command -v git >/dev/null 2>&1 || missing="$missing git"
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "the tests need:$missing; install them with your package manager" >&2
    exit 1
fi
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
echo "installing:$missing" >&2
# The tests start private servers; the packages' own need not run.
$sudo mkdir -p /etc/postgresql-common/createcluster.d
printf 'create_main_cluster = false\n' | $sudo tee /etc/postgresql-common/createcluster.d/plumb-tests.conf >/dev/null
$sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
