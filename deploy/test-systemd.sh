#!/usr/bin/env bash
# From a bare Debian 12 to a terminal by HTTPS, exactly as docs/operations.md says, under a real systemd: then an
# upgrade while somebody types, and a purge that leaves nothing behind.
#
#   deploy/test-systemd.sh    needs root, systemd-nspawn, mmdebstrap, Debian's mirrors, and what `make build` has built
#
# The machine is a container of systemd-nspawn with all privileges and this machine's network, where it takes free
# ports; it has an engine, gVisor and Caddy of its own. All of it lives in target/systemd, and is gone at the end.
# shellcheck disable=SC2015,SC2016  # what others are to expand; `[[ … ]] && …` as conditions
set -euo pipefail
cd "$(dirname "$0")/.."
((EUID == 0)) || exec sudo --preserve-env=PATH "$0" "$@"

work=$PWD/target/systemd
bare=$work/bare.tar
root=$work/root
console=$work/console.log
client=$PWD/target/release/belljar
machine='' leader='' visitor=''

step() { printf '  %-11s %s\n' "$1" "$2"; }
fail() {
    step FAILED "$1" >&2
    exit 1
}

# Runs a command in the machine, as root, with an environment like that of a login.
inside() { # seconds, command
    timeout --kill-after=10 "$1" nsenter --target "$leader" --mount --uts --ipc --pid --root \
        env -i --chdir=/root HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive site="$site" CURL_CA_BUNDLE="$authority" "${@:2}"
}

within() { # seconds, command: true as soon as the command is
    local deadline=$((SECONDS + $1))
    until "${@:2}"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}
gone() { ! kill -0 "$1" 2>/dev/null; }

clean_up() {
    local code=$?
    trap - EXIT
    if ((code != 0)); then
        [[ ! $leader ]] || inside 20 journalctl --no-pager --lines=40 -u belljar -u caddy 2>/dev/null | sed 's/^/  | /' >&2 || true
        echo "  | the console: $console" >&2
    fi
    [[ ! $visitor ]] || kill "$visitor" 2>/dev/null || true
    if [[ $machine ]]; then
        # systemd powers off; or else PID 1 is ended, and by the kernel everything in the machine with it.
        kill -TERM "$machine" 2>/dev/null || true
        within 30 gone "$machine" || { kill -KILL "$leader" && within 10 gone "$machine" || kill -KILL "$machine"; } 2>/dev/null || true
    fi
    rm -rf --one-file-system "$root"
    exit "$code"
}
trap clean_up EXIT
# A visitor who has left is a failure to be told, not the end of this script.
trap '' PIPE

for command in systemd-nspawn mmdebstrap curl; do
    command -v $command >/dev/null || fail "$command is not installed: apt-get install systemd-container mmdebstrap curl"
done
[[ -x $client ]] || fail "$client is not there: make build"
mkdir -p "$work"
[[ ! -e $root ]] || rm -rf --one-file-system "$root"

# --- a machine --------------------------------------------------------------------------------------

if [[ ! -s $bare ]]; then
    step building "a bare Debian 12"
    timeout --kill-after=10 300 mmdebstrap --quiet --format=tar --variant=minbase --include=systemd-sysv,dbus bookworm "$bare.new" \
        'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main' \
        'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm-updates main' \
        'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security bookworm-security main' \
        >"$work/mmdebstrap.log" 2>&1 || { tail -n 20 "$work/mmdebstrap.log" >&2 && fail "mmdebstrap"; }
    mv "$bare.new" "$bare"
fi
mkdir "$root"
tar -C "$root" -xpf "$bare" --exclude='./dev/*'

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
gateway_port=$(free_port) https_port=$(free_port) http_port=$(free_port) admin_port=$(free_port)
# Caddy makes certificates for `localhost` by itself.
site=localhost:$https_port
authority=/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt

# What is given from outside: the site's name, and ports that are free on this machine.
put() { mkdir -p "$(dirname "$root/$1")" && cat >"$root/$1"; }
put etc/systemd/system/belljar.socket.d/test.conf <<<"[Socket]
ListenStream=
ListenStream=127.0.0.1:$gateway_port"
put etc/systemd/system/caddy.service.d/test.conf <<<"[Service]
Environment=BELLJAR_UPSTREAM=127.0.0.1:$gateway_port BELLJAR_HTTP_PORT=$http_port BELLJAR_CADDY_ADMIN=localhost:$admin_port"
# It is thrown away: nothing of it needs to be on the disk for sure.
put etc/dpkg/dpkg.cfg.d/unsafe-io <<<force-unsafe-io
# Caddy's package would serve its own page on port 80, which may be somebody's here.
put usr/sbin/policy-rc.d <<<'#!/bin/sh
case $1 in caddy*) exit 101 ;; esac'
chmod 755 "$root/usr/sbin/policy-rc.d"
cp "$(deploy/deb.sh)" "$root/root/"
mv "$(deploy/deb.sh 99.0)" "$root/newer.deb"

step booting "systemd in systemd-nspawn"
# A container that may itself hold containers: nothing of /proc is read-only, and no system call is filtered.
SYSTEMD_SECCOMP=0 SYSTEMD_NSPAWN_API_VFS_WRITABLE=1 \
    systemd-nspawn --quiet --directory="$root" --machine=belljar-test --boot --register=no --keep-unit \
    --capability=all --link-journal=no --timezone=off </dev/null >"$console" 2>&1 &
machine=$!
has_leader() { leader=$(pgrep --parent "$machine" --exact systemd); }
within 10 has_leader || fail "nspawn does not start: $(tail -n 5 "$console")"
booted() { [[ $(inside 5 systemctl is-system-running 2>/dev/null) =~ ^(running|degraded)$ ]]; }
within 60 booted || fail "systemd does not come up"
# Where this machine has cgroups of the first version, nspawn lets the machine inside look only; its engine makes some.
inside 10 bash -c 'while read -r _ path type _; do [[ $type != cgroup || $path == */systemd ]] || mount -o remount,bind,rw "$path"; done </proc/mounts'

# --- as documented ----------------------------------------------------------------------------------

step installing "Docker, gVisor, Caddy and Belljar, as docs/operations.md says (a few minutes)"
awk '/deploy\/test-systemd.sh runs this block/ { found = 1 } found && /^```$/ { exit } inside; found && /^```sh$/ { inside = 1 }' \
    docs/operations.md >"$root/root/install.sh"
grep -q 'belljar doctor' "$root/root/install.sh" || fail "docs/operations.md has no such block"
inside 900 bash -euxo pipefail install.sh >"$work/install.log" 2>&1 ||
    { tail -n 30 "$work/install.log" | sed 's/^/  | /' >&2 && fail "the documented sequence; the whole log is $work/install.log"; }
step ok "$(tail -n 1 "$work/install.log")"

# --- what an operator sees --------------------------------------------------------------------------

main_pid() { inside 10 systemctl show --property=MainPID --value belljar.service; }
before=$(main_pid)
[[ $(inside 10 stat -c %U "/proc/$before") == belljar ]] || fail "the gateway does not run as its own user"
step ok "the gateway is process $before of the user belljar"
exposure=$(inside 30 systemd-analyze security --no-pager --threshold=15 belljar.service | tail -n 1) || fail "$exposure"
step ok "$exposure"

# --- what a visitor sees ----------------------------------------------------------------------------

cp "$root$authority" "$work/authority.crt"
get() { curl --silent --show-error --max-time 10 --cacert "$work/authority.crt" "$@"; }
[[ $(get -H 'Accept: text/html' "https://$site/") == *'<belljar-terminal'* ]] || fail "no terminal on the page"
[[ $(get -o /dev/null -w '%{http_code}' "https://$site/metrics") == 404 ]] || fail "/metrics is shown to visitors"
step ok "https://$site/ has a terminal, and hides /metrics"

mkfifo "$work/keys" 2>/dev/null || [[ -p $work/keys ]]
SSL_CERT_FILE=$work/authority.crt timeout 600 "$client" attach "https://$site" <"$work/keys" >"$work/screen" 2>&1 &
visitor=$!
exec 3>"$work/keys"
shown() { grep -qa "$1" "$work/screen"; }
echo 'dmesg | head -n 1; mark=$((40 + 2)); echo "mark is <$mark>"' >&3
within 30 shown 'mark is <42>' || fail "the terminal does not answer: $(tail -n 5 "$work/screen")"
shown 'Starting gVisor' || fail "the terminal is not in gVisor"
step ok "a terminal through Caddy types in gVisor"

# --- an upgrade in mid-session ----------------------------------------------------------------------

inside 120 apt-get install -y /newer.deb >"$work/upgrade.log" 2>&1 || { tail -n 20 "$work/upgrade.log" >&2 && fail "the upgrade"; }
after=$(main_pid)
[[ $after != 0 && $after != "$before" ]] || fail "the upgrade has not restarted the gateway"
[[ $(inside 10 dpkg-query -W -f '${Version}' belljar) == 99.0 ]] || fail "the package is not the newer one"
echo 'echo "after the upgrade <$mark>"' >&3
within 60 shown 'after the upgrade <42>' || fail "the session is lost: $(tail -n 5 "$work/screen")"
step ok "upgraded while it was open (process $before, now $after): the same shell"

# --- the end ----------------------------------------------------------------------------------------

owned=$(inside 10 dpkg -L belljar | grep -E '/[^/]*belljar')
inside 120 apt-get purge -y belljar >"$work/purge.log" 2>&1 || { tail -n 20 "$work/purge.log" >&2 && fail "the purge"; }
within 10 gone "$visitor" || fail "the visitor was not told"
grep -qa 'service is restarting' "$work/screen" || fail "the visitor was not told why: $(tail -n 3 "$work/screen")"
visitor=
left=$(inside 20 docker ps --all --quiet) && [[ ! $left ]] || fail "containers are left: $left"
left=$(inside 10 bash -c 'for p in /proc/[0-9]*; do
    command=$(tr "\0" " " <$p/cmdline) && user=$(stat -c %U $p) || continue
    if [[ $user == belljar || ${command%% *} == *runsc* ]]; then echo "$user: $command"; fi
done' 2>/dev/null)
[[ ! $left ]] || fail "processes are left: $left"
# shellcheck disable=SC2086  # many paths
left=$(inside 10 bash -O nullglob -c 'for path; do [[ ! -e $path ]] || echo "$path"; done' - \
    $owned /etc/belljar /var/lib/belljar /run/belljar /etc/systemd/system/{sockets,multi-user}.target.wants/belljar.{socket,service})
[[ ! $left ]] || fail "files are left: $left"
step ok "purged: no file, process or container is left"
