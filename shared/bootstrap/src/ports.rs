use std::sync::Arc;

use artifacts::Artifacts;
use broker::Broker;
use coordination::Coordination;
use store::Record;

/// The four ports a service stands on. Cheap to clone.
#[derive(Clone)]
pub struct Ports {
    /// What is true.
    pub record: Arc<dyn Record>,
    /// Dispatch and reply.
    pub broker: Arc<dyn Broker>,
    /// Who is alive, and who may.
    pub coordination: Arc<dyn Coordination>,
    /// Bundles.
    pub artifacts: Artifacts,
}
