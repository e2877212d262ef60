#!/bin/sh
# Prints the figures of BENCHMARKS.md, with the commands that stand there. Run as root: `make bench`.
set -eu
bin=${1:-target/release/hitless}
echo "== up"; "$bin" bench up
echo "== idle"; "$bin" bench idle
echo "== withdrawal"; "$bin" bench withdrawal
echo "== pods"; "$bin" bench pods
echo "== 100,000 requests"; "$bin" prove --requests 100000
echo "== every scenario, with both comparisons"; "$bin" prove --compare
for example in store:store_bench termination:ledger_bench types:managed_bench apiserver:figures drivers:proxy_bench dataplane:dns_bench \
    drivers:node_floor; do
    crate=${example%%:*}; name=${example##*:}
    echo "== $name"; cargo run --release --quiet --package "hitless-$crate" --example "$name"
done
if command -v nginx >/dev/null && command -v haproxy >/dev/null && command -v wrk >/dev/null; then
    echo "== ingress_bench"; cargo run --release --quiet --package hitless-dataplane --example ingress_bench
else
    echo "== ingress_bench left out: it needs the Debian packages nginx-light, haproxy and wrk" >&2
fi
