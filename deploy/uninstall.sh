#!/usr/bin/env bash
# Removes what deploy/install.sh has installed. Sessions end; the configuration and recordings stay.
set -euo pipefail

[[ $EUID -eq 0 ]] || { echo "$0: run it as root" >&2 && exit 1; }
if systemctl cat belljar.service >/dev/null 2>&1; then
    # SIGINT: end, and remove every sandbox, instead of leaving them to a next gateway.
    systemctl stop belljar.socket
    systemctl kill --signal=SIGINT --kill-whom=main belljar.service 2>/dev/null || true
    systemctl disable --now --quiet belljar.service belljar.socket
fi
rm -f /usr/bin/belljar /lib/systemd/system/belljar.{service,socket} \
    /usr/lib/sysusers.d/belljar.conf /usr/lib/tmpfiles.d/belljar.conf /usr/share/doc/belljar/Caddyfile
rm -rf /usr/lib/belljar /run/belljar
rmdir /usr/share/doc/belljar 2>/dev/null || true
systemctl daemon-reload
echo "Belljar is gone. Left as they are: /etc/belljar, /var/lib/belljar, the user belljar, the engine and its images."
