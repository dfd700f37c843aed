# A server that speaks the S3 protocol with signatures over a directory (`s3-server` of shared/testkit), with one bucket. It is
# for tests and for one machine; nothing of Gantry depends on which S3 server it talks to.
# shellcheck shell=bash disable=SC2012,SC2154

# The one that cargo built last; built if there is none.
find_s3_server() {
    local target=${CARGO_TARGET_DIR:-$here/../target}
    s3_server=$(ls -t "$target"/{debug,release}/s3-server 2> /dev/null | head -n 1) || true
    if [[ -z $s3_server ]]; then
        (cd "$here/.." && cargo build --quiet --locked -p testkit --bin s3-server >&2) || die "s3-server cannot be built"
        s3_server=$target/debug/s3-server
    fi
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
