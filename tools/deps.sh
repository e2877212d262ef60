#!/bin/sh
# Installs what Hitless needs and what is missing, from Debian's packages.
# Run as root: `make deps`. `make build`, `make test` and `make prove` call it; it is quick when nothing is missing.
set -eu

missing=""
need() { # program, package
    for dir in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin /usr/lib/cni /opt/cni/bin; do
        [ -x "$dir/$1" ] && return 0
    done
    missing="$missing $2"
}

need containerd containerd
need runc runc
need host-local containernetworking-plugins   # its `bridge` has a namesake in iproute2
need ip iproute2
need iptables iptables  # for the CNI plugins
need nft nftables
need mold mold          # the linker of .cargo/config.toml
need cc gcc
if [ "${1:-}" = "--for-tests" ]; then
    need docker-registry docker-registry   # the tests pull images from it
fi

if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "error: these Debian packages are missing:$missing; install them, or run this as root" >&2
        exit 2
    fi
    echo "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # The services that come with the packages stay as they are: Hitless starts a containerd of its own for each node.
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

if [ "${1:-}" = "--for-tests" ] && ! command -v kubectl >/dev/null 2>&1; then
    echo "installing kubectl"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # Debian 12 itself carries kubectl 1.20 (package kubernetes-client); a machine with Kubernetes' own package source has a newer one.
    apt-get install -y -qq --no-install-recommends kubectl >/dev/null 2>&1 ||
        apt-get install -y -qq --no-install-recommends kubernetes-client >/dev/null
fi
