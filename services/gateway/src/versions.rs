//! Which version a name means now, asked at most about once a second per name, by one for all who want to know.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::{ModelName, TenantId, VersionSelector};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use store::{Record, StoreError, VersionRow};

/// How old an answer may be: as long a push at another gateway may go unseen.
const AGE_MAX: Duration = Duration::from_secs(1);
/// The most names kept; when there are more, all are asked for again.
const NAMES_MAX: usize = 10_000;

type Name = (TenantId, ModelName, VersionSelector);
type Answer = Result<Option<Arc<VersionRow>>, Arc<StoreError>>;
type Asked = Shared<BoxFuture<'static, Answer>>;

/// The names asked for lately.
pub(crate) struct Versions {
    record: Arc<dyn Record>,
    known: Mutex<HashMap<Name, Known>>,
}

struct Known {
    asked: Asked,
    at: Instant,
}

impl Known {
    /// "No such version" is not believed for long (it may be pushed any moment), and neither is an error.
    fn is_good(&self) -> bool {
        self.asked.peek().is_none_or(|answer| matches!(answer, Ok(Some(_))) && self.at.elapsed() < AGE_MAX)
    }
}

impl Versions {
    pub fn new(record: Arc<dyn Record>) -> Self {
        Self { record, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version `selector` means. Dropping the future leaves the question to whoever else asks it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn find(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        selector: &VersionSelector,
    ) -> Result<Option<Arc<VersionRow>>, Arc<StoreError>> {
        let name = (tenant.clone(), model.clone(), selector.clone());
        let asked = {
            let mut known = self.lock();
            match known.get(&name) {
                Some(known) if known.is_good() => known.asked.clone(),
                Some(_) | None => {
                    if known.len() >= NAMES_MAX {
                        known.clear();
                    }
                    let asked = self.ask(name.clone());
                    known.insert(name, Known { asked: asked.clone(), at: Instant::now() });
                    asked
                }
            }
        };
        asked.await
    }

    fn ask(&self, (tenant, model, selector): Name) -> Asked {
        let record = self.record.clone();
        let find = async move {
            let found = record.find_version(&tenant, &model, &selector).await;
            found.map(|version| version.map(Arc::new)).map_err(Arc::new)
        };
        find.boxed().shared()
    }

    /// Something about this model has changed: who asks from now on gets to know.
    pub fn forget(&self, model: &ModelName) {
        self.lock().retain(|(_, known, _), _| known != model);
    }
}
