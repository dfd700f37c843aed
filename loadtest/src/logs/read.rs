use clap::Args;

use super::Place;

/// Options of `loadtest logs read`.
#[derive(Debug, Clone, Args)]
pub struct Read {
    #[command(flatten)]
    place: Place,
}

pub async fn run(_args: Read) -> anyhow::Result<bool> {
    Ok(true)
}
