#!/usr/bin/env bash
# Builds belljar:latest and belljar-agent:latest of what `make build` has built: make kubernetes-images. With the sandbox
# image (docker/build.sh), these are what a registry has to have: docs/kubernetes.md.
#
# The gateway's base is debian:bookworm-slim or, where no registry can be reached, what docker/build.sh has made.
set -euo pipefail
cd "$(dirname "$0")/../.."

base=debian:bookworm-slim
docker image inspect $base >/dev/null 2>&1 || timeout 300 docker pull --quiet $base >/dev/null 2>&1 || base=belljar-base:bookworm

build() { # image, Dockerfile, the program that goes into it
    # A context of two files: target/ is large.
    local output
    output=$(tar -c --transform 's,.*/,,' "$2" "$3" |
        timeout 300 docker build --build-arg BASE=$base --file "$(basename "$2")" --tag "$1" - 2>&1) || { echo "$output" >&2 && return 1; }
    printf '  %-11s %s\n' ok "image $1"
}
build belljar-agent:latest docker/agent.Dockerfile target/belljar-agent
build belljar:latest deploy/kubernetes/Dockerfile target/release/belljar
