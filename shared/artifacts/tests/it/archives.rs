//! Writes tars and zips byte by byte, so that they can say what no packer would.

use std::io::Write;

use flate2::write::{DeflateEncoder, GzEncoder};
use flate2::{Compression, Crc};

pub const MANIFEST: &str = "runtime = \"process\"\ncommand = [\"python3\", \"predict.py\"]\n";

/// An entry of a tar.
#[derive(Clone)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: u8,
    pub mode: u32,
    pub link: &'static str,
    pub content: Vec<u8>,
    /// What the header says, if not the truth.
    pub size: Option<u64>,
}

pub fn file(name: &str, content: &[u8]) -> Entry {
    Entry { name: name.into(), kind: b'0', mode: 0o644, link: "", content: content.to_vec(), size: None }
}

pub fn directory(name: &str) -> Entry {
    Entry { kind: b'5', mode: 0o755, ..file(name, b"") }
}

pub fn special(name: &str, kind: u8, link: &'static str) -> Entry {
    Entry { kind, link, ..file(name, b"") }
}

pub fn manifest() -> Entry {
    file("gantry.toml", MANIFEST.as_bytes())
}

/// An uncompressed tar, with its end marker.
pub fn plain_tar(entries: &[Entry]) -> Vec<u8> {
    let mut tar = Vec::new();
    for entry in entries {
        let mut header = [0_u8; 512];
        let name = &entry.name[..entry.name.len().min(100)];
        header[..name.len()].copy_from_slice(name);
        write!(&mut header[100..], "{:07o}\0", entry.mode).unwrap();
        write!(&mut header[108..], "{:07o}\0{:07o}\0", 0, 0).unwrap();
        let size = entry.size.unwrap_or(entry.content.len() as u64);
        write!(&mut header[124..], "{size:011o}\0{:011o}\0        ", 0).unwrap();
        header[156] = entry.kind;
        header[157..157 + entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        write!(&mut header[148..], "{sum:06o}\0 ").unwrap();
        tar.extend_from_slice(&header);
        tar.extend_from_slice(&entry.content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn tar(entries: &[Entry]) -> Vec<u8> {
    gzip(&plain_tar(entries))
}

/// An entry of a zip, with everything its headers say.
#[derive(Clone)]
pub struct Zipped {
    pub name: Vec<u8>,
    /// What the local header calls it.
    pub local_name: Vec<u8>,
    pub mode: u32,
    pub flags: u16,
    pub method: u16,
    pub packed: Vec<u8>,
    pub crc: u32,
    pub size: u32,
    /// Where the directory says it is, if not where it is.
    pub offset: Option<u32>,
}

pub fn zipped(name: &str, content: &[u8]) -> Zipped {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    let mut crc = Crc::new();
    crc.update(content);
    Zipped {
        name: name.into(),
        local_name: name.into(),
        mode: 0o100_644,
        flags: 0,
        method: 8,
        packed: encoder.finish().unwrap(),
        crc: crc.sum(),
        size: content.len() as u32,
        offset: None,
    }
}

pub fn zipped_manifest() -> Zipped {
    zipped("gantry.toml", MANIFEST.as_bytes())
}

pub fn zip(entries: &[Zipped]) -> Vec<u8> {
    zip_that_says(entries, entries.len() as u16)
}

/// A zip whose end record says that it has `count` entries.
pub fn zip_that_says(entries: &[Zipped], count: u16) -> Vec<u8> {
    let mut zip = Vec::new();
    let mut directory = Vec::new();
    for entry in entries {
        let offset = zip.len() as u32;
        zip.extend_from_slice(b"PK\x03\x04\x14\x00");
        common(&mut zip, entry);
        short(&mut zip, entry.local_name.len() as u16);
        short(&mut zip, 0);
        zip.extend_from_slice(&entry.local_name);
        zip.extend_from_slice(&entry.packed);

        directory.extend_from_slice(b"PK\x01\x02\x14\x03\x14\x00");
        common(&mut directory, entry);
        short(&mut directory, entry.name.len() as u16);
        directory.extend_from_slice(&[0; 8]);
        long(&mut directory, entry.mode << 16);
        long(&mut directory, entry.offset.unwrap_or(offset));
        directory.extend_from_slice(&entry.name);
    }
    let start = zip.len() as u32;
    zip.extend_from_slice(&directory);
    zip.extend_from_slice(b"PK\x05\x06\x00\x00\x00\x00");
    short(&mut zip, count);
    short(&mut zip, count);
    long(&mut zip, directory.len() as u32);
    long(&mut zip, start);
    short(&mut zip, 0);
    zip
}

/// What both headers of an entry say.
fn common(zip: &mut Vec<u8>, entry: &Zipped) {
    short(zip, entry.flags);
    short(zip, entry.method);
    long(zip, 0);
    long(zip, entry.crc);
    long(zip, entry.packed.len() as u32);
    long(zip, entry.size);
}

fn short(zip: &mut Vec<u8>, number: u16) {
    zip.extend_from_slice(&number.to_le_bytes());
}

fn long(zip: &mut Vec<u8>, number: u32) {
    zip.extend_from_slice(&number.to_le_bytes());
}
