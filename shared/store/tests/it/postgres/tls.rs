use store::postgres::{Postgres, PostgresConfig};
use store::{Record, Recovery, StoreError};
use testkit::{fresh_name, servers};

use crate::contract::OnPostgres;

/// Connects with `sslmode` and says whether the server calls the connection encrypted.
async fn is_encrypted(
    fixture: &OnPostgres,
    sslmode: &str,
    ca_file: Option<std::path::PathBuf>,
) -> Result<bool, StoreError> {
    let name = fresh_name("tls");
    let url = format!("{}?sslmode={sslmode}&application_name={name}", servers().postgres());
    let config = PostgresConfig { url, ca_file, ..fixture.config.clone() };
    let record = Postgres::connect(&config).await?;
    record.ping().await?;
    let sql = "select ssl from pg_stat_ssl join pg_stat_activity using (pid) where application_name = $1";
    Ok(fixture.client.query_one(sql, &[&name]).await.unwrap().get(0))
}

#[tokio::test]
async fn the_link_is_encrypted_and_vouched_for_as_the_url_asks() {
    let fixture = OnPostgres::new().await;
    let ca = Some(servers().postgres_ca());
    for (sslmode, ca_file, expected) in [
        ("disable", None, false),
        ("disable", ca.clone(), false),
        ("prefer", None, true),
        ("prefer", ca.clone(), true),
        ("require", ca.clone(), true),
        ("verify-full", ca, true),
    ] {
        let encrypted = is_encrypted(&fixture, sslmode, ca_file.clone()).await.unwrap();
        assert_eq!(encrypted, expected, "sslmode={sslmode} with {ca_file:?}");
    }
}

#[tokio::test]
async fn a_server_nobody_vouches_for_is_refused() {
    let fixture = OnPostgres::new().await;
    // The system knows no authority that signed the test server's certificate; nor does this one.
    let directory = tempfile::tempdir().unwrap();
    let stranger = directory.path().join("ca.pem");
    std::fs::write(&stranger, STRANGER).unwrap();
    for (sslmode, ca_file) in [("require", None), ("prefer", Some(stranger))] {
        let refused = is_encrypted(&fixture, sslmode, ca_file).await;
        assert!(matches!(refused, Err(StoreError::Connect(_))), "sslmode={sslmode}: {refused:?}");
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_not_worth_a_second_try() {
    let fixture = OnPostgres::new().await;
    let usable = &fixture.config;
    for config in [
        PostgresConfig { ca_file: Some("/nowhere/ca.pem".into()), ..usable.clone() },
        PostgresConfig { url: "postgres://h:port/db".to_owned(), ..usable.clone() },
        PostgresConfig { schema: Some("a; drop table".to_owned()), ..usable.clone() },
    ] {
        let refused = Postgres::connect(&config).await.err().unwrap();
        assert_eq!(refused.recovery(), Recovery::Permanent, "{refused:?}");
    }
}

/// The certificate of an authority that signed nothing.
const STRANGER: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBnzCCAUWgAwIBAgIUZ2NHxR3fDeEeF6lWVfvEZrR390QwCgYIKoZIzj0EAwIw\n\
JDEiMCAGA1UEAwwZc29tZWJvZHkgZWxzZSdzIGF1dGhvcml0eTAgFw0yNjExMjIy\n\
MzQ0MzhaGA8yMTI2MTAyOTIzNDQzOFowJDEiMCAGA1UEAwwZc29tZWJvZHkgZWxz\n\
ZSdzIGF1dGhvcml0eTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABC5hflrP95pS\n\
g+oaUl9U5u3FCk2CiWRlatbJduAqR0AlOYqeCqh40GHVW0heb/P5LmvkLYVCemJ7\n\
wh2bJc8nF/+jUzBRMB0GA1UdDgQWBBQ1px2HO/pRBddAAJUbhkLTCXkxHzAfBgNV\n\
HSMEGDAWgBQ1px2HO/pRBddAAJUbhkLTCXkxHzAPBgNVHRMBAf8EBTADAQH/MAoG\n\
CCqGSM49BAMCA0gAMEUCIF5kLU1VBSYtLzFyuDkE1KJFL5f9qsruFVS0T2wF2Ttw\n\
AiEAhQiqf8aC+Qbdisxf+M07daSlCA0QzS3lhwBo1ZhTk9I=\n\
-----END CERTIFICATE-----\n\
";
