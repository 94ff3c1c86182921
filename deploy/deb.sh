#!/usr/bin/env bash
# Packs what `make build` has built for Debian: target/belljar_VERSION_ARCHITECTURE.deb
#
#   deploy/deb.sh [VERSION]    VERSION: instead of the crate's
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022

version=${1:-$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"$/\1/p' Cargo.toml)}
architecture=$(dpkg --print-architecture)
# A libc as new as the one that the gateway was linked with.
libc=$(grep -ao 'GLIBC_2\.[0-9]*' target/release/belljar | sort -uV | tail -n 1)
package=target/belljar_${version}_$architecture.deb

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
DESTDIR=$stage deploy/install.sh

put() { install -D -m "$1" "$2" "$stage$3"; }
for script in postinst prerm postrm; do put 755 deploy/deb/$script /DEBIAN/$script; done
put 644 deploy/deb/copyright /usr/share/doc/belljar/copyright
put 644 deploy/deb/lintian-overrides /usr/share/lintian/overrides/belljar
put 644 CHANGELOG.md /usr/share/doc/belljar/CHANGELOG.md
printf 'belljar (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- %s  %s\n' "$version" \
    "$(sed -n 's/^Maintainer: //p' deploy/deb/control)" "$(date -R)" | gzip -9n >"$stage/usr/share/doc/belljar/changelog.gz"

sed "s/@VERSION@/$version/; s/@ARCHITECTURE@/$architecture/; s/@LIBC@/${libc#GLIBC_}/; s/@SIZE@/$(du -sk "$stage" | cut -f1)/" \
    deploy/deb/control >"$stage/DEBIAN/control"
(cd "$stage" && find usr lib -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)

dpkg-deb --root-owner-group -z2 --build "$stage" "$package" >/dev/null
echo "$package"
