#!/usr/bin/env bash
# Registers a second gVisor runtime with the engine, for the tests: `runsc-nouds`, without
# --host-uds, so that a sandbox cannot dial its gateway's socket and the link must take the other
# way, through the engine's attach. Run it as often as you like; deploy/setup.sh comes first.
set -euo pipefail

daemon_json=/etc/docker/daemon.json
runtime=runsc-nouds

say() { printf '  %-11s %s\n' "$1" "$2"; }
as_root() { if ((EUID == 0)); then "$@"; else sudo "$@"; fi; }
known() { [[ $(timeout 20 docker info --format "{{index .Runtimes \"$runtime\"}}" 2>/dev/null) == *runsc* ]]; }

if ! known; then
    old='{}'
    [[ ! -s $daemon_json ]] || old=$(as_root cat "$daemon_json")
    new=$(jq --arg path "$(command -v runsc)" --arg name $runtime \
        '.runtimes[$name] = {path: $path, runtimeArgs: ["--network=none", "--watchdog-action=panic"]}' <<<"$old")
    say registering "$runtime in $daemon_json"
    as_root tee "$daemon_json" <<<"$new" >/dev/null
    # Not `systemctl reload`: the unit's needs /bin/kill, which a minimal system does not have.
    as_root sh -c "kill -HUP $(</var/run/docker.pid)"
    for _ in {1..75}; do
        ! known || break
        sleep 0.2
    done
    known || { say FAILED "the engine does not take up the runtime $runtime; see $daemon_json" >&2 && exit 1; }
fi
say ok "runtime $runtime, for the tests"
