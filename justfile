# What one does here. `just` lists it; every recipe is one or two commands that work without just as well.

# List the recipes
default:
    @just --list --unsorted

# See it work: five releases of a sample service, real processes and requests
demo *args:
    cargo run --release -- demo {{args}}

# All tests, as CI runs them
test *args:
    cargo test --locked {{args}}

# The tests on a real Kubernetes node (root; minutes to build it the first time); a node that is up is used and kept
cluster-test *args:
    tests/cluster/node/node run {{args}}

# Bring the node up and leave it up; says where its environment file is
cluster-up:
    tests/cluster/node/node up

# Take it down: nothing of it is left running
cluster-down:
    tests/cluster/node/node down

# What must be clean before a commit
lint:
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --locked

# Put the code into its one form
fmt:
    cargo fmt

# Everything that CI does, on this machine (root; installs Debian packages that are missing)
ci:
    .ci/run

# Play a story of examples/ through in virtual time
simulate story="errors-rolled-back":
    cargo run -- simulate -f examples/{{story}}/rollout.yaml --scenario examples/{{story}}/scenario.yaml

# Run one seed of the simulation again, with all that happened
replay seed:
    WADE_SIM_SEED={{seed}} cargo test --test simulation replay -- --nocapture

# The long runs: more seeds of the simulation, then the real node (root)
soak: soak-seeds soak-cluster

# Try more seeds than CI does
soak-seeds seeds="20000" from="1":
    WADE_SIM_SEEDS={{seeds}} WADE_SIM_FROM={{from}} cargo test --release --test simulation no_seed_breaks_a_rule -- --nocapture

# The long runs on a real Kubernetes node (root; half an hour): the leader killed 20 times, ten releases in a row
soak-cluster seed="20":
    WADE_CLUSTER_SOAK=1 WADE_CLUSTER_SEED={{seed}} tests/cluster/node/node run soak_ --test-threads=1

# All benchmarks; the proxy's needs python3, haproxy and wrk and is skipped without
bench *args:
    cargo bench --locked {{args}}

# Our proxy beside haproxy on this machine, interleaved
proxy-ratio:
    cargo bench --locked --bench proxy_ratio

# Licences, bans and advisories (needs cargo-deny)
deny:
    cargo deny check
