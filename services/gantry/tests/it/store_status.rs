use serde_json::Value;
use store::sqlite::{Sqlite, SqliteConfig};

use crate::harness::{Said, gantry};

#[test]
fn the_log_of_a_file_is_told_while_another_process_has_it_and_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record.db");
    let open = Sqlite::open(&SqliteConfig { path: path.clone() }).unwrap();
    for open in [Some(open), None] {
        let output =
            gantry(&["store", "status", "--json", "--path", path.to_str().unwrap()]).output().unwrap();
        let told: Value = serde_json::from_str(&Said::of(output).expect(0).stdout).unwrap();
        assert_eq!((&told[0]["day"], &told[0]["lines"]), (&Value::Null, &Value::from(0)));
        drop(open);
    }
    let output = gantry(&["store", "status", "--path", "/nowhere/record.db"]).output().unwrap();
    Said::of(output).expect(1);
}
