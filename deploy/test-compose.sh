#!/usr/bin/env bash
# Starts deploy/compose/compose.yaml for real, on loopback: the page by HTTPS through Caddy, a shell in gVisor, an
# upgrade in mid-session; then takes everything down.
#
#   deploy/test-compose.sh [DIRECTORY]    where belljar and belljar-agent are, as target/release (default)
#
# Needs root, this machine's engine with gVisor, the sandbox image, and `docker compose` or `docker-compose`. What is
# otherwise than documented, because no image registry is needed: Debian's base is that of docker/build.sh, Caddy is
# this machine's own in such an image; ports and directories are free ones; the log is the engine's own.
# shellcheck disable=SC2015,SC2016  # conditions as `… && …`; what the shell inside is to expand
set -euo pipefail
cd "$(dirname "$0")/.."
((EUID == 0)) || exec sudo --preserve-env=PATH "$0" "$@"

binaries=$(realpath "${1:-target/release}")
agent=$binaries/belljar-agent
[[ -e $agent ]] || agent=target/belljar-agent
project=belljar-compose-test
work=$(mktemp -d /run/belljar-compose-XXXXXX)
visitor='' made=()

step() { printf '  %-11s %s\n' "$1" "$2"; }
fail() {
    step FAILED "$1" >&2
    exit 1
}
within() { # seconds, command: true as soon as the command is
    local deadline=$((SECONDS + $1))
    until "${@:2}"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi
compose+=(--project-name "$project" --file "$work/deploy/compose/compose.yaml" --file "$work/deploy/compose/here.yaml")

end() {
    local code=$?
    trap - EXIT
    [[ -z $visitor ]] || kill "$visitor" 2>/dev/null || true
    ((code == 0)) || "${compose[@]}" logs --no-color --tail=30 2>/dev/null || true
    # SIGTERM leaves sandboxes to a next gateway, and there is none.
    "${compose[@]}" kill -s SIGINT gateway >/dev/null 2>&1 || true
    sleep 2
    "${compose[@]}" down --volumes --rmi local >/dev/null 2>&1 || true
    docker image rm "$project-caddy" >/dev/null 2>&1 || true
    # Directories that the engine has made for mounts.
    ((${#made[@]} == 0)) || rmdir --ignore-fail-on-non-empty "${made[@]}" 2>/dev/null || true
    rm -rf "$work"
    exit "$code"
}
trap end EXIT

gateway=$(free_port) https=$(free_port) http=$(free_port) admin=$(free_port)
for directory in /run/belljar /usr/lib/belljar /etc/belljar; do [[ -e $directory ]] || made+=("$directory"); done
base=debian:bookworm-slim
docker image inspect $base >/dev/null 2>&1 || base=belljar-base:bookworm

# The same tree, so that its relative paths lead to the same files.
mkdir -p "$work"/{deploy/compose,caddy,run}
cp Caddyfile "$work/"
cp deploy/compose/{Dockerfile,compose.yaml} "$binaries/belljar" "$work/deploy/compose/"
cp "$agent" "$work/belljar-agent"
cp "$(command -v caddy)" "$work/caddy/caddy"
printf 'FROM %s\nCOPY caddy /usr/bin/caddy\nENV XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config\nCMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]\n' \
    $base >"$work/caddy/Dockerfile"
docker build -t "$project-caddy" "$work/caddy" >"$work/up.log" 2>&1 || { cat "$work/up.log"; fail 'no image of Caddy'; }

cat >"$work/deploy/compose/here.yaml" <<END
services:
  gateway:
    build: { context: ., args: { BASE: "$base" } }
    # The second, because a debug build reads its pages from where it was built.
    volumes: ["$work:$work", "$PWD/web/dist:$PWD/web/dist:ro"]
    environment:
      BELLJAR_AGENT: $work/belljar-agent
      BELLJAR_RUN_DIR: $work/run
      BELLJAR_LISTEN: 127.0.0.1:$gateway
      BELLJAR_DOCKER__NAMESPACE: compose-test
    logging: { driver: json-file, options: {} }
  caddy:
    image: $project-caddy
    environment:
      BELLJAR_UPSTREAM: 127.0.0.1:$gateway
      BELLJAR_HTTP_PORT: $http
      BELLJAR_CADDY_ADMIN: localhost:$admin
    logging: { driver: json-file, options: {} }
END
export BELLJAR_SITE=localhost:$https

"${compose[@]}" up --detach --build >"$work/up.log" 2>&1 || { cat "$work/up.log"; fail 'compose did not start it'; }
step ok 'gateway and Caddy are up'
# Caddy's own authority, out of its volume.
authority=$work/root.crt
get_authority() { "${compose[@]}" exec -T caddy cat /data/caddy/pki/authorities/local/root.crt >"$authority" 2>/dev/null; }
within 30 get_authority || fail 'Caddy has no authority'
page() { curl --silent --fail --cacert "$authority" "https://localhost:$https$1" "${@:2}"; }
within 60 page /health >/dev/null || fail 'no answer by HTTPS'
page / --header 'Accept: text/html' | grep -q '<belljar-terminal' || fail 'the page is not there'
page /docs >/dev/null && page /api/openapi.json >/dev/null || fail 'the API is not described'
page /status | grep -q '"sealed":true' || fail 'it is not sealed'
step ok "the page by HTTPS, $(page /health)"

# A shell, and the same one after the gateway was replaced.
mkfifo "$work/keys"
"$binaries/belljar" attach "http://127.0.0.1:$gateway" <"$work/keys" >"$work/screen" 2>&1 &
visitor=$!
exec 3>"$work/keys"
echo 'dmesg | head -n 1; mark=kept; echo ready=$((40 + 2))' >&3
within 60 grep -q 'ready=42' "$work/screen" || { cat "$work/screen"; fail 'no shell'; }
grep -q 'Starting gVisor' "$work/screen" || fail 'the shell is not in gVisor'
step ok 'a shell in gVisor'
"${compose[@]}" up --detach --build --force-recreate --no-deps gateway >>"$work/up.log" 2>&1 || { cat "$work/up.log"; fail 'no upgrade'; }
echo 'echo after=$mark; exit 7' >&3
exec 3>&-
code=0
wait "$visitor" || code=$?
visitor=''
grep -q 'after=kept' "$work/screen" && ((code == 7)) || { cat "$work/screen"; fail "another shell, or none (exit $code)"; }
step ok 'the gateway replaced in mid-session, the same shell'
