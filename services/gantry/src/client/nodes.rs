use jiff::Timestamp;
use protocol::http::NodeList;

use super::{Api, ClientError, Terminal, screen};
use crate::cli;

/// `gantry nodes`.
///
/// # Errors
/// [`ClientError`].
pub async fn nodes(api: &Api, args: &cli::Plain, terminal: Terminal) -> Result<(), ClientError> {
    let list: NodeList = api.get(&["nodes"], &[]).await?;
    if args.json {
        return terminal.json(&list);
    }
    if list.nodes.is_empty() {
        terminal.note("no nodes: executions wait until a worker is started (`gantry worker`)");
        return Ok(());
    }
    let now = Timestamp::now();
    let rows: Vec<_> = list
        .nodes
        .iter()
        .map(|node| {
            let queues: Vec<_> = node.info.queues.iter().map(ToString::to_string).collect();
            [
                node.info.id.name().to_string(),
                node.info.address.clone(),
                format!("{}/{}", node.running, node.info.slots),
                if node.info.draining { "draining" } else { "ready" }.to_owned(),
                queues.join(","),
                node.info.version.clone(),
                screen::span(screen::between(node.info.since, now)),
            ]
        })
        .collect();
    let heading = ["NODE", "ADDRESS", "RUNNING", "STATE", "QUEUES", "VERSION", "UP"];
    terminal.write(screen::table(heading, &rows).as_bytes())
}
