#!/usr/bin/env bash
# Builds the sandbox image, belljar-sandbox:latest, unless it is up to date.
#
#   docker/build.sh [--force]    --force: build anew, for the distribution's latest packages
#
# The base is debian:bookworm-slim from a registry or, where none can be reached, made by mmdebstrap.
set -euo pipefail
cd "$(dirname "$0")"

image=belljar-sandbox:latest
label=belljar.inputs

say() { printf '  %-11s %s\n' "$1" "$2"; }
as_root() { if ((EUID == 0)); then "$@"; else sudo "$@"; fi; }
exists() { docker image inspect "$1" >/dev/null 2>&1; }

# Everything that goes into the image: names, contents and the executable bit, but not the umask
# and the owner of this checkout.
inputs=$(tar --sort=name --mtime=@0 --mode=u=rwX,go=rX --owner=0 --group=0 --numeric-owner \
    -c Dockerfile rootfs | sha256sum | cut -c1-16)

force=
[[ ${1:-} != --force ]] || force=yes
if [[ -z $force && $(docker image inspect -f "{{index .Config.Labels \"$label\"}}" $image 2>/dev/null) == "$inputs" ]]; then
    say ok "image $image"
    exit
fi

# Beside a checkout's other products; of an installed package, somewhere that is thrown away.
in_checkout() { [[ -f ../Cargo.toml ]]; }
if in_checkout; then mkdir -p ../target && work=$(realpath ../target); else work=$(mktemp -d); fi
log=$work/image.log
: >"$log"
trap '[[ $? == 0 ]] || { tail -n 20 "$log" | sed "s/^/  | /"; echo "  FAILED      image $image; the whole log is $log"; } >&2' EXIT
say building "image $image (a minute or two)"

base=debian:bookworm-slim
if ! timeout 300 docker pull -q $base >>"$log" 2>&1 && ! exists $base; then
    base=belljar-base:bookworm
    if [[ -n $force ]] || ! exists $base; then
        say building "its base with mmdebstrap (no image registry can be reached)"
        debian='deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian'
        as_root mmdebstrap --variant=minbase --dpkgopt=rootfs/etc/dpkg/dpkg.cfg.d/zz-belljar bookworm - \
            "$debian bookworm main" "$debian bookworm-updates main" "$debian-security bookworm-security main" \
            >"$work/base.tar" 2>>"$log"
        # From a file, not a pipe: the engine would tag the half of an archive, too.
        docker import "$work/base.tar" $base >>"$log"
        rm "$work/base.tar"
    fi
fi

# --network=host: the engine may run without a bridge (deploy/setup.sh), and apt then uses this
# machine's resolver and routes. A proxy is passed on by name; it never enters a layer.
docker build --network=host ${force:+--no-cache} --build-arg BASE=$base --label "$label=$inputs" \
    --build-arg http_proxy --build-arg https_proxy --build-arg no_proxy -t $image . >>"$log" 2>&1
# The image that this one replaces.
docker image prune -f --filter label=$label >>"$log" 2>&1 || true
in_checkout || rm -r "$work"
say ok "image $image"
