use domain::limits::LOG_PAGE_MAX;
use protocol::http::{FoundPage, FoundRow};

use super::{Api, ClientError, Terminal};
use crate::cli;

/// `gantry search`.
///
/// # Errors
/// [`ClientError`].
pub async fn search(api: &Api, args: &cli::Search, terminal: Terminal) -> Result<(), ClientError> {
    let mut style = terminal.stdout;
    style.raw = args.raw;
    let print = |row: &FoundRow| {
        if args.json { terminal.json(row) } else { terminal.say(&style.found_row(row)) }
    };
    let model = args.model.to_string();
    let mut given = Vec::new();
    given.extend(args.text.as_ref().map(|text| ("text", text.clone())));
    given.extend(args.level.map(|level| ("level", level.to_string())));
    given.extend(args.since.map(|since| ("from", since.0.to_string())));
    given.extend(args.until.map(|until| ("to", until.0.to_string())));
    let (mut cursor, mut shown) = (None, 0);
    loop {
        let mut query = given.clone();
        query.push(("limit", (args.limit - shown).min(u64::from(LOG_PAGE_MAX)).to_string()));
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let page: FoundPage = api.get(&["models", &model, "logs"], &query).await?;
        page.lines.iter().try_for_each(print)?;
        shown += page.lines.len() as u64;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
        if shown >= args.limit {
            terminal.note(&format!("the first {shown}; --limit shows more"));
            break;
        }
    }
    if shown == 0 && !args.json {
        terminal.note("no such lines");
    }
    Ok(())
}
