#!/usr/bin/env bash
# Removes what deploy/install.sh has installed. Sessions end; the configuration and recordings stay.
set -euo pipefail

[[ $EUID -eq 0 ]] || { echo "$0: run it as root" >&2 && exit 1; }
if systemctl cat belljar.service >/dev/null 2>&1; then
    # SIGINT: end, and remove every sandbox, instead of leaving them to a next gateway.
    install -d /run/systemd/system/belljar.service.d
    printf '[Service]\nKillSignal=SIGINT\n' >/run/systemd/system/belljar.service.d/end.conf
    systemctl daemon-reload
    systemctl disable --now --quiet belljar.socket belljar.service
    rm -r /run/systemd/system/belljar.service.d
fi
rm -f /usr/bin/belljar /lib/systemd/system/belljar.{service,socket} \
    /usr/lib/sysusers.d/belljar.conf /usr/lib/tmpfiles.d/belljar.conf
rm -rf /usr/lib/belljar /usr/share/belljar /usr/share/doc/belljar /run/belljar
systemctl daemon-reload
echo "Belljar is gone. Left as they are: /etc/belljar, /var/lib/belljar, the user belljar, the engine and its images."
