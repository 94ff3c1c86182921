#!/usr/bin/env bash
# Builds ttyd, the peer of `make bench`, into target/ttyd, from the source that Debian keeps. Needs
# cmake and the libraries below; a ttyd that is installed already is used as it is.
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.7.7
sum=48eba3f76af237f4c09cceb5ddbe0f845832557819f7e5c60c88285f8822af88
packages=(cmake pkg-config libwebsockets-dev libwebsockets-evlib-uv libuv1-dev libjson-c-dev zlib1g-dev)

[[ ! -x target/ttyd ]] || exit 0
! command -v ttyd >/dev/null || exec ln -sf "$(command -v ttyd)" target/ttyd

# Either says what to do, and the bench goes on without its peer.
dpkg -s "${packages[@]}" >/dev/null 2>&1 || {
    echo "ttyd is not built: apt-get install ${packages[*]}"
    exit 0
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
curl -fsSL --max-time 60 -o "$work/ttyd.tar.xz" \
    "http://deb.debian.org/debian/pool/main/t/ttyd/ttyd_$version.orig.tar.xz" || {
    echo 'ttyd is not built: its source cannot be reached'
    exit 0
}
echo "$sum  $work/ttyd.tar.xz" | sha256sum --check --quiet
mkdir "$work/source"
tar -xf "$work/ttyd.tar.xz" -C "$work/source" --strip-components=1
{ cmake -S "$work/source" -B "$work/build" -DCMAKE_BUILD_TYPE=Release && cmake --build "$work/build"; } >target/ttyd.log 2>&1
cp "$work/build/ttyd" target/ttyd
