#!/usr/bin/env bash
# Installs what is missing to build and run Belljar on Debian or Ubuntu: compiler, Rust, the Docker
# engine and gVisor, and registers gVisor with the engine. Run it as often as you like.
#
#   deploy/setup.sh [--test] [-- command...]
#
#   --test       also what only the tests need: Chromium, Node.js, shellcheck, ...
#   -- command   run this afterwards, with access to the engine even in the login that has just
#                been put into the group `docker`
#
# As root nothing asks for a password; as anyone else only the privileged commands go through sudo.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
log=$root/target/setup.log
daemon_json=/etc/docker/daemon.json
dockerd_log=/var/log/dockerd.log
PATH=$HOME/.cargo/bin:$PATH:/usr/sbin # a user on Debian does not see dockerd without it

# Named outright, because a client's own default may be another engine, in a virtual machine.
export DOCKER_HOST=${DOCKER_HOST:-unix:///var/run/docker.sock}
socket=${DOCKER_HOST#unix://}

# The first gVisor that is fast enough to type in (systrap by default) and knows --host-uds.
min_gvisor=20230801
min_node=20.19 # as in web/package.json

# --- telling and running --------------------------------------------------------------------------

say() { printf '  %-11s %s\n' "$1" "$2"; }
has() { command -v "$1" >/dev/null 2>&1; }

fail() { # what went wrong, what to do next
    printf '\n  FAILED      %s\n' "$1" >&2
    [[ ! -s $log ]] || { echo "  --- the end of $log:" && tail -n 15 "$log" | sed 's/^/  | /'; } >&2
    printf '  What next:  %s\n' "$2" >&2
    exit 1
}

logged() { # a command; its output goes to the log
    printf '\n$ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1
}

as_root() {
    if ((EUID == 0)); then "$@"; return; fi
    has sudo || fail "root is needed for: $*" "run this as root, or install sudo"
    sudo "$@"
}

apt_refresh() {
    has apt-get || fail "this machine has no apt-get" \
        "install by hand: a C compiler, curl, jq, Rust, Docker and gVisor (runsc), then run this again"
    # A third-party source that cannot be reached is no reason to stop: installing will tell.
    logged as_root apt-get update -o DPkg::Lock::Timeout=300 || true
    apt_fresh=yes
}

apt_install() { # packages or options of apt-get install
    [[ -n ${apt_fresh:-} ]] || apt_refresh
    logged as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a \
        apt-get install -qy -o Dpkg::Use-Pty=0 --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
}

apt_candidate() { LC_ALL=C apt-cache policy "$1" | sed -n 's/^  Candidate: \([^(].*\)/\1/p'; }

apt_offers() { # is there a version of this package to install?
    [[ -n ${apt_fresh:-} ]] || apt_refresh
    [[ -n $(apt_candidate "$1") ]]
}

reachable() { curl -fsIL --max-time 5 -o /dev/null "$1" 2>/dev/null; }

# Adds a signed package source. Fails, leaving nothing behind, when it cannot be read.
apt_source() { # name, URL of its key, URI, suite, component
    local key=/etc/apt/keyrings/$1.asc list=/etc/apt/sources.list.d/$1.sources
    logged as_root install -d -m 755 /etc/apt/keyrings
    logged as_root curl -fsSL --max-time 20 -o "$key" "$2" || return 1
    logged as_root chmod 644 "$key"
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nSigned-By: %s\n' "$3" "$4" "$5" "$key" |
        as_root tee "$list" >/dev/null
    logged as_root apt-get update -o DPkg::Lock::Timeout=300 \
        -o Dir::Etc::sourcelist="$list" -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0 \
        -o APT::Update::Error-Mode=any && return
    as_root rm -f "$list" "$key"
    return 1
}

at_least() { [[ $(printf '%s\n' "$1" "$2" | sort -V | head -n1) == "$1" ]]; } # wanted, found

# --- the steps ------------------------------------------------------------------------------------

install_tools() {
    local packages=()
    has cc || packages+=(build-essential)
    has git || packages+=(git)
    has curl || packages+=(curl)
    has jq || packages+=(jq)
    [[ -e /etc/ssl/certs/ca-certificates.crt ]] || packages+=(ca-certificates)
    if ((${#packages[@]})); then
        say installing "${packages[*]}"
        apt_install "${packages[@]}" || fail "the build tools did not install" "apt-get install ${packages[*]}"
    fi
    say ok "build tools"
}

rust_version() { cargo --version 2>/dev/null | cut -d' ' -f2; }

install_rust() {
    local wanted
    wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$root/Cargo.toml" 2>/dev/null | head -n1)
    if ! at_least "${wanted:-1}" "$(rust_version || true)"; then
        say installing "Rust (stable)"
        local advice="install Rust ${wanted:-stable} or newer from https://rustup.rs, then run this again"
        if ! has rustup && apt_offers rustup; then
            apt_install rustup || fail "the package rustup did not install" "$advice"
        fi
        if has rustup; then
            { logged rustup toolchain install stable --profile minimal && logged rustup default stable; } ||
                fail "rustup could not fetch a toolchain" "$advice"
        else
            # --no-modify-path: the Makefile looks into ~/.cargo/bin itself.
            curl -fsSL --proto '=https' --max-time 60 https://sh.rustup.rs 2>>"$log" |
                logged sh -s -- -y --profile minimal --no-modify-path ||
                fail "Rust could not be fetched from https://rustup.rs" "$advice"
        fi
        hash -r
        at_least "${wanted:-1}" "$(rust_version || true)" ||
            fail "cargo on PATH is still $(rust_version || echo missing), not ${wanted:-stable}" "$advice"
    fi
    say ok "Rust $(rust_version)"
}

install_engine() {
    [[ $DOCKER_HOST == unix://* ]] ||
        fail "DOCKER_HOST is $DOCKER_HOST, but gVisor has to be registered with an engine here" "unset DOCKER_HOST"
    [[ ! -e /snap/bin/docker ]] ||
        fail "Docker from a snap is confined and cannot start gVisor" "snap remove docker, then run this again"
    if ! has dockerd; then
        say installing "Docker engine"
        # apparmor: where the kernel has it on, the engine cannot start a container without its parser.
        apt_install docker.io apparmor || fail "docker.io did not install" \
            "install the Docker engine (https://docs.docker.com/engine/install), then run this again"
    fi
    # From Debian 13 on the client is a package of its own.
    has docker || apt_install docker-cli || fail "there is no docker command" "apt-get install docker-cli"
}

gvisor_release() { runsc --version 2>/dev/null | grep -oE '[0-9]{8}' | head -n1; }
gvisor_is_new() { (($(gvisor_release || echo 0) >= min_gvisor)); }

install_gvisor() {
    if ! gvisor_is_new; then
        say installing "gVisor"
        gvisor_from_its_makers || gvisor_from_backports || gvisor_from_distribution ||
            fail "no package source here has gVisor (runsc)" \
                "install runsc as https://gvisor.dev/docs/user_guide/install says, then run this again"
        hash -r
    fi
    say ok "gVisor $(gvisor_release)$(gvisor_is_new || echo ', which is old: typing will be slower')"
}

gvisor_from_its_makers() {
    local releases=https://storage.googleapis.com/gvisor/releases
    reachable $releases/dists/release/Release &&
        apt_source gvisor https://gvisor.dev/archive.key $releases release main &&
        apt_install runsc && gvisor_is_new
}

# Debian 12's own gVisor is from 2022; its backports have one from 2024.
gvisor_from_backports() (
    # shellcheck source=/dev/null
    . /etc/os-release
    [[ ${ID:-} == debian && ${VERSION_CODENAME:-} == bookworm ]] || exit 1
    if [[ $(apt-cache policy) != *bookworm-backports* ]]; then
        as_root tee /etc/apt/sources.list.d/bookworm-backports.sources >/dev/null <<-'END'
			Types: deb
			URIs: http://deb.debian.org/debian
			Suites: bookworm-backports
			Components: main
			Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
		END
        apt_refresh
    fi
    apt_install -t bookworm-backports runsc && gvisor_is_new
)

gvisor_from_distribution() { apt_install runsc; }

# What `runsc` is registered with:
#   --network=none   no sandbox has a network, and on new kernels gVisor refuses to start otherwise
#   --host-uds=open  lets the agent dial out to the one Unix socket that its gateway mounted for it
#   --watchdog-action=panic  a gVisor that has locked itself up ends after three minutes, and does
#                    not stay for ever as a container that the engine cannot remove
# gVisor's default platform, systrap, stays: through the whole gateway a key's echo takes half as
# long again on ptrace.
runtime_args() {
    if gvisor_is_new; then
        echo '["--network=none", "--host-uds=open", "--watchdog-action=panic"]'
    else
        echo '["--network=none", "--fsgofer-host-uds", "--watchdog-action=panic"]'
    fi
}

# Adds our runtime to daemon.json, and that sandboxes outlive the engine's own restart (a swarm does not
# have that). Leaves every other key, other arguments of the runtime and the owner's own word alone.
configure_engine() {
    local old='{}' live=true new
    if [[ -s $daemon_json ]]; then
        old=$(as_root cat "$daemon_json")
        jq -e 'type == "object"' <<<"$old" >/dev/null 2>&1 ||
            fail "$daemon_json is not a JSON object" "mend or remove that file, then run this again"
    fi
    ! as_root test -e /var/lib/docker/swarm/docker-state.json || live=false
    new=$(jq --arg path "$(command -v runsc)" --argjson args "$(runtime_args)" --argjson live $live \
        '.runtimes.runsc |= (.path = $path | .runtimeArgs = (.runtimeArgs // []) + ($args - (.runtimeArgs // [])))
            | if $live and (has("live-restore") | not) then ."live-restore" = true else . end' <<<"$old")
    [[ $(jq -S . <<<"$new") != "$(jq -S . <<<"$old")" ]] || return 0
    say registering "runsc in $daemon_json"
    as_root install -d -m 755 /etc/docker
    as_root tee "$daemon_json" <<<"$new" >/dev/null
}

# The engine's client, through sudo while this login may not use the socket yet, and with a deadline,
# because an engine in trouble may take a request and never answer it.
engine() {
    if [[ -w $socket ]]; then timeout 20 docker "$@"; else as_root timeout 20 docker --host "$DOCKER_HOST" "$@"; fi
}

engine_answers() { [[ -S $socket ]] && engine version >/dev/null 2>&1; }

# Whether it has taken up what daemon.json says.
engine_is_configured() {
    local live
    live=$(as_root jq '."live-restore" // false' "$daemon_json")
    engine info --format '{{json .}}' 2>/dev/null |
        jq -e --argjson args "$(runtime_args)" --argjson live "$live" \
            '$args - (.Runtimes.runsc.runtimeArgs // []) == [] and .LiveRestoreEnabled == $live' >/dev/null 2>&1
}

within() { # seconds, command: true as soon as the command is
    local deadline=$((SECONDS + $1))
    until "${@:2}"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}

has_systemd() { [[ -d /run/systemd/system ]]; }

start_engine() {
    if ! engine_answers; then
        say starting "Docker engine"
        if has_systemd; then
            logged as_root systemctl enable --now docker || true
        else
            # No sandbox has a network, so the engine needs no bridge and no firewall rules, which
            # a machine without systemd (a container, a small VM) often cannot give it.
            as_root env log="$dockerd_log" sh <<-'END'
				# A pid that now is somebody else's would keep the engine from starting.
				pid=$(cat /var/run/docker.pid 2>/dev/null) &&
				    ! grep -qx dockerd "/proc/$pid/comm" && rm -f /var/run/docker.pid
				setsid nohup dockerd --iptables=false --bridge=none >"$log" 2>&1 </dev/null &
			END
        fi
        within 60 engine_answers || engine_failed "the Docker engine does not start"
    fi
    if ! engine_is_configured; then
        say reloading "Docker engine"
        # Not `systemctl reload`: the unit's needs /bin/kill, which a minimal system does not have.
        as_root sh -c "kill -HUP $(</var/run/docker.pid)"
        within 15 engine_is_configured || engine_failed "the Docker engine does not take up $daemon_json"
    fi
    say ok "Docker engine $(engine version --format '{{.Server.Version}}'), runtime runsc"
}

engine_failed() {
    if has_systemd; then
        logged as_root journalctl -u docker -n 30 --no-pager || true
    else
        logged as_root tail -n 30 "$dockerd_log" || true
    fi
    fail "$1" "read the lines above; the engine's settings are in $daemon_json"
}

# The image's base comes from a registry; without one, mmdebstrap makes it (see docker/build.sh).
install_base_maker() {
    has mmdebstrap || engine image inspect belljar-sandbox >/dev/null 2>&1 || registry_reachable || {
        say installing "mmdebstrap (no image registry can be reached)"
        apt_install mmdebstrap debian-archive-keyring || fail "neither an image registry nor mmdebstrap is to be had" "apt-get install mmdebstrap"
    }
}

# Any answer will do: without credentials it is a 401.
registry_reachable() { curl -s --max-time 5 -o /dev/null https://registry-1.docker.io/v2/; }

allow_user() {
    [[ ! -w $socket ]] || return 0
    local user
    user=$(id -un)
    if [[ " $(id -nG "$user") " != *" docker "* ]]; then
        as_root usermod -aG docker "$user"
        say note "$user is now in the group docker, which amounts to root on this machine"
    fi
    has sg || fail "this login is not in the group docker yet" "log in anew, then run this again"
    say note "log in anew before you use docker by hand; make need not wait for that"
}

install_test_tools() {
    local packages=() command
    for command in python3 shellcheck redis-server; do has "$command" || packages+=("$command"); done
    # Debian's own Python comes without it.
    python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
    if ((${#packages[@]})); then
        say installing "${packages[*]}"
        apt_install "${packages[@]}" || fail "the test tools did not install" "apt-get install ${packages[*]}"
    fi

    # Clocks that jump, for the test of random faults.
    if [[ -z $(compgen -G '/usr/lib/*/faketime/libfaketime.so.1') ]]; then
        say installing "libfaketime"
        apt_install libfaketime || fail "the test tools did not install" "apt-get install libfaketime"
    fi
    # The machine of deploy/test-systemd.sh.
    if ! has systemd-nspawn || ! has mmdebstrap; then
        say installing "systemd-container and mmdebstrap"
        apt_install systemd-container mmdebstrap debian-archive-keyring ||
            fail "the test tools did not install" "apt-get install systemd-container mmdebstrap"
    fi
    # Its package starts it on ports 80 and 443 under systemd, which is not for tests to decide.
    if ! has caddy && ! has_systemd && apt_offers caddy; then
        say installing "Caddy"
        apt_install caddy || fail "Caddy did not install" "apt-get install caddy"
    fi

    if ! cargo clippy --version >/dev/null 2>&1 || ! cargo fmt --version >/dev/null 2>&1; then
        say installing "clippy and rustfmt"
        if has rustup; then logged rustup component add clippy rustfmt; else apt_install rust-clippy rustfmt; fi ||
            fail "clippy and rustfmt did not install" "rustup component add clippy rustfmt"
    fi

    if ! node_is_new; then
        say installing "Node.js"
        node_from_its_packagers || node_from_distribution ||
            fail "no package source here has Node.js $min_node or newer" \
                "install it from https://nodejs.org with npm, then run this again"
    fi
    say ok "Node.js $(node --version)"

    if ! chromium_name >/dev/null; then
        say installing "Chromium"
        install_chromium || fail "Chromium did not install" "install chromium or google-chrome-stable, then run this again"
    fi
    say ok "Chromium ($(chromium_name))"
}

node_is_new() {
    has npm && has node && at_least $min_node "$(node --version | tr -d v)"
}

node_from_its_packagers() {
    local nodesource=https://deb.nodesource.com
    reachable $nodesource/node_22.x/dists/nodistro/Release &&
        apt_source nodesource $nodesource/gpgkey/nodesource-repo.gpg.key $nodesource/node_22.x nodistro main &&
        apt_install nodejs && hash -r && node_is_new
}

node_from_distribution() {
    at_least $min_node "$(apt_candidate nodejs)" &&
        apt_install nodejs npm && hash -r && node_is_new
}

chromium_name() { command -v chromium || command -v google-chrome-stable || command -v chromium-browser; }

# Ubuntu's chromium is a snap, which does not run everywhere; Chrome's own package does.
install_chromium() {
    if apt_offers chromium; then
        apt_install chromium fonts-dejavu-core
    else
        local deb=$root/target/chrome.deb
        logged curl -fsSL --max-time 300 -o "$deb" https://dl.google.com/linux/direct/google-chrome-stable_current_amd64.deb &&
            apt_install "$deb" && rm "$deb"
    fi
}

# --- in this order --------------------------------------------------------------------------------

for_tests=
while (($#)); do
    case $1 in
    --test) for_tests=yes ;;
    --) shift && break ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    esac
    shift
done

mkdir -p "$root/target"
: >"$log"
echo "Belljar: setting up this machine"
install_tools
install_rust
install_engine
install_gvisor
configure_engine
start_engine
install_base_maker
allow_user
[[ -z $for_tests ]] || install_test_tools

(($#)) || exit 0
[[ -w $socket ]] || exec sg docker -c "$(printf '%q ' "$@")"
exec "$@"
