# A server that speaks the S3 protocol with signatures over a directory (`s3-server` of shared/testkit), with one bucket. It is
# for tests and for one machine; nothing of Gantry depends on which S3 server it talks to.
# shellcheck shell=bash disable=SC2154

# Where cargo put it; built if it is missing.
find_s3_server() {
    local target=${CARGO_TARGET_DIR:-$here/../target} profile
    for profile in debug release; do
        s3_server=$target/$profile/s3-server
        [[ ! -x $s3_server ]] || return 0
    done
    (cd "$here/.." && cargo build --quiet -p testkit --bin s3-server) || die "s3-server cannot be built"
    s3_server=$target/debug/s3-server
}

prepare() {
    mkdir -p "$dir/data/gantry"
    (umask 077 && random_secret > "$dir/secret_key")
}

choose_ports() {
    read -r s3_port < <(free_ports 1)
    echo "s3_port=$s3_port" > "$dir/ports"
    write_env "GANTRY_TEST_S3_ENDPOINT=http://127.0.0.1:$s3_port" "GANTRY_TEST_S3_ACCESS_KEY=gantry" \
        "GANTRY_TEST_S3_SECRET_KEY=$(< "$dir/secret_key")" "GANTRY_TEST_S3_BUCKET=gantry"
}

launch() {
    find_s3_server
    spawn env "S3_SECRET_KEY=$(< "$dir/secret_key")" "$s3_server" --listen "127.0.0.1:$s3_port" --root "$dir/data" --access-key gantry
}

ready() { accepts "$s3_port"; }
