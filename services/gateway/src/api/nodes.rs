use axum::Json;
use axum::extract::State;
use protocol::http;

use crate::gateway::Gateway;
use crate::problem::Refusal;

/// List nodes
///
/// Those that are there now, by name.
#[utoipa::path(get, path = "/v1/nodes", responses((status = 200, description = "The nodes.", body = http::NodeList)))]
pub(crate) async fn list_nodes(State(gateway): State<Gateway>) -> Result<Json<http::NodeList>, Refusal> {
    let present = gateway.nodes.borrow().clone();
    let running = gateway.ports.record.count_running().await?;
    let count = |info: &protocol::NodeInfo| {
        running.iter().find(|(id, _)| *id == info.id).map_or(0, |(_, count)| *count)
    };
    let nodes = present.iter().map(|info| http::Node { info: info.clone(), running: count(info) }).collect();
    Ok(Json(http::NodeList { nodes }))
}
