//! What ordinary packers write must be read.

use std::io::{Cursor, Write};
use std::process::Command;

use artifacts::bundle::{inspect, unpack};

use crate::archives::{MANIFEST, gzip};

#[test]
fn a_tar_with_gnu_long_names_is_read() {
    let mut tar = tar::Builder::new(Vec::new());
    let long = format!("{}/{}.py", "d".repeat(120), "f".repeat(120));
    for (name, content) in [("gantry.toml", MANIFEST), (long.as_str(), "print(1)")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let place = tempfile::tempdir().unwrap();
    let packed = place.path().join("packed");
    std::fs::write(&packed, gzip(&tar.into_inner().unwrap())).unwrap();
    unpack(&packed, &place.path().join("it")).unwrap();
    assert_eq!(std::fs::read_to_string(place.path().join("it").join(long)).unwrap(), "print(1)");
}

#[test]
fn a_zip_of_another_writer_is_read() {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
        let name = if method == zip::CompressionMethod::Stored { "gantry.toml" } else { "dir/predict.py" };
        zip.start_file(name, options.compression_method(method)).unwrap();
        zip.write_all(MANIFEST.as_bytes()).unwrap();
    }
    zip.add_directory("empty", options).unwrap();
    inspect(&zip.finish().unwrap().into_inner()).unwrap();
}

/// The four ways in which people pack without us: `tar`, Python's `tarfile` (pax) and `zipfile`, also while streaming.
#[test]
fn what_tar_and_python_pack_is_read() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir_all(source.join("data")).unwrap();
    std::fs::write(source.join("gantry.toml"), MANIFEST).unwrap();
    std::fs::write(source.join("predict.py"), "print(1)").unwrap();
    std::fs::write(source.join("data/Grüße.csv"), "1,2\n").unwrap();
    let script = r#"
import io, os, sys, tarfile, zipfile
os.chdir("source")
with tarfile.open("../pax.tar.gz", "w:gz") as tar:
    tar.add(".")
with tarfile.open("../pax_long.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
    tar.add("gantry.toml")
    tar.add("predict.py", "long/" + "x" * 150 + "/predict.py")
with zipfile.ZipFile("../plain.zip", "w", zipfile.ZIP_DEFLATED) as z:
    for root, _, files in os.walk("."):
        for name in files:
            z.write(os.path.relpath(os.path.join(root, name)))
class Pipe(io.RawIOBase):
    def __init__(self, file): self.file = file
    def writable(self): return True
    def write(self, data): return self.file.write(data)
with open("../streamed.zip", "wb") as out, zipfile.ZipFile(Pipe(out), "w", zipfile.ZIP_DEFLATED) as z:
    z.write("gantry.toml")
    z.write("predict.py")
"#;
    let run = |command: &mut Command| assert!(command.current_dir(place.path()).status().unwrap().success());
    run(Command::new("python3").args(["-c", script]));
    run(Command::new("tar").args(["-czf", "gnu.tar.gz", "-C", "source", "."]));
    run(Command::new("tar").args([
        "-czf",
        "posix.tar.gz",
        "--format=posix",
        "-C",
        "source",
        "gantry.toml",
        "data",
    ]));
    for packed in ["pax.tar.gz", "pax_long.tar.gz", "plain.zip", "streamed.zip", "gnu.tar.gz", "posix.tar.gz"]
    {
        let unpacked = place.path().join("unpacked").join(packed);
        unpack(&place.path().join(packed), &unpacked).unwrap_or_else(|error| panic!("{packed}: {error}"));
        assert_eq!(std::fs::read_to_string(unpacked.join("gantry.toml")).unwrap(), MANIFEST, "{packed}");
    }
}
