#!/usr/bin/env bash
# Makes two tiny images for the tests, without a registry:
#
#   belljar-test-busybox:latest   busybox and nothing else, with /bin/sh
#   belljar-test-empty:latest     as distroless ones: no shell, one static program, /app/hello
#
# and gives the sandbox image the names that the documents in tests/api/documents/ ask for, where there is
# no image of that name.
set -euo pipefail
cd "$(dirname "$0")"

for name in python:3.11-slim k2data/sandbox-base:latest; do
    docker image inspect "$name" >/dev/null 2>&1 || docker tag belljar-sandbox:latest "$name"
done

label=belljar.inputs
inputs=$(sha256sum test-images.sh | cut -c1-16)
up_to_date() { [[ $(docker image inspect -f "{{index .Config.Labels \"$label\"}}" "$1" 2>/dev/null) == "$inputs" ]]; }

if up_to_date belljar-test-busybox && up_to_date belljar-test-empty; then
    printf '  %-11s %s\n' ok "test images"
    exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

new_root() { # a root file system with the two users and the directories that sandboxes mount on
    mkdir -p "$1"/{etc,home/sandbox,tmp,proc,sys,dev}
    printf '%s\n' root:x:0:0:root:/root:/bin/sh sandbox:x:1000:1000::/home/sandbox:/bin/sh >"$1/etc/passwd"
    printf '%s\n' root:x:0: sandbox:x:1000: >"$1/etc/group"
}

import() { # root, name, command as JSON
    tar --numeric-owner --owner=0 --group=0 -C "$1" -c . |
        docker import --change "LABEL $label=$inputs" --change "CMD $3" - "$2:latest" >/dev/null
    printf '  %-11s %s\n' ok "image $2:latest"
}

new_root "$work/busybox"
(cd "$work" && apt-get download busybox-static >download.log 2>&1) || { cat "$work/download.log" >&2 && exit 1; }
dpkg-deb --fsys-tarfile "$work"/busybox-static_*.deb | tar -x -C "$work/busybox" --transform='s,^\./usr/bin/,./bin/,' --wildcards './*bin/busybox'
# Links inside one real directory: some gVisor releases stumble over symbolic links in the root.
for applet in $("$work/busybox/bin/busybox" --list); do
    [[ $applet == busybox ]] || ln -s busybox "$work/busybox/bin/$applet"
done
import "$work/busybox" belljar-test-busybox '["/bin/sh"]'

new_root "$work/empty"
mkdir "$work/empty/app"
cc -static -O2 -s -x c -o "$work/empty/app/hello" - <<'END'
#include <stdio.h>
/* Greets, then gives back what it reads, until the end of the input. */
int main(void) {
    int c;
    puts("hello from an empty image");
    fflush(stdout);
    while ((c = getchar()) != EOF)
        if (putchar(c) == '\n') fflush(stdout);
    return 7;
}
END
import "$work/empty" belljar-test-empty '["/app/hello"]'
