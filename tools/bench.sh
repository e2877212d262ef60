#!/bin/sh
# Prints every figure of BENCHMARKS.md. Run as root: `make bench`.
set -eu
bin=${1:-target/debug/hitless}
echo "== up"; "$bin" bench up
echo "== idle"; "$bin" bench idle
echo "== withdrawal"; "$bin" bench withdrawal
echo "== rollout, with both comparisons"; "$bin" prove rollout --compare
for example in store:store_bench termination:ledger_bench drivers:proxy_bench; do
    crate=${example%%:*}; name=${example##*:}
    if [ -f "crates/$crate/examples/$name.rs" ]; then
        echo "== $name"; cargo run --quiet --package "hitless-$crate" --example "$name"
    fi
done
