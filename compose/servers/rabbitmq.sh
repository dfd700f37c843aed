# RabbitMQ: its own node name space (a private epmd), cookie and HOME, so that it neither sees nor disturbs another broker
# on the machine. It is started by the script in its library directory: Debian's wrapper in /usr/sbin changes the user
# and writes to /var. There is no management plugin; users and policies come from a definitions file at boot.
# shellcheck shell=bash disable=SC2012,SC2154

rabbitmq_environment() {
    sbin=$(ls -d /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin 2> /dev/null | tail -n 1) || true
    [[ -n $sbin ]] || die "RabbitMQ is not installed: run compose/install"
    export HOME=$dir/home
    export RABBITMQ_NODENAME=gantry@localhost
    export RABBITMQ_CONF_ENV_FILE=$dir/none
    export RABBITMQ_CONFIG_FILE=$dir/rabbitmq.conf
    export RABBITMQ_ADVANCED_CONFIG_FILE=$dir/advanced.config
    export RABBITMQ_ENABLED_PLUGINS_FILE=$dir/enabled_plugins
    export RABBITMQ_MNESIA_BASE=$dir/data
    export RABBITMQ_LOG_BASE=$dir/data
    export RABBITMQ_PID_FILE=$dir/data/broker.pid
    export RABBITMQ_DIST_PORT=${dist_port:-}
    export ERL_EPMD_PORT=${epmd_port:-}
    export ERL_EPMD_ADDRESS=127.0.0.1
    export ERL_CRASH_DUMP=$dir/erl_crash.dump
    # Distribution on loopback only, for the broker and for its tools; the tools take any free port.
    export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
    export RABBITMQ_CTL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
    export RABBITMQ_CTL_DIST_PORT_MIN=20000 RABBITMQ_CTL_DIST_PORT_MAX=30000
    # Makes the script become the Erlang machine, where it would otherwise stay above it as a parent.
    export detached=yes
}

prepare() {
    mkdir -p "$dir/home" "$dir/data"
    (umask 077 && random_secret > "$dir/home/.erlang.cookie" && random_secret > "$dir/password")
    chmod 400 "$dir/home/.erlang.cookie"
    echo '[].' > "$dir/enabled_plugins"
    make_certificates
    # The policies of an installation. Only queues with the default prefix have a dead-letter exchange, because a policy
    # names one exchange; `compose/server admin rabbitmq DIR set_policy ..` adds another for another prefix.
    python3 - "$dir" << 'PYTHON'
import base64, hashlib, json, os, sys
directory = sys.argv[1]
password = open(f"{directory}/password").read().strip().encode()
salt = os.urandom(4)
hashed = base64.b64encode(salt + hashlib.sha256(salt + password).digest()).decode()
bounded = {"overflow": "reject-publish", "max-length": 100_000, "max-length-bytes": 1 << 30}
work = bounded | {"delivery-limit": 20}
dead_letter = {"dead-letter-exchange": "gantry.dead", "dead-letter-strategy": "at-least-once"}
def policy(name, pattern, priority, definition):
    return {"vhost": "/", "name": name, "pattern": pattern, "apply-to": "queues", "priority": priority, "definition": definition}
definitions = {
    "vhosts": [{"name": "/"}],
    "users": [{"name": "gantry", "password_hash": hashed, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "administrator"}],
    "permissions": [{"user": "gantry", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
    "policies": [
        policy("gantry-bounded", r"^[^.]+\.(unroutable|dead|rejected)$", 0, bounded),
        policy("gantry-work", r"^[^.]+\.queue\.", 0, work),
        policy("gantry-work-dead-letter", r"^gantry\.queue\.", 10, work | dead_letter),
    ],
}
with open(os.open(f"{directory}/definitions.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
    json.dump(definitions, out, indent=1)
PYTHON
}

choose_ports() {
    read -r amqp_port amqps_port < <(free_ports 2)
    printf '%s\n' "amqp_port=$amqp_port" "amqps_port=$amqps_port" > "$dir/ports"
    local password
    password=$(< "$dir/password")
    write_env "GANTRY_TEST_AMQP=amqp://gantry:$password@127.0.0.1:$amqp_port/%2f" \
        "GANTRY_TEST_AMQPS=amqps://gantry:$password@localhost:$amqps_port/%2f" \
        "GANTRY_TEST_AMQP_CA=$dir/tls/ca.pem" \
        "GANTRY_TEST_RABBITMQ_DIR=$dir"
}

# Those of its clients stay; the broker's own are others each time, so that nobody can have taken them meanwhile.
launch() {
    read -r dist_port epmd_port < <(free_ports 2)
    printf '%s\n' "amqp_port=$amqp_port" "amqps_port=$amqps_port" "dist_port=$dist_port" "epmd_port=$epmd_port" > "$dir/ports"
    cat > "$dir/rabbitmq.conf" << CONF
listeners.tcp.1 = 127.0.0.1:$amqp_port
listeners.ssl.1 = 127.0.0.1:$amqps_port
ssl_options.cacertfile = $dir/tls/ca.pem
ssl_options.certfile = $dir/tls/server.pem
ssl_options.keyfile = $dir/tls/server.key
ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
heartbeat = 10
consumer_timeout = 3600000
channel_max = 128
vm_memory_high_watermark.relative = 0.4
disk_free_limit.absolute = 200MB
load_definitions = $dir/definitions.json
log.console = true
log.console.level = info
log.file = false
CONF
    [[ ! -f $dir/extra.conf ]] || cat "$dir/extra.conf" >> "$dir/rabbitmq.conf"
    rabbitmq_environment
    spawn epmd -port "$epmd_port" -address 127.0.0.1
    # It says nothing when another process has its port.
    if ! within 10 accepts "$epmd_port"; then
        echo "epmd does not listen on port $epmd_port: is it in use?" >> "$dir/log"
        return 1
    fi
    spawn "$sbin/rabbitmq-server"
}

# The broker speaks first only after the client's protocol header; a frame that begins with 1 is Connection.Start.
ready() {
    local byte
    {
        exec 3<> "/dev/tcp/127.0.0.1/$amqp_port" || return 1
        printf 'AMQP\x00\x00\x09\x01' >&3
        IFS= read -r -t 2 -N 1 byte <&3 || byte=
        exec 3>&-
    } 2> /dev/null
    [[ $byte == $'\x01' ]]
}

admin() {
    rabbitmq_environment
    exec "$sbin/rabbitmqctl" "$@"
}
