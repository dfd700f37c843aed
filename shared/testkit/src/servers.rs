use std::env;
use std::path::PathBuf;

/// The shared servers of a test run. Each is looked up when it is asked for, so that a test needs only those it uses.
#[derive(Debug, Clone, Copy)]
pub struct Servers(());

/// How to reach the S3 server.
#[derive(Debug, Clone)]
pub struct S3Access {
    /// Its address, as `http://127.0.0.1:9000`; buckets are addressed by path.
    pub endpoint: String,
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret_key: String,
    /// A bucket that exists; a test works below a key prefix of its own.
    pub bucket: String,
}

/// The servers that `compose/test` started.
#[must_use]
pub const fn servers() -> Servers {
    Servers(())
}

impl Servers {
    /// A `postgres://` URL; its role owns the database and may make schemas. The server also speaks TLS.
    ///
    /// # Panics
    /// As all of these, if the server is not there.
    #[must_use]
    pub fn postgres(self) -> String {
        variable("GANTRY_TEST_POSTGRES")
    }

    /// The certificate authority that signed PostgreSQL's certificate, a PEM file.
    #[must_use]
    pub fn postgres_ca(self) -> PathBuf {
        variable("GANTRY_TEST_POSTGRES_CA").into()
    }

    /// An `amqp://` URL whose user may do everything on its virtual host.
    #[must_use]
    pub fn amqp(self) -> String {
        variable("GANTRY_TEST_AMQP")
    }

    /// The same broker over TLS, as `amqps://localhost:..`.
    #[must_use]
    pub fn amqps(self) -> String {
        variable("GANTRY_TEST_AMQPS")
    }

    /// The certificate authority that signed the broker's certificate, a PEM file.
    #[must_use]
    pub fn amqp_ca(self) -> PathBuf {
        variable("GANTRY_TEST_AMQP_CA").into()
    }

    /// `host:port` of ZooKeeper.
    #[must_use]
    pub fn zookeeper(self) -> String {
        variable("GANTRY_TEST_ZOOKEEPER")
    }

    /// The S3 server.
    #[must_use]
    pub fn s3(self) -> S3Access {
        S3Access {
            endpoint: variable("GANTRY_TEST_S3_ENDPOINT"),
            access_key: variable("GANTRY_TEST_S3_ACCESS_KEY"),
            secret_key: variable("GANTRY_TEST_S3_SECRET_KEY"),
            bucket: variable("GANTRY_TEST_S3_BUCKET"),
        }
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: this test needs a real server. Run `make test`, or a part of it with \
             `compose/test -p <crate> [filter]`; to keep servers up between runs: `eval \"$(compose/test --up DIR)\"`"
        )
    })
}

/// A name nobody else has, such as `t_claims_1f0c9a6b2d44`: fits a schema, an AMQP prefix, a znode, a bucket or a key prefix.
///
/// `what` is lower-case letters and digits, at most 20.
#[must_use]
pub fn fresh_name(what: &str) -> String {
    assert!(
        what.len() <= 20 && what.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()),
        "not a part of a name: {what}"
    );
    format!("t_{what}_{:012x}", rand::random::<u64>() >> 16)
}
