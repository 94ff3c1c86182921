#!/usr/bin/env bash
# Builds what the cluster is made of, from Debian's packages alone, unless it is in the cache:
#
#   kubelet, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl    Kubernetes 1.20.2, bookworm's source
#   containerd-shim-runsc-v1    gVisor's shim, trixie's source, against bookworm's containerd 1.6
#   etcd, CNI plugins           as Debian has built them
#
# 15 minutes of processor time and 4 GB of disk the first time; 400 MB stay. A build that was interrupted goes on where it
# was. The cache has one folder for each set of package versions; `current` is the one in use. Called by `up`.
#
#   build.sh            build
#   build.sh --cached   is there a finished build? Says nothing, builds nothing.
set -euo pipefail
. "$(dirname "$0")/common.sh"

[[ ${1:-} != --cached ]] || { [[ -e $cache/current/complete ]]; exit; }

take_turn
: >"$log"

# --- which versions ---------------------------------------------------------------------------------

# An apt of our own, so that neither trixie nor source packages appear on this machine.
mirror() { # of Debian, as this machine has it
    local uri
    # shellcheck disable=SC2016  # apt expands them
    uri=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' 2>/dev/null |
        awk '$2 == "bookworm" { print $1; exit }')
    echo "${uri:-http://deb.debian.org/debian}"
}

write_apt_configuration() {
    local apt=$cache/apt debian
    mkdir -p "$apt"/{lists/partial,cache/archives/partial}
    debian="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror)"
    {
        printf 'deb %s %s main\n' "$debian" bookworm "$debian" bookworm-backports "$debian" trixie
        printf 'deb-src %s %s main\n' "$debian" bookworm "$debian" trixie
    } >"$apt/sources.list"
    printf 'deb %s %s main\n' "$debian" bookworm "$debian" bookworm-backports >"$apt/bookworm.list"
    cat >"$apt/apt.conf" <<-CONF
		Dir::Etc::sourcelist "$apt/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::State::lists "$apt/lists";
		Dir::Cache "$apt/cache";
		APT::Sandbox::User "root";
		Acquire::Retries "3";
	CONF
    export APT_CONFIG=$apt/apt.conf
}

# Once a day is often enough, and a machine without a network keeps what it has.
refresh_package_lists() {
    local stamp=$cache/apt/refreshed
    [[ ! $(find "$stamp" -mtime -1 2>/dev/null) ]] || return 0
    say fetching "the lists of Debian's packages"
    if logged apt-get update -o APT::Update::Error-Mode=any; then
        touch "$stamp"
    elif [[ -e $cache/current/complete ]]; then
        say note "Debian's mirror cannot be reached: the last build is used"
        exit 0
    else
        fail "Debian's mirror cannot be reached, and there is no build in the cache" \
            "check http://deb.debian.org/debian from this machine, then run this again"
    fi
}

binary_packages=(
    golang-1.19-go/bookworm golang-1.19-src/bookworm # Kubernetes 1.20 builds with this one
    golang-1.24-go/trixie golang-1.24-src/trixie     # and the shim with this one
    etcd-server/trixie                               # bookworm's etcd is older than what the API server's client wants
    containernetworking-plugins/bookworm
)
# To be counted up when the steps below make something else of the same packages.
recipe=1
source_packages=(kubernetes golang-gvisor-gvisor)

# One NAME VERSION a line. It takes apt ten seconds to say, and only changes with its lists.
resolve_versions() {
    local resolved=$cache/apt/resolved
    [[ $resolved -nt $cache/apt/refreshed && $resolved -nt $here/build.sh ]] || ask_versions >"$resolved"
    cat "$resolved"
}
ask_versions() {
    local package
    for package in "${binary_packages[@]}"; do
        apt-cache madison "${package%/*}" | awk -F ' *[|] *' -v suite="${package#*/}/" \
            '{ sub(/^ +/, "", $1) } index($3, suite) { print $1, $2; exit }'
    done
    for package in "${source_packages[@]}"; do
        apt-cache showsrc "$package" | awk '$1 == "Package:" { name = $2 } $1 == "Version:" { print name, $2 }' |
            sort -k2,2V | if [[ $package == kubernetes ]]; then head -n1; else tail -n1; fi
    done
    echo "recipe $recipe"
}

# --- the steps --------------------------------------------------------------------------------------

step() { # name, what is said, function: once per build
    local stamp=$work/done-$1
    [[ ! -e $stamp ]] || return 0
    say building "$2"
    local from=$SECONDS
    "$3" || fail "$2: that did not work" "read the lines above; the next run goes on with this step"
    printf '%s %s s\n' "$1" $((SECONDS - from)) >>"$out/times"
    touch "$stamp"
}

fetch_packages() {
    local package exact=() wanted
    for package in "${binary_packages[@]}"; do
        wanted=${package%/*}
        exact+=("$wanted=$(awk -v name="$wanted" '$1 == name { print $2 }' "$out/versions")")
    done
    rm -rf "$work/debs" && mkdir -p "$work/debs"
    (cd "$work/debs" && logged apt-get -q download "${exact[@]}") || return 1
    for package in "$work"/debs/*.deb; do logged dpkg -x "$package" "$work/root" || return 1; done
    rm -r "$work/debs"
    cp "$work/root/usr/bin/etcd" "$out/bin/" && cp -r "$work/root/usr/lib/cni/." "$out/cni/"
}

fetch_sources() {
    local package exact=()
    mkdir -p "$work/source"
    for package in "${source_packages[@]}"; do
        exact+=("$package=$(awk -v name="$package" '$1 == name { print $2 }' "$out/versions")")
    done
    # A mirror that has lost a .dsc is good enough, since apt has the checksums of the archives from its own lists, and
    # of gVisor only the archive is wanted.
    (cd "$work/source" && { logged apt-get -q source --download-only "${exact[@]}" || true; })
    ls "$work"/source/{kubernetes_*.dsc,kubernetes_*.orig.tar.*,golang-gvisor-gvisor_*.orig.tar.*} >/dev/null 2>>"$log"
}

unpack_sources() {
    rm -rf "$work/kubernetes" "$work/gvisor"
    APT_CONFIG='' logged dpkg-source --no-check -x "$work"/source/kubernetes_*.dsc "$work/kubernetes" || return 1
    mkdir "$work/gvisor"
    tar -xf "$work"/source/golang-gvisor-gvisor_*.orig.tar.* -C "$work/gvisor" --strip-components=1
}

# In GOPATH mode, as Debian builds it: everything is vendored, and nothing is fetched.
go_environment() { # Go's version, GOPATH
    export HOME=$work/home GOCACHE=$work/gocache GOROOT=$work/root/usr/lib/go-$1 GOPATH=$2
    export PATH=$GOROOT/bin:$PATH CGO_ENABLED=0 GO111MODULE=off GOFLAGS='' GOTOOLCHAIN=local
}

# The one generated file that is not in the source package.
generate_openapi() (
    go_environment 1.19 "$work/kubernetes/.go"
    mkdir -p "$GOPATH/src/k8s.io" && ln -sfn ../../.. "$GOPATH/src/k8s.io/kubernetes"
    cd "$GOPATH/src/k8s.io/kubernetes" || return 1
    logged go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen || return 1
    local marked packages
    marked=$(
        grep -rl --include='*.go' '+k8s:openapi-gen=' pkg cmd plugin
        grep -rl --include='*.go' '+k8s:openapi-gen=' staging/src/k8s.io |
            grep -vE 'sample-|code-generator|/testdata/|_test.go' | sed 's#^staging/src/#vendor/#'
    )
    packages=$(xargs -n1 dirname <<<"$marked" | sort -u | sed 's#^#k8s.io/kubernetes/#' | paste -sd,)
    logged "$work/openapi-gen" --logtostderr -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi \
        -O zz_generated.openapi -h hack/boilerplate/boilerplate.generatego.txt -r "$work/violations.report"
)

build_kubernetes() (
    go_environment 1.19 "$work/kubernetes/.go"
    cd "$GOPATH/src/k8s.io/kubernetes" || return 1
    local version package flags='-s -w'
    version=$(sed -n 's/^kubernetes .*really\([0-9.]*\).*/v\1/p' "$out/versions")
    for package in vendor/k8s.io/component-base vendor/k8s.io/client-go/pkg; do
        package=k8s.io/kubernetes/$package/version
        flags+=" -X $package.gitVersion=${version:=v1.20.2} -X $package.gitMajor=1 -X $package.gitMinor=20"
    done
    logged nice go build -ldflags "$flags" -o "$out/bin/" \
        ./cmd/kubelet ./cmd/kube-apiserver ./cmd/kube-controller-manager ./cmd/kube-scheduler ./cmd/kubectl
)

# gVisor's shim has its dependencies in Debian's -dev packages. They are unpacked here, not installed.
fetch_shim_dependencies() {
    local bookworm="-oDir::Etc::sourcelist=$cache/apt/bookworm.list" packages
    packages=$(apt-get "$bookworm" install --simulate --no-install-recommends -t bookworm-backports \
        golang-gvisor-gvisor-dev golang-github-containerd-containerd-dev/bookworm golang-github-containerd-go-runc-dev \
        golang-github-containerd-fifo-dev golang-github-containerd-console-dev golang-github-containerd-cgroups-dev \
        golang-github-containerd-typeurl-dev golang-github-gogo-protobuf-dev golang-github-burntsushi-toml-dev \
        golang-logrus-dev 2>>"$log" | awk '$1 == "Inst" && $2 ~ /-dev$/ { sub(/\(/, "", $3); print $2 "=" $3 }')
    [[ $packages ]] || return 1
    rm -rf "$work/shim-debs" && mkdir -p "$work/shim-debs"
    # shellcheck disable=SC2086  # one argument a package
    (cd "$work/shim-debs" && logged apt-get -q "$bookworm" download $packages) || return 1
    local package
    for package in "$work"/shim-debs/*.deb; do logged dpkg -x "$package" "$work/shim" || return 1; done
    rm -r "$work/shim-debs"
}

build_shim() (
    local gvisor=$work/shim/usr/share/gocode/src/gvisor.dev/gvisor
    rm -rf "$gvisor/pkg/shim" "$gvisor/shim"
    cp -r "$work/gvisor/pkg/shim" "$gvisor/pkg/" && cp -r "$work/gvisor/shim" "$gvisor/" || return 1
    # A generated file that gVisor's own build would make: the vDSO of sandboxes. The shim only links it.
    cd "$work/gvisor" || return 1
    logged g++ -I. -O2 -std=c++11 -fPIC -fno-sanitize=all -fno-stack-protector -shared -nostdlib \
        -Wl,-soname=linux-vdso.so.1 -Wl,--hash-style=sysv -Wl,--no-undefined -Wl,-Bsymbolic \
        -Wl,-z,max-page-size=4096 -Wl,-z,common-page-size=4096 -Wl,-Tvdso/vdso_amd64.lds \
        -o "$gvisor/pkg/sentry/loader/vdsodata/vdso_amd64.so" vdso/vdso.cc vdso/vdso_time.cc || return 1
    cd "$gvisor" && logged patch -p1 --forward <"$here/shim.patch" || return 1
    go_environment 1.24 "$work/shim/usr/share/gocode"
    logged nice go build -ldflags '-s -w' -o "$out/bin/containerd-shim-runsc-v1" ./shim
)

# The process that holds a pod's namespaces. Static: it is all that its image has.
build_pause() { logged cc -Os -static -s -o "$out/bin/pause" "$here/pause.c"; }

# --- in this order ----------------------------------------------------------------------------------

write_apt_configuration
refresh_package_lists
versions=$(resolve_versions)
(($(wc -l <<<"$versions") == ${#binary_packages[@]} + ${#source_packages[@]} + 1)) ||
    fail "Debian does not have all that is needed; it has: ${versions//$'\n'/, }" "this needs the suites bookworm and trixie of a Debian mirror"
out=$cache/$(sha256sum <<<"$versions" | cut -c1-12)
work=$out/work
if [[ ! -e $out/complete ]]; then
    mkdir -p "$out"/{bin,cni} "$work/home"
    printf '%s\n' "$versions" >"$out/versions"
    say building "Kubernetes and gVisor's shim: about 8 minutes on two cores, once (log: $log)"
    step packages "unpacking Debian's packages" fetch_packages
    step sources "fetching the sources of Kubernetes and gVisor" fetch_sources
    step unpacked "unpacking the sources of Kubernetes and gVisor" unpack_sources
    step pause "pause" build_pause
    step openapi "Kubernetes: the description of its API" generate_openapi
    step kubernetes "Kubernetes: five programs, the longest step" build_kubernetes
    step shim-packages "unpacking what gVisor's shim is built with" fetch_shim_dependencies
    step shim "gVisor's shim for containerd" build_shim
    touch "$out/complete"
fi
ln -sfn "$(basename "$out")" "$cache/current"
if [[ -e $work ]]; then
    # Go leaves its caches without the right to write.
    chmod -R u+w "$work" && rm -rf "$work"
fi
say ok "Kubernetes $("$out/bin/kubelet" --version | cut -d' ' -f2), $(sed -n 's/^etcd-server /etcd /p' "$out/versions"), gVisor's shim"
