use std::collections::BTreeMap;
use std::io::Read;

use domain::limits::MANIFEST_BYTES_MAX;
use domain::{Manifest, Runtime};
use protocol::ProblemCode;

use super::content::pump;
use super::{BundleError, Visitor};

const MANIFEST: &str = "gantry.toml";

/// What a bundle holds, and the text of its manifest.
#[derive(Default)]
pub(super) struct Contents {
    entries: BTreeMap<String, Entry>,
    text: Option<Vec<u8>>,
}

enum Entry {
    Directory,
    File { executable: bool },
}

impl Visitor for Contents {
    fn directory(&mut self, path: &str) -> Result<(), BundleError> {
        self.entries.insert(path.to_owned(), Entry::Directory);
        Ok(())
    }

    fn file(&mut self, path: &str, executable: bool, content: &mut dyn Read) -> Result<(), BundleError> {
        self.entries.insert(path.to_owned(), Entry::File { executable });
        if path != MANIFEST {
            return pump(content, |_| Ok(()));
        }
        let mut text = Vec::new();
        pump(content, |piece| {
            if text.len() + piece.len() > MANIFEST_BYTES_MAX {
                return Err(refused(format!("{MANIFEST} has more than {MANIFEST_BYTES_MAX} bytes")));
            }
            text.extend_from_slice(piece);
            Ok(())
        })?;
        self.text = Some(text);
        Ok(())
    }
}

impl Contents {
    /// The manifest, if it is there and fits what else is there.
    pub(super) fn manifest(mut self) -> Result<Manifest, BundleError> {
        let Some(text) = self.text.take() else { return Err(refused(self.no_manifest())) };
        let text = String::from_utf8(text).map_err(|_| refused(format!("{MANIFEST} is not UTF-8")))?;
        let manifest = Manifest::parse(&text).map_err(|error| refused(error.to_string()))?;
        if manifest.runtime == Runtime::Process
            && let Some(program) = manifest.command.first()
        {
            self.check_program(program)?;
        }
        Ok(manifest)
    }

    /// A program of the bundle must be there and executable; one without a slash that the bundle does not hold is
    /// found on `PATH`, and one with an absolute path on the node, where only the worker can look.
    fn check_program(&self, program: &str) -> Result<(), BundleError> {
        let path = program.strip_prefix("./").unwrap_or(program);
        match self.entries.get(path) {
            Some(Entry::File { executable: true }) => Ok(()),
            Some(Entry::File { executable: false }) => Err(refused(format!(
                "command names {program:?}, which is in the bundle but not executable: chmod +x it before packing, \
                 or put its interpreter in front"
            ))),
            Some(Entry::Directory) => {
                Err(refused(format!("command names {program:?}, which is a directory")))
            }
            None if program.contains('/') && !program.starts_with('/') => {
                Err(refused(format!("command names {program:?}, which is not in the bundle")))
            }
            None => Ok(()),
        }
    }

    fn no_manifest(&self) -> String {
        let wrapped = self.entries.keys().find(|path| {
            path.strip_suffix(MANIFEST)
                .and_then(|parent| parent.strip_suffix('/'))
                .is_some_and(|parent| !parent.contains('/'))
        });
        if let Some(path) = wrapped {
            let directory = path.trim_end_matches(MANIFEST);
            return format!(
                "no {MANIFEST} at the root, but there is {path}: pack what is in {directory}, not {directory} itself"
            );
        }
        let roots: Vec<&str> =
            self.entries.keys().filter(|path| !path.contains('/')).map(String::as_str).take(6).collect();
        match roots.as_slice() {
            [] => format!("no {MANIFEST}: the bundle is empty"),
            [first @ .., _] if first.len() == 5 => {
                format!("no {MANIFEST} at the root; found {}, ...", first.join(", "))
            }
            all => format!("no {MANIFEST} at the root; found {}", all.join(", ")),
        }
    }
}

fn refused(reason: impl Into<String>) -> BundleError {
    BundleError::refused(ProblemCode::BundleManifest, reason)
}
