use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use domain::ExecuteId;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How long the last deaths are waited for.
const DEATHS_LIMIT: Duration = Duration::from_secs(30);

/// What a script says of itself when it is born.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Birth {
    /// Its lock.
    pub key: String,
    /// Which execution it is.
    pub execute_id: ExecuteId,
    /// Which attempt.
    pub attempt: i32,
    /// Its fencing token.
    pub fence: i64,
    /// Another process held the key's file at its birth.
    pub overlaps: bool,
}

/// A script, as it was seen from outside.
#[derive(Debug, Clone)]
pub struct Life {
    /// What it said.
    pub birth: Birth,
    /// When it was seen alive, in microseconds since 1970.
    pub born_us: u64,
    /// When its last process was gone; `None` if it lives.
    pub died_us: Option<u64>,
}

/// Sees scripts be born and die.
pub struct Witness {
    lives: Arc<Mutex<Vec<Life>>>,
    _tasks: JoinSet<()>,
}

impl Witness {
    /// Listens on a socket at `path`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn listen(path: &Path) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
        let lives = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&lives)));
        Ok(Self { lives, _tasks: tasks })
    }

    /// All lives in the order of their births, once the last one is over or will not be.
    pub async fn lives(&self) -> Vec<Life> {
        let until = Instant::now() + DEATHS_LIMIT;
        loop {
            let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if Instant::now() >= until || lives.iter().all(|life| life.died_us.is_some()) {
                return lives;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn accept(listener: UnixListener, lives: Arc<Mutex<Vec<Life>>>) {
    let mut scripts = JoinSet::new();
    while let Ok((script, _)) = listener.accept().await {
        scripts.spawn(watch(script, Arc::clone(&lives)));
        while scripts.try_join_next().is_some() {}
    }
}

async fn watch(script: UnixStream, lives: Arc<Mutex<Vec<Life>>>) {
    let mut script = BufReader::new(script);
    let mut line = String::new();
    // Who dies before it has said who it is had no effect.
    if script.read_line(&mut line).await.is_err() {
        return;
    }
    let Ok(birth) = serde_json::from_str(&line) else { return };
    let place = {
        let mut lives = lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.push(Life { birth, born_us: now_us(), died_us: None });
        lives.len() - 1
    };
    if script.write_all(b"!").await.is_ok() {
        let _gone = script.read_to_end(&mut Vec::new()).await;
    }
    lives.lock().unwrap_or_else(PoisonError::into_inner)[place].died_us = Some(now_us());
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros().try_into().unwrap_or(u64::MAX)
}
