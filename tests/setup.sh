#!/bin/sh
# Installs what is missing of what `make demo`, `make lint` or `make test` stand on. Does nothing where all is there.
# usage: tests/setup.sh demo|lint|test
set -eu

wanted="${1:-test}"

if ! command -v cargo >/dev/null 2>&1; then
    echo "Rust is missing; https://rustup.rs says how to install it" >&2
    exit 1
fi

missing=""
command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
command -v git >/dev/null 2>&1 || missing="$missing git"
if [ "$wanted" = test ]; then
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || [ -n "${PLUMB_TEST_POSTGRES_BIN:-}" ] ||
        missing="$missing postgresql postgresql-contrib"
    command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
    # One of them speaks https, with a certificate made for it.
    command -v openssl >/dev/null 2>&1 || missing="$missing openssl"
    # One speaks ssh.
    [ -x /usr/sbin/sshd ] || missing="$missing openssh-server"
    # What the program shows on a terminal is seen on one.
    command -v script >/dev/null 2>&1 || missing="$missing bsdutils"
    # The tests run servers as other users and send them signals.
    command -v setpriv >/dev/null 2>&1 || missing="$missing util-linux"
    [ -x /bin/kill ] || [ -x /usr/bin/kill ] || missing="$missing procps"
fi
if [ "$wanted" = lint ]; then
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        rustup component add rustfmt clippy
    fi
fi
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "make $wanted needs:$missing (as Debian names them); install them with your package manager" >&2
    exit 1
fi
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
echo "installing:$missing" >&2
case "$missing" in
*postgresql*)
    # The tests start private servers; the package need not make one of its own.
    $sudo mkdir -p /etc/postgresql-common/createcluster.d
    printf 'create_main_cluster = false\n' |
        $sudo tee /etc/postgresql-common/createcluster.d/plumb-tests.conf >/dev/null
    ;;
esac
case "$missing" in
*openssh-server*)
    # The tests start one of their own; the package's must let nobody into this machine. Who wants it unmasks it.
    for unit in ssh.service ssh.socket; do
        [ -e /etc/systemd/system/$unit ] || $sudo ln -s /dev/null /etc/systemd/system/$unit
    done
    ;;
esac
$sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
