use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{ModelName, TenantId, VersionNumber, VersionSelector};
use store::{Record, StoreError, VersionRow};
use tokio::time::Instant;

/// How long an alias (or the absence of a version) is believed: a push is seen within this time.
const ALIAS_LIFE: Duration = Duration::from_secs(1);
/// The most look-ups remembered.
const ENTRIES_MAX: usize = 4_096;

type Key = (TenantId, ModelName, VersionSelector);

/// What versions models have, remembered: aliases for a second, numbers (which never change) for good.
pub(crate) struct Versions {
    record: Arc<dyn Record>,
    known: Mutex<HashMap<Key, Known>>,
}

#[derive(Clone)]
struct Known {
    version: Option<Arc<VersionRow>>,
    until: Option<Instant>,
}

impl Versions {
    pub(crate) fn new(record: Arc<dyn Record>) -> Self {
        Self { record, known: Mutex::default() }
    }

    /// The version `selector` means now; `None` if there is no such model or version.
    ///
    /// # Errors
    /// [`StoreError`] if it is not remembered and the record cannot be asked.
    pub(crate) async fn find(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        selector: &VersionSelector,
    ) -> Result<Option<Arc<VersionRow>>, StoreError> {
        let key = (tenant.clone(), model.clone(), selector.clone());
        if let Some(known) = self.remembered(&key) {
            return Ok(known);
        }
        let version = self.record.find_version(tenant, model, selector).await?.map(Arc::new);
        let mut entries = self.entries();
        if entries.len() + 2 > ENTRIES_MAX {
            entries.clear();
        }
        if let Some(version) = &version {
            let pinned = VersionSelector::Number(version.version);
            let known = Known { version: Some(Arc::clone(version)), until: None };
            entries.insert((tenant.clone(), model.clone(), pinned), known);
        }
        let pinned = version.is_some() && matches!(selector, VersionSelector::Number(_));
        if !pinned {
            entries.insert(key, Known { version: version.clone(), until: Some(Instant::now() + ALIAS_LIFE) });
        }
        Ok(version)
    }

    /// Version `number`, if it is remembered.
    pub(crate) fn known(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        number: VersionNumber,
    ) -> Option<Arc<VersionRow>> {
        self.remembered(&(tenant.clone(), model.clone(), VersionSelector::Number(number))).flatten()
    }

    /// The version that `selector` meant when it was looked up last, if it is remembered. It may mean another by now.
    pub(crate) fn last_known(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        selector: &VersionSelector,
    ) -> Option<Arc<VersionRow>> {
        let entries = self.entries();
        entries
            .get(&(tenant.clone(), model.clone(), selector.clone()))
            .and_then(|known| known.version.clone())
    }

    fn remembered(&self, key: &Key) -> Option<Option<Arc<VersionRow>>> {
        let entries = self.entries();
        let known = entries.get(key)?;
        known.until.is_none_or(|until| Instant::now() < until).then(|| known.version.clone())
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
