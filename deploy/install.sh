#!/usr/bin/env bash
# Installs Belljar as a systemd service, or a newer one in its place: sessions live on.
#
#   deploy/install.sh        needs root, a built gateway (`make build`), and an engine with gVisor
#                            (deploy/setup.sh); leaves /etc/belljar/belljar.toml as it is
#   DESTDIR=… deploy/install.sh   only puts the files there, for a package (deploy/deb.sh)
set -euo pipefail
cd "$(dirname "$0")/.."

root=${DESTDIR:-}
[[ $root || $EUID -eq 0 ]] || { echo "$0: run it as root" >&2 && exit 1; }
for file in target/release/belljar target/belljar-agent; do
    [[ -x $file ]] || { echo "$0: $file is not there: make build" >&2 && exit 1; }
done

# A running gateway, and sandboxes, may have the old files open: `install` puts new ones in their place.
put() { install -D -m "$1" "$2" "$root$3"; }
put 755 target/release/belljar /usr/bin/belljar
put 755 target/belljar-agent /usr/lib/belljar/belljar-agent
put 644 systemd/belljar.service /lib/systemd/system/belljar.service
put 644 systemd/belljar.socket /lib/systemd/system/belljar.socket
put 644 systemd/belljar.sysusers /usr/lib/sysusers.d/belljar.conf
put 644 systemd/belljar.tmpfiles /usr/lib/tmpfiles.d/belljar.conf
# What the image of the sandboxes is built from: /usr/share/belljar/image/build.sh
while read -r file; do
    if [[ -x $file ]]; then mode=755; else mode=644; fi
    put $mode "$file" "/usr/share/belljar/image/${file#docker/}"
done < <(find docker/Dockerfile docker/build.sh docker/rootfs -type f)
doc=/usr/share/doc/belljar
put 644 Caddyfile $doc/Caddyfile
put 644 deploy/belljar.toml $doc/examples/belljar.toml
put 644 deploy/prometheus/belljar.rules.yml $doc/examples/belljar.rules.yml
put 644 deploy/grafana/belljar.json $doc/examples/grafana.json
for file in README.md docs/{configuration,operations,protocol,security}.md; do put 644 "$file" "$doc/${file##*/}"; done
[[ ! $root ]] || exit 0

systemd-sysusers belljar.conf
systemd-tmpfiles --create belljar.conf
systemctl daemon-reload
systemctl enable --quiet belljar.socket belljar.service
systemctl start belljar.socket
# The old gateway hands its sessions over to the new one.
systemctl restart belljar.service
systemctl --no-pager --lines=0 status belljar.service
echo
echo "Belljar answers at http://127.0.0.1:3001. For TLS in front of it: /usr/share/doc/belljar/Caddyfile"
