//! Which version a name means now, asked at most about once a second per name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::{ModelName, TenantId, VersionSelector};
use store::{Record, StoreError, VersionRow};

/// How old an answer may be: as long a push at another gateway may go unseen.
const AGE_MAX: Duration = Duration::from_secs(1);
/// The most names kept; when there are more, all are asked for again.
const NAMES_MAX: usize = 10_000;

type Name = (ModelName, VersionSelector);

pub(crate) struct Versions {
    record: Arc<dyn Record>,
    known: Mutex<HashMap<Name, Known>>,
}

struct Known {
    version: Option<Arc<VersionRow>>,
    at: Instant,
}

impl Versions {
    pub fn new(record: Arc<dyn Record>) -> Self {
        Self { record, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version `selector` means.
    ///
    /// When an answer is too old, one caller asks again and the others meanwhile take the old one.
    ///
    /// # Errors
    /// [`StoreError`], if there is no answer at all.
    pub async fn find(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        selector: &VersionSelector,
    ) -> Result<Option<Arc<VersionRow>>, StoreError> {
        let name = (model.clone(), selector.clone());
        if let Some(known) = self.lock().get_mut(&name) {
            // "No such model" is not believed for long: it may be pushed any moment.
            if known.version.is_some() && known.at.elapsed() < AGE_MAX {
                return Ok(known.version.clone());
            }
            known.at = Instant::now();
        }
        let version = self.record.find_version(tenant, model, selector).await?.map(Arc::new);
        let mut known = self.lock();
        if known.len() >= NAMES_MAX {
            known.clear();
        }
        known.insert(name, Known { version: version.clone(), at: Instant::now() });
        Ok(version)
    }

    /// Something about this model has changed.
    pub fn forget(&self, model: &ModelName) {
        self.lock().retain(|(known, _), _| known != model);
    }
}
