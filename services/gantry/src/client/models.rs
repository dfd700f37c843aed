use std::path::Path;
use std::time::Duration;

use domain::limits::BUNDLE_BYTES_MAX;
use domain::{ModelName, Runtime};
use jiff::Timestamp;
use protocol::http::{ModelList, MoveAlias, Version};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};

use super::aliases::{point, sentence};
use super::api::ANSWER_TIMEOUT;
use super::bundle::{Packed, pack};
use super::{Api, ClientError, Terminal, screen};
use crate::cli;

/// `gantry push`.
///
/// # Errors
/// [`ClientError`]; of a folder that cannot be pushed nothing was sent.
pub async fn push(api: &Api, args: &cli::Push, terminal: Terminal) -> Result<(), ClientError> {
    let model = match &args.model {
        Some(model) => model.clone(),
        None => name_of(&args.directory)?,
    };
    let packed = pack(&args.directory)?;
    let (mut version, is_new) = upload(api, &model, &packed).await?;
    if !args.json {
        say_pushed(&model, &version, is_new, packed.files, terminal)?;
    }
    if let Some(alias) = &args.alias {
        let wanted = MoveAlias { version: version.version, force: false, expected: None };
        let wait = Duration::from_secs(args.wait);
        let moved = point(api, &model, alias, &wanted, wait, terminal).await?;
        if !args.json {
            return terminal.say(&sentence(&model, &moved));
        }
        version.aliases.push(alias.to_string());
        version.aliases.sort_unstable();
        version.aliases.dedup();
    }
    if args.json { terminal.json(&version) } else { Ok(()) }
}

fn say_pushed(
    model: &ModelName,
    version: &Version,
    is_new: bool,
    files: usize,
    terminal: Terminal,
) -> Result<(), ClientError> {
    let (number, size) = (version.version, screen::bytes(version.bytes));
    let digest = &version.digest[..version.digest.len().min(12)];
    terminal.say(&if is_new {
        format!("{model} version {number} pushed ({files} files, {size}, {digest})")
    } else {
        format!("{model} version {number} has these very files already ({digest}); `latest` is that one")
    })
}

/// The model's name if none is given: that of its folder.
fn name_of(directory: &Path) -> Result<ModelName, ClientError> {
    let resolved = directory
        .canonicalize()
        .map_err(|error| ClientError::usage(format!("{}: {error}", directory.display())))?;
    let name = resolved.file_name().unwrap_or_default().to_string_lossy();
    name.parse().map_err(|error| {
        ClientError::usage(format!(
            "the folder's name {name:?} cannot be the model's ({error}): give one with --model"
        ))
    })
}

/// Uploads a bundle as a new version of `model`; the second value is `false` if it has such a version already.
///
/// # Errors
/// [`ClientError`].
pub async fn upload(api: &Api, model: &ModelName, packed: &Packed) -> Result<(Version, bool), ClientError> {
    debug_assert!(packed.bytes.len() <= BUNDLE_BYTES_MAX);
    let path = ["models", model.as_str(), "versions"];
    let response = api
        .answer(|| {
            api.request(Method::POST, &path)
                .header(CONTENT_TYPE, "application/gzip")
                .body(packed.bytes.clone())
                .timeout(5 * ANSWER_TIMEOUT)
        })
        .await?;
    let is_new = response.status() == StatusCode::CREATED;
    Ok((api.read(response).await?, is_new))
}

/// `gantry models`.
///
/// # Errors
/// [`ClientError`].
pub async fn models(api: &Api, args: &cli::Plain, terminal: Terminal) -> Result<(), ClientError> {
    let list: ModelList = api.get(&["models"], &[]).await?;
    if args.json {
        return terminal.json(&list);
    }
    if list.models.is_empty() {
        terminal.note("no models yet; `gantry push DIR` makes one");
        return Ok(());
    }
    let now = Timestamp::now();
    let rows: Vec<_> = list
        .models
        .iter()
        .filter_map(|model| model.versions.first())
        .map(|latest| {
            let runtime = match latest.manifest.runtime {
                Runtime::Builtin => "builtin",
                Runtime::Process => "process",
            };
            [
                latest.model.to_string(),
                latest.version.to_string(),
                runtime.to_owned(),
                latest.manifest.queue.to_string(),
                screen::bytes(latest.bytes),
                screen::span(screen::between(latest.created_at, now)),
                summary(&latest.manifest.description),
            ]
        })
        .collect();
    let heading = ["MODEL", "VERSION", "RUNTIME", "QUEUE", "SIZE", "AGE", "DESCRIPTION"];
    terminal.write(screen::table(heading, &rows).as_bytes())
}

/// The beginning of a description, so that a line fits a terminal.
fn summary(description: &str) -> String {
    const CHARS_MAX: usize = 30;
    let plain = screen::plain(description);
    if plain.chars().count() <= CHARS_MAX {
        return plain;
    }
    format!("{}…", plain.chars().take(CHARS_MAX - 1).collect::<String>())
}
