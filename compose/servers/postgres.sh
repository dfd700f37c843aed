# PostgreSQL, as durable as in production (fsync and synchronous_commit on), with TLS and pg_stat_statements. It refuses to
# run as root: then it runs as the user `postgres`, who must be able to reach DIR. Role `gantry` owns the database `gantry`
# and is no superuser; it may read statistics and end backends, because tests do both.
# shellcheck shell=bash disable=SC2012,SC2034,SC2154

# A fast shutdown: it does not wait for clients to leave.
end_signal=INT

find_postgres() {
    bin=$(ls -d /usr/lib/postgresql/*/bin 2> /dev/null | sort -V | tail -n 1) || true
    [[ -n $bin && -x $bin/postgres ]] || die "PostgreSQL is not installed: run compose/install"
    as_postgres=()
    (( EUID != 0 )) || as_postgres=(setpriv --reuid=postgres --regid=postgres --init-groups --)
}

prepare() {
    find_postgres
    (umask 077 && random_secret > "$dir/password" && random_secret > "$dir/superuser_password")
    make_certificates
    chmod 711 "$dir"
    mkdir -p "$dir/data"
    install -m 600 "$dir/superuser_password" "$dir/pwfile"
    install -m 600 "$dir/tls/server.key" "$dir/server.key"
    install -m 644 "$dir/tls/server.pem" "$dir/server.pem"
    if (( EUID == 0 )); then
        chown -R postgres: "$dir/data" "$dir/pwfile" "$dir/server.key" "$dir/server.pem"
        "${as_postgres[@]}" test -r "$dir/pwfile" || die "the user postgres cannot reach $dir: choose a directory that it can, as below /var/tmp"
    fi
    (cd "$dir/data" && "${as_postgres[@]}" "$bin/initdb" -D "$dir/data" -U postgres --pwfile="$dir/pwfile" -A scram-sha-256 \
        -E UTF8 --locale=C.UTF-8 --no-sync --no-instructions) >> "$dir/log" 2>&1 ||
        { tail -n 20 "$dir/log" >&2; die "initdb failed"; }
    rm "$dir/pwfile"
}

choose_ports() {
    read -r postgres_port < <(free_ports 1)
    echo "postgres_port=$postgres_port" > "$dir/ports"
    write_env "GANTRY_TEST_POSTGRES=postgres://gantry:$(< "$dir/password")@127.0.0.1:$postgres_port/gantry" \
        "GANTRY_TEST_POSTGRES_CA=$dir/tls/ca.pem"
}

launch() {
    find_postgres
    # A killed postmaster that nobody has reaped yet still counts as running for its successor.
    if [[ -f $dir/data/postmaster.pid ]] && ! start_ticks "$(head -n 1 "$dir/data/postmaster.pid")" > /dev/null; then rm -f "$dir/data/postmaster.pid"; fi
    cat > "$dir/postgres.conf" << CONF
listen_addresses = '127.0.0.1'
port = $postgres_port
unix_socket_directories = ''
max_connections = 200
shared_buffers = 128MB
max_wal_size = 2GB
fsync = on
synchronous_commit = on
ssl = on
ssl_cert_file = '$dir/server.pem'
ssl_key_file = '$dir/server.key'
shared_preload_libraries = 'pg_stat_statements'
# Files in the data directory: nothing is left in /dev/shm by a killed server.
dynamic_shared_memory_type = mmap
data_directory = '$dir/data'
hba_file = '$dir/data/pg_hba.conf'
ident_file = '$dir/data/pg_ident.conf'
log_line_prefix = '%m [%p] '
CONF
    [[ ! -f $dir/extra.conf ]] || cat "$dir/extra.conf" >> "$dir/postgres.conf"
    chmod 644 "$dir/postgres.conf"
    spawn "${as_postgres[@]}" "$bin/postgres" -c "config_file=$dir/postgres.conf"
}

ready() {
    find_postgres
    "$bin/pg_isready" -q -t 2 -h 127.0.0.1 -p "$postgres_port" || return 1
    [[ ! -f $dir/database_made ]] || return 0
    # The second statement of a killed first start may have failed: each can be repeated.
    admin -q -d postgres -c "do \$\$ begin create role gantry login; exception when duplicate_object then null; end \$\$" \
        -c "alter role gantry password '$(< "$dir/password")'" -c "grant pg_read_all_stats, pg_signal_backend to gantry"
    [[ $(admin -At -d postgres -c "select 1 from pg_database where datname = 'gantry'") == 1 ]] ||
        admin -q -d postgres -c "create database gantry owner gantry"
    admin -q -d gantry -c "set client_min_messages = warning" -c "create extension if not exists pg_stat_statements" \
        -c "grant execute on function pg_stat_statements_reset to gantry"
    touch "$dir/database_made"
}

admin() {
    find_postgres
    PGPASSWORD=$(< "$dir/superuser_password") "$bin/psql" -X -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$postgres_port" -U postgres "$@"
}
