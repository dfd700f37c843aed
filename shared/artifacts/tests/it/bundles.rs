use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use artifacts::bundle::{self, inspect, unpack};
use domain::limits::{BUNDLE_BYTES_MAX, BUNDLE_ENTRIES_MAX};
use flate2::write::DeflateEncoder;
use flate2::{Compression, FlushCompress};
use protocol::ProblemCode::{
    self, BundleCorrupt, BundleCount, BundleLink, BundleManifest, BundlePath, BundleRatio, BundleSize,
    BundleType,
};

use crate::archives::{
    Entry, MANIFEST, Zipped, directory, file, gzip, manifest, plain_tar, special, tar, zip, zip_that_says,
    zipped, zipped_manifest,
};

/// Inspects and unpacks; both must refuse with `code`, and nothing may be left anywhere.
#[track_caller]
fn refused(what: &str, bytes: &[u8], code: ProblemCode) -> String {
    let error = inspect(bytes).expect_err(what);
    assert_eq!(error.code(), code, "{what}: {error}");
    let place = tempfile::tempdir().unwrap();
    let packed = place.path().join("packed");
    fs::write(&packed, bytes).unwrap();
    let unpacked = unpack(&packed, &place.path().join("bundles/it")).expect_err(what);
    assert_eq!(unpacked.code(), code, "{what}: {unpacked}");
    assert_eq!(tree(place.path()), ["bundles", "packed"], "{what}");
    error.to_string()
}

/// Everything below `root`, as relative paths in order.
fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, directory: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            if path.is_dir() && !path.is_symlink() {
                walk(root, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let packed = place.path().join("packed");
    fs::write(&packed, bytes).unwrap();
    let destination = place.path().join("bundles/it");
    inspect(bytes).unwrap();
    unpack(&packed, &destination).unwrap();
    (place, destination)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn both(entries: &[(&str, &[u8], u32)]) -> [Vec<u8>; 2] {
    let tarred: Vec<Entry> =
        entries.iter().map(|(name, content, mode)| Entry { mode: *mode, ..file(name, content) }).collect();
    let zipped: Vec<Zipped> = entries
        .iter()
        .map(|(name, content, mode)| Zipped { mode: 0o100_000 | mode, ..zipped(name, content) })
        .collect();
    [tar(&tarred), zip(&zipped)]
}

#[test]
fn a_bundle_becomes_a_read_only_directory_in_either_format() {
    let entries: [(&str, &[u8], u32); 4] = [
        ("gantry.toml", MANIFEST.as_bytes(), 0o600),
        ("predict.py", b"print(1)\n", 0o777),
        ("data/deep/iris.csv", b"5.1,3.5\n", 0o644),
        ("empty", b"", 0o4755),
    ];
    for bytes in both(&entries) {
        let (place, bundle) = unpacked(&bytes);
        assert_eq!(
            tree(&bundle),
            ["data", "data/deep", "data/deep/iris.csv", "empty", "gantry.toml", "predict.py"]
        );
        for (name, content, _) in entries {
            assert_eq!(fs::read(bundle.join(name)).unwrap(), content, "{name}");
        }
        assert_eq!(mode(&bundle.join("gantry.toml")), 0o444);
        assert_eq!(mode(&bundle.join("predict.py")), 0o555);
        assert_eq!(mode(&bundle.join("empty")), 0o555, "the setuid bit is gone");
        assert_eq!(mode(&bundle.join("data/deep")), 0o555);
        assert_eq!(mode(&bundle), 0o555);
        assert_eq!(tree(place.path())[..3], ["bundles", "bundles/it", "bundles/it/data"]);
    }
}

#[test]
fn unpacking_again_changes_nothing_and_removing_takes_everything() {
    let [bytes, _] = both(&[("gantry.toml", MANIFEST.as_bytes(), 0o644), ("a/b/c", b"c", 0o644)]);
    let (place, bundle) = unpacked(&bytes);
    let before = fs::metadata(&bundle).unwrap().ino();
    unpack(&place.path().join("packed"), &bundle).unwrap();
    assert_eq!(fs::metadata(&bundle).unwrap().ino(), before);
    bundle::remove(&bundle).unwrap();
    assert_eq!(tree(place.path()), ["bundles", "packed"]);
    bundle::remove(&bundle).unwrap();
}

#[test]
fn many_who_unpack_the_same_bundle_at_once_all_find_it_complete() {
    let [bytes, _] = both(&[("gantry.toml", MANIFEST.as_bytes(), 0o644), ("a", b"a", 0o644)]);
    let place = tempfile::tempdir().unwrap();
    let (packed, bundle) = (place.path().join("packed"), place.path().join("bundles/it"));
    fs::write(&packed, bytes).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                unpack(&packed, &bundle).unwrap();
                assert_eq!(tree(&bundle), ["a", "gantry.toml"]);
            });
        }
    });
    assert_eq!(
        tree(place.path()),
        ["bundles", "bundles/it", "bundles/it/a", "bundles/it/gantry.toml", "packed"]
    );
}

#[test]
fn a_dot_in_front_as_tar_writes_it_is_dropped() {
    let (_place, bundle) = unpacked(&tar(&[
        directory("./"),
        file("./gantry.toml", MANIFEST.as_bytes()),
        directory("./src/"),
        file("./src/a.py", b""),
    ]));
    assert_eq!(tree(&bundle), ["gantry.toml", "src", "src/a.py"]);
}

/// B01, B07.
#[test]
fn a_path_that_could_leave_the_bundle_or_surprise_is_refused() {
    let long = "a".repeat(256);
    let longest = "a/".repeat(600);
    let deep = "a/".repeat(33);
    let paths = [
        "../x",
        "a/../../x",
        "/etc/cron.d/x",
        "C:\\x",
        "a\\..\\x",
        "//x",
        "a//x",
        "a/./x",
        "a/..",
        "..",
        "",
        "/",
        "././x",
        "a\nb",
        "a\u{7f}",
        "x\u{1b}[2J",
        &long,
        &longest,
        &deep,
    ];
    for path in paths {
        // A slash at the end makes a directory, which has no content.
        let content: &[u8] = if path.ends_with('/') { b"" } else { b"harm" };
        // A tar header has room for 100 bytes; what is longer comes in an extended header.
        let name = special("././@LongLink", b'L', "");
        let named =
            [manifest(), Entry { content: [path.as_bytes(), b"\0"].concat(), ..name }, file("x", content)];
        refused(path, &tar(&named), BundlePath);
        if path.len() <= 100 && !path.is_empty() {
            refused(path, &tar(&[manifest(), file(path, content)]), BundlePath);
        }
        let entry = zipped(path, content);
        refused(path, &zip(&[zipped_manifest(), entry]), BundlePath);
    }
    let latin: &[u8] = b"caf\xe9";
    refused("latin-1", &tar(&[manifest(), Entry { name: latin.into(), ..file("", b"") }]), BundlePath);
    let entry = Zipped { name: latin.into(), local_name: latin.into(), ..zipped("", b"") };
    refused("latin-1", &zip(&[zipped_manifest(), entry]), BundlePath);
    let nul: &[u8] = b"a\0b";
    let entry = Zipped { name: nul.into(), local_name: nul.into(), ..zipped("", b"") };
    refused("NUL", &zip(&[zipped_manifest(), entry]), BundlePath);
}

#[test]
fn two_entries_that_are_one_where_case_does_not_count_are_refused() {
    for names in
        [["a", "a"], ["a", "A"], ["dir/x", "DIR/y"], ["a", "a/b"], ["a/b", "a"], ["straße", "STRASSE/../a"]]
    {
        let tarred = [&[manifest()][..], &names.map(|name| file(name, b""))].concat();
        refused(&names.join(" "), &tar(&tarred), BundlePath);
        let zipped = [&[zipped_manifest()][..], &names.map(|name| zipped(name, b""))].concat();
        refused(&names.join(" "), &zip(&zipped), BundlePath);
    }
    refused("directories", &tar(&[manifest(), directory("a/"), directory("A/")]), BundlePath);
    refused("file, directory", &tar(&[manifest(), file("a", b""), directory("a/")]), BundlePath);
}

/// B02, B03.
#[test]
fn a_link_of_any_kind_is_refused() {
    for target in ["/", "..", "gantry.toml", "/etc/passwd"] {
        for kind in [b'1', b'2'] {
            let through = [manifest(), special("link", kind, target), file("link/x", b"harm")];
            refused(target, &tar(&through), BundleLink);
        }
        let link = Zipped { mode: 0o120_777, ..zipped("link", target.as_bytes()) };
        refused(target, &zip(&[zipped_manifest(), link.clone(), zipped("link/x", b"harm")]), BundleLink);
        // Chained, and dressed as a directory.
        let second = Zipped { mode: 0o120_777, ..zipped("second", b"link") };
        refused(target, &zip(&[zipped_manifest(), link, second]), BundleLink);
        let dressed = Zipped { mode: 0o120_777, ..zipped("link/", b"") };
        refused(target, &zip(&[zipped_manifest(), dressed]), BundleLink);
    }
    refused("GNU long link", &tar(&[manifest(), special("././@LongLink", b'K', "")]), BundleLink);
    let pax = Entry { content: b"21 linkpath=/etc/pwd\n".to_vec(), ..special("x", b'x', "") };
    refused("pax link", &tar(&[manifest(), pax, file("a", b"")]), BundleLink);
    // RUSTSEC-2026-0368, CVE-2026-115909: a link whose size would be allocated.
    let huge = Zipped { mode: 0o120_777, size: u32::MAX, ..zipped("link", b"/") };
    refused("huge link", &zip(&[zipped_manifest(), huge]), BundleLink);
}

/// B04.
#[test]
fn what_is_neither_file_nor_directory_is_refused() {
    for kind in [b'3', b'4', b'6', b'7', b'S', b'D', b'M', b'V', b'Z'] {
        refused("type", &tar(&[manifest(), special("x", kind, "")]), BundleType);
    }
    let sparse = Entry { content: b"22 GNU.sparse.major=1\n".to_vec(), ..special("x", b'x', "") };
    refused("sparse", &tar(&[manifest(), sparse, file("a", b"")]), BundleType);
    for kind in [0o010_000, 0o020_000, 0o060_000, 0o140_000] {
        let entry = Zipped { mode: kind | 0o644, ..zipped("x", b"") };
        refused("type", &zip(&[zipped_manifest(), entry]), BundleType);
    }
}

/// A gzip of `before` and then `mebibytes` of zeros: made of one compressed piece that is repeated.
fn gzip_bomb(before: &[u8], mebibytes: usize) -> Vec<u8> {
    let piece = |bytes: &[u8]| {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.flush().unwrap();
        encoder.get_ref().clone()
    };
    // A full flush ends at a byte and forgets its window, so that the piece can follow itself.
    let mut compress = flate2::Compress::new(Compression::best(), false);
    let mut zeros = Vec::with_capacity(1 << 16);
    compress.compress_vec(&vec![0; 1 << 20], &mut zeros, FlushCompress::Full).unwrap();
    let mut bomb = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03".to_vec();
    bomb.extend(piece(before));
    for _ in 0..mebibytes {
        bomb.extend_from_slice(&zeros);
    }
    bomb
}

/// B06, B10.
#[test]
fn a_bomb_is_refused_while_it_is_read() {
    let headers = |files: &[Entry]| {
        let mut tar = plain_tar(&[&[manifest()][..], files].concat());
        tar.truncate(tar.len() - 1024);
        tar
    };
    let zeros = |size: u64| Entry { size: Some(size), ..file("zeros", b"") };
    refused("8 GiB in one file", &gzip_bomb(&headers(&[zeros((8 << 30) - 1)]), 64), BundleSize);
    refused("grows a thousandfold", &gzip_bomb(&headers(&[zeros(64 << 20)]), 64), BundleRatio);
    refused(
        "a long name of 8 GiB",
        &gzip_bomb(&headers(&[Entry { kind: b'L', ..zeros((8 << 30) - 1) }]), 64),
        BundlePath,
    );

    let noise: Vec<u8> = {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..2 << 20).map(|_| next()).collect()
    };
    let many: Vec<Entry> =
        (0..5).map(|n| Entry { name: format!("{n}").into(), ..file("", &vec![0; 60 << 20]) }).collect();
    let many = [&[manifest(), file("noise", &noise)][..], &many].concat();
    refused("300 MiB in all", &tar(&many), BundleSize);
    let thousandfold = zipped("zeros", &vec![0; 32 << 20]);
    refused("a zip that grows a thousandfold", &zip(&[zipped_manifest(), thousandfold.clone()]), BundleRatio);
    let liar = Zipped { size: 10, ..thousandfold };
    refused("a zip that says less", &zip(&[zipped_manifest(), liar]), BundleCorrupt);
    let huge = Zipped { size: u32::MAX, ..zipped("huge", b"x") };
    refused("ZIP64 sizes", &zip(&[zipped_manifest(), huge]), BundleSize);
    // Entries that share their bytes, the densest bombs.
    let manifest_bytes = zip(&[zipped_manifest()]).len() as u32;
    let first = zipped("first", b"first");
    let shared = Zipped {
        offset: Some(30 + 11 + zipped_manifest().packed.len() as u32),
        local_name: b"first".into(),
        ..first.clone()
    };
    assert!(manifest_bytes > 0);
    let second = Zipped { name: b"first".into(), ..shared };
    refused("overlap", &zip(&[zipped_manifest(), first, second]), BundleCorrupt);
    refused("too large, packed", &vec![0x1f; BUNDLE_BYTES_MAX + 1], BundleSize);
}

/// B07.
#[test]
fn too_many_entries_are_refused() {
    let numbered: Vec<String> = (0..=BUNDLE_ENTRIES_MAX).map(|n| n.to_string()).collect();
    let tarred: Vec<Entry> = numbered.iter().map(|name| file(name, b"")).collect();
    let zipped: Vec<Zipped> = numbered.iter().map(|name| zipped(name, b"")).collect();
    assert_eq!(inspect(&tar(&tarred)).unwrap_err().code(), BundleCount);
    assert_eq!(inspect(&zip(&zipped)).unwrap_err().code(), BundleCount);
    refused("a zip that says so", &zip_that_says(&[zipped_manifest()], u16::MAX), BundleCount);
    // Directories that are only implied count as well.
    let deep: Vec<Entry> = (0..400).map(|n| file(&format!("{n}/{}x", "a/".repeat(28)), b"")).collect();
    assert_eq!(inspect(&tar(&deep)).unwrap_err().code(), BundleCount);
}

/// B12.
#[test]
fn what_is_cut_short_or_goes_on_or_has_changed_is_refused() {
    let entries: [(&str, &[u8], u32); 2] =
        [("gantry.toml", MANIFEST.as_bytes(), 0o644), ("a", &[7; 5000], 0o644)];
    for good in both(&entries) {
        inspect(&good).unwrap();
        for length in [0, 1, 2, 4, 10, good.len() / 2, good.len() - 9, good.len() - 1] {
            refused("cut", &good[..length], BundleCorrupt);
        }
        refused("trailing garbage", &[&good[..], b"garbage"].concat(), BundleCorrupt);
        // Whatever a flipped bit means, it ends in an answer.
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            drop(inspect(&bad));
        }
    }
    let [gzipped, zipped_bytes] = both(&entries);
    let mut wrong_crc = gzipped.clone();
    let end = wrong_crc.len() - 8;
    wrong_crc[end] ^= 1;
    refused("gzip checksum", &wrong_crc, BundleCorrupt);
    refused(
        "zip checksum",
        &zip(&[zipped_manifest(), Zipped { crc: 1, ..zipped("a", b"a") }]),
        BundleCorrupt,
    );
    refused("encrypted", &zip(&[zipped_manifest(), Zipped { flags: 1, ..zipped("a", b"a") }]), BundleCorrupt);
    refused("method", &zip(&[zipped_manifest(), Zipped { method: 93, ..zipped("a", b"a") }]), BundleCorrupt);
    let other = Zipped { local_name: b"b".into(), ..zipped("a", b"a") };
    refused("two names", &zip(&[zipped_manifest(), other]), BundleCorrupt);
    refused("two gzip members", &[&gzipped[..], &gzipped].concat(), BundleCorrupt);
    refused("two zips", &[&zipped_bytes[..], &zipped_bytes].concat(), BundleCorrupt);
    let mut after = plain_tar(&[manifest()]);
    after.extend(plain_tar(&[file("hidden", b"")]));
    refused("a tar after the tar", &gzip(&after), BundleCorrupt);
    let mut no_end = plain_tar(&[manifest()]);
    no_end.truncate(no_end.len() - 1024);
    refused("no end marker", &gzip(&no_end), BundleCorrupt);
    let mut header = plain_tar(&[manifest()]);
    header[0] ^= 1;
    refused("tar checksum", &gzip(&header), BundleCorrupt);
    refused("neither", b"#!/bin/sh\n", BundleCorrupt);
    let lonely = Entry { content: b"name\0".to_vec(), ..special("././@LongLink", b'L', "") };
    refused("a name without an entry", &tar(&[manifest(), lonely]), BundleCorrupt);
}

/// B14, B15.
#[test]
fn a_manifest_that_is_missing_or_wrong_is_refused_with_what_was_found() {
    let with =
        |text: &str, rest: &[Entry]| tar(&[&[file("gantry.toml", text.as_bytes())][..], rest].concat());
    let run = |program: &str| format!("runtime = \"process\"\ncommand = [\"{program}\"]\n");
    for (what, bytes, says) in [
        ("empty", tar(&[]), "empty"),
        ("missing", tar(&[file("a", b""), file("b/c", b"")]), "found a, b"),
        ("wrapped", tar(&[file("iris/gantry.toml", MANIFEST.as_bytes())]), "pack what is in iris/"),
        ("directory", tar(&[directory("gantry.toml/")]), "found gantry.toml"),
        ("not UTF-8", tar(&[file("gantry.toml", b"\xff")]), "UTF-8"),
        ("too large", tar(&[file("gantry.toml", &vec![b'#'; 65 << 10])]), "bytes"),
        ("typo", with("runtime = \"process\"\ncommand = [\"sh\"]\nquue = \"a\"\n", &[]), "line 3, column 1"),
        ("network", with("runtime = \"process\"\ncommand = [\"sh\"]\nnetwork = true\n", &[]), "network"),
        ("runtime", with("runtime = \"java\"\n", &[]), "java"),
        ("program missing", with(&run("./run"), &[]), "not in the bundle"),
        ("program missing below", with(&run("bin/run"), &[]), "not in the bundle"),
        ("program outside", with(&run("../run"), &[]), ".."),
        ("program is a directory", with(&run("run"), &[directory("run/")]), "directory"),
        ("program not executable", with(&run("run.sh"), &[file("run.sh", b"")]), "chmod +x"),
    ] {
        let error = refused(what, &bytes, BundleManifest);
        assert!(error.contains(says), "{what}: {error}");
    }
    for program in ["run", "./run"] {
        inspect(&with(&run(program), &[Entry { mode: 0o755, ..file("run", b"") }])).unwrap();
    }
    for program in ["python3", "/usr/bin/env"] {
        inspect(&with(&run(program), &[])).unwrap();
    }
}
