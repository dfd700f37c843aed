use tokio_util::sync::CancellationToken;

/// Tells a service when to drain and when to stop at once. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown {
    drain: CancellationToken,
    stop: CancellationToken,
}

/// Begins a shutdown: kept by whoever listens to signals, or by a test.
#[derive(Debug, Clone)]
pub struct ShutdownTrigger(Shutdown);

impl Shutdown {
    /// A shutdown that has not begun, and what begins it.
    #[must_use]
    pub fn new() -> (ShutdownTrigger, Self) {
        let shutdown = Self { drain: CancellationToken::new(), stop: CancellationToken::new() };
        (ShutdownTrigger(shutdown.clone()), shutdown)
    }

    /// Ends when the service should take no new work and finish what it holds (first SIGTERM).
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Has the drain begun?
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Ends when the service should give back what it still holds at once (second SIGTERM).
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }
}

impl ShutdownTrigger {
    /// Begins the drain.
    pub fn drain(&self) {
        self.0.drain.cancel();
    }

    /// Begins the drain and cuts it short.
    pub fn stop(&self) {
        self.0.drain.cancel();
        self.0.stop.cancel();
    }

    /// Has the drain begun?
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.drain.is_cancelled()
    }

    /// Was the drain cut short?
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.stop.is_cancelled()
    }
}
