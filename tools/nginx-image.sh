#!/usr/bin/env bash
# Makes an image of the nginx of this machine's Debian, as an archive that `hitless images import` takes (and `docker load`):
#
#     tools/nginx-image.sh nginx.tar [REFERENCE...]
#
# Without references it is called nginx, nginx:1.15, nginx:1.18 and nginx:1.19, so that manifests written for those run as they stand where
# no registry can be reached. It serves Debian's welcome page on port 80, and on 3000; `sh` and `sleep` are there for hooks. Packages come
# through apt, which checks their signatures; none is installed.
set -euo pipefail

out=$(realpath "${1:?usage: tools/nginx-image.sh FILE.tar [REFERENCE...]}")
shift
[ $# -gt 0 ] || set -- nginx nginx:1.15 nginx:1.18 nginx:1.19
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/debs/partial" "$work/root" "$work/image"
: > "$work/status"

# With an empty list of installed packages apt names everything that nginx needs.
apt-get -qq -y --no-install-recommends --download-only -o Dir::State::status="$work/status" \
    -o Dir::Cache::archives="$work/debs" -o Debug::NoLocking=1 -o APT::Sandbox::User=root \
    install nginx coreutils dash > "$work/apt.log" 2>&1 || { cat "$work/apt.log" >&2; exit 1; }

cd "$work/root"
# Debian's merged /usr; the packages of this release still name /bin and /lib.
mkdir -p usr/bin usr/sbin usr/lib usr/lib64 etc run tmp var/lib/nginx
for directory in bin sbin lib lib64; do ln -s "usr/$directory" "$directory"; done
for deb in "$work"/debs/*.deb; do
    case "$(basename "$deb")" in
        # Asked for by maintainer scripts, which do not run here.
        debconf_*|dpkg_*|tar_*|iproute2_*|libdb5*|libbpf*|libelf*|gcc-12-base_*) continue ;;
    esac
    dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink --exclude=./usr/share/doc \
        --exclude=./usr/share/man --exclude=./usr/share/locale --exclude=./usr/lib/x86_64-linux-gnu/gconv
done
chmod 1777 tmp
printf 'root:x:0:0:root:/:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n' > etc/passwd
printf 'root:x:0:\nadm:x:4:\nwww-data:x:33:\n' > etc/group
rm -rf etc/nginx/sites-enabled
mkdir -p etc/nginx/conf.d var/log/nginx
ln -sf /dev/stdout var/log/nginx/access.log
ln -sf /dev/stderr var/log/nginx/error.log
cat > etc/nginx/conf.d/default.conf <<'EOF'
server {
    listen 80;
    listen 3000;
    root /usr/share/nginx/html;
    index index.html;
}
EOF

tar -c --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner . > "$work/image/layer.tar"
cd "$work/image"
sha() { sha256sum "$1" | cut -d' ' -f1; }
case "$(dpkg --print-architecture)" in
    amd64) architecture=amd64 ;;
    arm64) architecture=arm64 ;;
    *) echo "no image architecture is known for this machine's" >&2; exit 1 ;;
esac
cat > config.json <<EOF
{"created":"1970-01-01T00:00:00Z","architecture":"$architecture","os":"linux","config":{"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
"Cmd":["nginx","-g","daemon off;"],"ExposedPorts":{"80/tcp":{},"3000/tcp":{}},"StopSignal":"SIGQUIT","WorkingDir":"/"},
"rootfs":{"type":"layers","diff_ids":["sha256:$(sha layer.tar)"]},"history":[{"created_by":"tools/nginx-image.sh"}]}
EOF
config="$(sha config.json).json"
mv config.json "$config"
tags=""
for reference in "$@"; do
    case "${reference##*/}" in *:*) ;; *) reference="$reference:latest" ;; esac
    tags="$tags${tags:+,}\"$reference\""
done
printf '[{"Config":"%s","RepoTags":[%s],"Layers":["layer.tar"]}]\n' "$config" "$tags" > manifest.json
tar -c --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -f "$out" "$config" layer.tar manifest.json
echo "$out: $(du -h "$out" | cut -f1), nginx $(basename "$work"/debs/nginx_*.deb | cut -d_ -f2) as $*"
