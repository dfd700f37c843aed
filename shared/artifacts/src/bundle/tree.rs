use std::collections::HashMap;

use domain::limits::{
    BUNDLE_ENTRIES_MAX, BUNDLE_PATH_BYTES_MAX, BUNDLE_PATH_DEPTH_MAX, BUNDLE_PATH_PART_BYTES_MAX,
};
use protocol::ProblemCode;

use super::BundleError;

/// The path an archive wrote as `raw`, if it keeps the rules; `None` for the root itself (`./`).
pub(super) fn check_path(raw: &[u8]) -> Result<Option<String>, BundleError> {
    let refuse = |what: &str| {
        let shown: String = String::from_utf8_lossy(raw).chars().take(100).collect();
        Err(BundleError::refused(ProblemCode::BundlePath, format!("path {shown:?} {what}")))
    };
    if raw.len() > BUNDLE_PATH_BYTES_MAX {
        return refuse(&format!("is longer than {BUNDLE_PATH_BYTES_MAX} bytes"));
    }
    let Ok(path) = str::from_utf8(raw) else { return refuse("is not UTF-8") };
    if path.chars().any(|c| c == '\\' || c.is_control()) {
        return refuse("contains a backslash or a control character");
    }
    let path = path.strip_prefix("./").unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() || path == "." {
        return if raw.starts_with(b".") { Ok(None) } else { refuse("is absolute or empty") };
    }
    if path.starts_with('/') {
        return refuse("is absolute");
    }
    let mut depth = 0;
    for part in path.split('/') {
        depth += 1;
        match part {
            "" | "." | ".." => return refuse("has an empty part, `.` or `..` in it"),
            part if part.len() > BUNDLE_PATH_PART_BYTES_MAX => {
                return refuse(&format!("has a part longer than {BUNDLE_PATH_PART_BYTES_MAX} bytes"));
            }
            _ => {}
        }
    }
    if depth > BUNDLE_PATH_DEPTH_MAX {
        return refuse(&format!("is deeper than {BUNDLE_PATH_DEPTH_MAX}"));
    }
    Ok(Some(path.to_owned()))
}

/// Everything the bundle has named so far, by its case-folded path, parents that were only implied included.
#[derive(Default)]
pub(super) struct Tree {
    entries: HashMap<String, Known>,
}

struct Known {
    path: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    /// A parent that has not had an entry of its own yet.
    Implied,
}

impl Tree {
    /// Notes a file; returns the parents that must be made for it, outermost first.
    pub(super) fn add_file(&mut self, path: &str) -> Result<Vec<String>, BundleError> {
        let made = self.add_parents(path)?;
        self.add(path, Kind::File)?;
        Ok(made)
    }

    /// Notes a directory; returns what must be made, itself last (unless it was implied before).
    pub(super) fn add_directory(&mut self, path: &str) -> Result<Vec<String>, BundleError> {
        let mut made = self.add_parents(path)?;
        if self.add(path, Kind::Directory)? {
            made.push(path.to_owned());
        }
        Ok(made)
    }

    fn add_parents(&mut self, path: &str) -> Result<Vec<String>, BundleError> {
        let mut made = Vec::new();
        for (slash, _) in path.match_indices('/') {
            let parent = &path[..slash];
            if self.add(parent, Kind::Implied)? {
                made.push(parent.to_owned());
            }
        }
        Ok(made)
    }

    /// Returns whether it is new.
    fn add(&mut self, path: &str, kind: Kind) -> Result<bool, BundleError> {
        if let Some(known) = self.entries.get_mut(&path.to_lowercase()) {
            let compatible = match (known.kind, kind) {
                (Kind::Directory | Kind::Implied, Kind::Implied) | (Kind::Implied, Kind::Directory) => true,
                (Kind::File, _) | (_, Kind::File) | (Kind::Directory, Kind::Directory) => false,
            };
            if !compatible || known.path != path {
                return Err(BundleError::refused(
                    ProblemCode::BundlePath,
                    format!(
                        "{path:?} and {:?} are the same path, or would be where case does not count",
                        known.path
                    ),
                ));
            }
            if kind == Kind::Directory {
                known.kind = kind;
            }
            return Ok(false);
        }
        if self.entries.len() >= BUNDLE_ENTRIES_MAX {
            return Err(BundleError::refused(
                ProblemCode::BundleCount,
                format!("the bundle has more than {BUNDLE_ENTRIES_MAX} files and directories"),
            ));
        }
        self.entries.insert(path.to_lowercase(), Known { path: path.to_owned(), kind });
        Ok(true)
    }
}
