use std::ops::RangeInclusive;

/// One key, for people.
pub struct Key {
    /// As `worker.slots`.
    pub name: &'static str,
    /// What it means, in one sentence.
    pub help: &'static str,
    /// What it may be, if it is a number.
    pub range: Option<RangeInclusive<i128>>,
    /// The default in words, where it depends on the machine.
    pub default: Option<&'static str>,
}

const fn text(name: &'static str, help: &'static str) -> Key {
    Key { name, help, range: None, default: None }
}

const fn number(name: &'static str, help: &'static str, range: RangeInclusive<i128>) -> Key {
    Key { name, help, range: Some(range), default: None }
}

/// The sections, in the order of the reference.
pub const SECTIONS: [(&str, &str); 9] = [
    ("gateway", "The HTTP side."),
    ("worker", "What runs executions; one per node."),
    ("sync", "What fetches bundles for the worker of its node; one per node."),
    ("monitor", "What dispatches, rescues and expires executions; any number."),
    ("record", "Where executions, logs and models are kept."),
    ("broker", "How requests and replies travel."),
    ("coordination", "Who is alive, and who may."),
    ("artifacts", "Where bundles are kept."),
    ("log", "What a process says of itself, on stderr."),
];

const DAY_MS: i128 = 86_400_000;

/// Every key there is, by section.
pub const KEYS: &[Key] = &[
    // -- gateway
    text("gateway.listen", "the address to listen on; there is no authentication yet, so a loopback address"),
    text(
        "gateway.insecure_bind",
        "listen on another address all the same: everybody who reaches it may run models",
    ),
    text("gateway.tls_cert_file", "TLS: the certificate chain, as PEM"),
    text("gateway.tls_key_file", "TLS: its private key, as PEM"),
    number(
        "gateway.connections_max",
        "the most connections at once, and the most requests at once on those of HTTP/2, each of which carries up to 128; further ones get `503`. The soft limit of open files is raised to what they need, as far as the hard one lets it",
        1..=1_000_000,
    ),
    number(
        "gateway.connections_per_address_max",
        "the most connections at once from one address, and the most requests at once over HTTP/2; further ones get `503`",
        1..=1_000_000,
    ),
    number(
        "gateway.waiters_max",
        "the most callers that wait for a result at once; further ones get `503`",
        1..=1_000_000,
    ),
    number(
        "gateway.ready_percent_min",
        "how many percent of the nodes that serve a model's queue must have a version before an alias moves to it",
        0..=100,
    ),
    number(
        "gateway.scaling_target_seconds",
        "in how many seconds the backlog of a queue should be worked off, for `GET /v1/scaling`",
        1..=86_400,
    ),
    number(
        "gateway.header_ms_max",
        "how long a connection may take to send a request's header, in milliseconds",
        1..=3_600_000,
    ),
    number(
        "gateway.drain_ms_max",
        "how long a drain may take, in milliseconds; callers still waiting then get their handle",
        1..=3_600_000,
    ),
    // -- worker
    Key {
        default: Some("the machine's name"),
        ..text("worker.name", "the node's name; two workers must not share one")
    },
    Key {
        default: Some("the machine's cores"),
        ..number("worker.slots", "how many executions run at once at most", 1..=10_000)
    },
    text("worker.queues", "the queues it serves"),
    text(
        "worker.labels",
        "what all are shown of the node, as `[\"zone=a\"]`: at most 16 names and texts of at most 63 characters",
    ),
    text("worker.cache_dir", "the node's cache of bundles, shared with its sync"),
    text("worker.scratch_dir", "where each execution gets a directory of its own"),
    number(
        "worker.lease_ms",
        "for how long a claim or a renewal makes an execution this node's, in milliseconds",
        500..=600_000,
    ),
    number(
        "worker.renew_ms",
        "how often leases are renewed, in milliseconds; at most a third of `lease_ms`",
        1..=200_000,
    ),
    number(
        "worker.fetch_timeout_ms",
        "how long a bundle may take to come into the cache, in milliseconds",
        1..=DAY_MS,
    ),
    number(
        "worker.full_wait_ms",
        "how long deliveries wait for a slot before a full node gives them back, in milliseconds",
        0..=DAY_MS,
    ),
    number("worker.waiting_max", "how many executions wait for a lock or a limit at most", 1..=100_000),
    number(
        "worker.fence_generation",
        "raised on all workers after ZooKeeper was rebuilt or restored",
        0..=4_294_967_295,
    ),
    number(
        "worker.drain_ms_max",
        "how long a drain waits for what runs before it gives it back, in milliseconds",
        0..=DAY_MS,
    ),
    Key {
        default: Some("this program's own"),
        ..text("worker.shim", "program and arguments that begin a shim")
    },
    // -- sync
    Key { default: Some("`worker.name`"), ..text("sync.name", "the node's name: that of its worker") },
    text("sync.cache_dir", "the node's cache of bundles, shared with its worker"),
    number("sync.transfers_max", "how many bundles are transferred at once at most", 1..=100),
    number(
        "sync.bandwidth_bytes_per_second_max",
        "how many bytes per second all transfers of the node take together at most; 0: no bound",
        0..=i64::MAX as i128,
    ),
    number(
        "sync.versions_max",
        "how many of the youngest versions of each model are fetched before anyone asks, beside those that aliases point at",
        0..=100_000,
    ),
    number(
        "sync.cache_bytes_max",
        "how many bytes of unpacked bundles are kept; beyond it those not used for longest go, down to nine tenths of it",
        1_048_576..=i64::MAX as i128,
    ),
    number(
        "sync.disk_free_bytes_min",
        "how many bytes are kept free on the disk of the cache; below it bundles go, too",
        0..=i64::MAX as i128,
    ),
    number(
        "sync.cache_keep_ms",
        "how long a bundle is safe after it was last used, in milliseconds",
        0..=30 * DAY_MS,
    ),
    // -- monitor
    number(
        "monitor.sweep_ms",
        "how long a sweep waits before it looks again, in milliseconds, give or take half of it",
        10..=60_000,
    ),
    number("monitor.sweep_rows_max", "how many executions a sweep takes at once at most", 1..=10_000),
    number("monitor.lease_ms", "the workers' `lease_ms`", 500..=600_000),
    number("monitor.renew_ms", "the workers' `renew_ms`", 1..=200_000),
    number("monitor.node_events_days", "for how many days events of nodes are kept", 1..=3_650),
    number(
        "monitor.keep_logs_days",
        "for how many days log lines are kept, by whole days (UTC), and no longer than executions; 0: for ever",
        0..=36_500,
    ),
    number(
        "monitor.keep_logs_bytes",
        "how many bytes on the disk the whole log may have before its oldest days are dropped; 0: any number",
        0..=i64::MAX as i128,
    ),
    number(
        "monitor.keep_executions_days",
        "for how many days an execution that ended is kept, with its input and result; 0: for ever",
        0..=36_500,
    ),
    text(
        "monitor.alarm_command",
        "program and arguments that are run when a node is lost or back, with what happened as JSON on stdin",
    ),
    text("monitor.alarm_url", "where the same is posted to"),
    // -- record
    text("record.backend", "`sqlite`, a file for one process (`gantry dev`), or `postgres`"),
    text("record.path", "`sqlite`: the file"),
    text("record.url", "`postgres`: `postgres://user:password@host:5432/database`"),
    text("record.url_file", "`postgres`: a file that holds the URL"),
    number("record.pool_max", "`postgres`: the most connections of this process", 1..=1_000),
    text("record.ca_file", "`postgres`: certificates to trust beside the system's, as PEM"),
    text("record.schema", "`postgres`: the schema, if it is not the user's default"),
    // -- broker
    text("broker.backend", "`embedded`, for one process (`gantry dev`), or `rabbitmq`"),
    text("broker.url", "`rabbitmq`: `amqp://user:password@host:5672/vhost`, or `amqps://`"),
    text("broker.url_file", "`rabbitmq`: a file that holds the URL"),
    text("broker.prefix", "`rabbitmq`: what the names of all exchanges and queues begin with"),
    text("broker.ca_file", "`rabbitmq`: certificates to trust beside the system's, as PEM"),
    // -- coordination
    text("coordination.backend", "`record`, which needs no further server, or `zookeeper`"),
    text("coordination.servers", "`zookeeper`: `host:port,host:port,host:port`"),
    text("coordination.root", "`zookeeper`: the znode everything is under"),
    number(
        "coordination.session_ms",
        "how long what a process announced outlives its last sign of life, in milliseconds",
        4_000..=60_000,
    ),
    text(
        "coordination.user",
        "`zookeeper`: the user of the credential that closes everything under the root to others",
    ),
    text("coordination.password", "`zookeeper`: its password"),
    text("coordination.password_file", "`zookeeper`: a file that holds the password"),
    // -- artifacts
    text("artifacts.backend", "`directory`, one that all processes see, or `s3`"),
    text("artifacts.path", "`directory`: the directory"),
    text("artifacts.endpoint", "`s3`: as `https://s3.example.org`"),
    text("artifacts.region", "`s3`: the region that signatures name"),
    text("artifacts.bucket", "`s3`: the bucket, which must exist"),
    text("artifacts.prefix", "`s3`: what the keys of all objects begin with"),
    text("artifacts.access_key", "`s3`: the key id"),
    text("artifacts.access_key_file", "`s3`: a file that holds the key id"),
    text("artifacts.secret_key", "`s3`: the secret key"),
    text("artifacts.secret_key_file", "`s3`: a file that holds the secret key"),
    text("artifacts.ca_file", "`s3`: certificates to trust instead of the system's, as PEM"),
    // -- log
    text("log.format", "`text` for people, `json` for programs"),
    text("log.filter", "a level, or levels by module: `info,worker=debug`"),
];
