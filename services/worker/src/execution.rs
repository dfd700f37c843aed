//! One attempt, from its claim to its settlement.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::chain;
use domain::{ErrorClass, ExecuteId, Failure, Runtime, VersionNumber, VersionSelector};
use protocol::{RawMessage, Reply, ReplyAddress, Request};
use store::{Claim, Conclusion, Fence, Finish, Finished, Settlement, StoreError, VersionRow};
use tracing::{debug, error, info, warn};

use crate::Worker;
use crate::backoff::Backoff;
use crate::cache::{Bundle, Unfetched};
use crate::leases::{Held, Stop};
use crate::metrics;
use crate::output::Printed;
use crate::rights::Rights;
use crate::runtime::{Ran, builtin, process};
use crate::settlement::{Outcome, settle};
use crate::slots::Slot;
use crate::timeline::Timeline;
use crate::waiting::{Needs, wait};
use coordination::Boottime;

/// A claimed execution with what it holds: its lease and its slot, both free when it is dropped.
pub(crate) struct Execution {
    pub(crate) request: Request,
    pub(crate) claim: Claim,
    pub(crate) held: Held,
    pub(crate) timeline: Timeline,
    /// Not to be started after this.
    pub(crate) deadline: Option<Boottime>,
    /// `None` while it waits for its lock or its limits.
    pub(crate) slot: Option<Slot>,
}

impl Execution {
    /// Runs it and settles it: tree dead, then commit, then replies, then its lock and its limits are released, then the
    /// slot is free.
    ///
    /// If the future is dropped, the tree is killed and the lease runs out.
    pub(crate) async fn run(mut self, worker: &Worker) {
        let (mut version, mut rights) = (None, None);
        let ran = match self.attempt(worker, &mut version, &mut rights).await {
            Ok(ran) => ran,
            Err(outcome) => {
                let printed = Printed { base: self.claim.last_log_id, ..Printed::default() };
                Ran { outcome, printed, run: Duration::ZERO }
            }
        };
        let retry = version.as_ref().map(|version| &version.manifest.retry);
        let settlement = settle(ran.outcome, &self.claim, retry, rand::random());
        match settlement {
            Some(settlement) => self.settle(worker, settlement, ran.printed, ran.run, &mut rights).await,
            None => self.lost(),
        }
        if let Some(rights) = rights {
            rights.release().await;
        }
        drop(self.slot);
    }

    /// Runs it; `Err` if it did not come to that.
    async fn attempt(
        &mut self,
        worker: &Worker,
        found: &mut Option<Arc<VersionRow>>,
        rights: &mut Option<Rights>,
    ) -> Result<Ran, Outcome> {
        self.check()?;
        let selector = &self.request.version;
        let unknown = || {
            let message = format!("there is no version {selector} of a model {}", self.request.model);
            Outcome::Failed(Failure::new(ErrorClass::Input, message))
        };
        let number = self.claim.version.ok_or_else(unknown)?;
        let version = self.version(worker, number).await?.ok_or_else(unknown)?;
        let version = &**found.insert(version);
        let needs = Needs::of(&version.manifest, &self.request.model, &self.request.input)
            .map_err(|message| Outcome::Failed(Failure::new(ErrorClass::Input, message)))?;
        let Some(needs) = needs else { return self.run_version(worker, version, None).await };
        let rights = rights.insert(wait(self, worker, &version.manifest, &needs).await?);
        let held = (*self.held).clone();
        rights.note(&held);
        tokio::select! {
            ran = self.run_version(worker, version, rights.fence()) => ran,
            never = rights.keep(&held) => match never {},
        }
    }

    async fn run_version(
        &mut self,
        worker: &Worker,
        version: &VersionRow,
        fence: Option<&Fence>,
    ) -> Result<Ran, Outcome> {
        match version.manifest.runtime {
            Runtime::Builtin => {
                self.timeline.add("executing");
                let outcome = builtin::run(version.manifest.builtin.as_deref(), &self.request.input);
                let printed = Printed { base: self.claim.last_log_id, ..Printed::default() };
                Ok(Ran { outcome, printed, run: Duration::ZERO })
            }
            Runtime::Process => self.run_process(worker, version, fence).await,
        }
    }

    async fn run_process(
        &mut self,
        worker: &Worker,
        version: &VersionRow,
        fence: Option<&Fence>,
    ) -> Result<Ran, Outcome> {
        let bundle = self.bundle(worker, version).await?;
        self.check()?;
        let scratch = worker.scratch.scratch().map_err(|error| Outcome::Broken {
            class: ErrorClass::Internal,
            message: format!("its scratch directory could not be made: {error}"),
        })?;
        self.timeline.add("executing");
        let process = process::Process {
            shim: &worker.shim,
            bundle: bundle.dir(),
            scratch: &scratch,
            manifest: &version.manifest,
            version: version.version,
            request: &self.request,
            attempt: self.claim.attempt,
            base: self.claim.last_log_id,
            held: &self.held,
            writer: &worker.writer,
            fence,
        };
        let ran = process.run().await;
        scratch.remove().await;
        Ok(ran)
    }

    /// What its lease goes by.
    pub(crate) const fn key(&self) -> (ExecuteId, i32) {
        (self.request.execute_id, self.claim.attempt)
    }

    /// May it still be started?
    fn check(&self) -> Result<(), Outcome> {
        if let Some(stop) = self.held.stop() {
            return Err(Outcome::Stopped(stop));
        }
        if self.deadline.is_some_and(Boottime::has_passed) {
            return Err(Outcome::Expired("its deadline passed before it could start".to_owned()));
        }
        if self.held.is_past_rights() {
            return Err(Outcome::Stopped(Stop::RightLost));
        }
        Ok(())
    }

    async fn version(
        &self,
        worker: &Worker,
        number: VersionNumber,
    ) -> Result<Option<Arc<VersionRow>>, Outcome> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let selector = VersionSelector::Number(number);
        loop {
            match worker.versions.find(&worker.tenant, &self.request.model, &selector).await {
                Ok(version) => return Ok(version),
                Err(error) => warn!(model = %self.request.model, "a version is not read: {}", chain(&error)),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                stop = self.held.stopped() => return Err(Outcome::Stopped(stop)),
            }
        }
    }

    async fn bundle(&mut self, worker: &Worker, version: &VersionRow) -> Result<Bundle, Outcome> {
        if let Some(bundle) = worker.cache.find(version.digest).await {
            return Ok(bundle);
        }
        self.timeline.add("fetching");
        let fetched = tokio::select! {
            fetched = worker.cache.fetch(version.digest) => fetched,
            stop = self.held.stopped() => return Err(Outcome::Stopped(stop)),
        };
        fetched.map_err(|unfetched| {
            match &unfetched {
                Unfetched::Never { .. } => error!(model = %version.model, "{unfetched}"),
                Unfetched::TimedOut { .. } => warn!(model = %version.model, "{unfetched}"),
            }
            Outcome::Broken { class: ErrorClass::Artifact, message: unfetched.to_string() }
        })
    }

    async fn settle(
        &mut self,
        worker: &Worker,
        settlement: Settlement,
        printed: Printed,
        run: Duration,
        rights: &mut Option<Rights>,
    ) {
        self.timeline.add("storing");
        let happened = self.timeline.take();
        let unfenced = Finish {
            fence: None,
            execute_id: self.request.execute_id,
            attempt: self.claim.attempt,
            base: printed.base,
            tail: Vec::new(),
            settlement: Settlement::YIELDED,
            timeline: happened,
        };
        // Past its stop point it says nothing of its own any more, and only gives itself back.
        let may_write = rights.as_ref().is_none_or(Rights::are_valid);
        let mut stored = Some(Finished::Stale);
        let mut name = metrics::settlement(&settlement);
        let mut fence = None;
        if may_write {
            fence = rights.as_ref().and_then(Rights::fence).cloned();
            let finish = Finish { fence: fence.clone(), tail: printed.tail, settlement, ..unfenced.clone() };
            stored = self.offer(worker, finish, name, rights).await;
        }
        if stored == Some(Finished::Stale) && (fence.is_some() || !may_write) {
            // Its fence was too low, or its attempt is no longer ours either.
            name = metrics::settlement(&unfenced.settlement);
            stored = self.offer(worker, unfenced, name, rights).await;
        }
        match stored {
            Some(Finished::Stored(conclusion)) => {
                metrics::settled(name, run);
                reply(worker, &conclusion, run);
                self.tell(name, run);
            }
            Some(Finished::Stale) | None => self.lost(),
        }
    }

    /// Offers the end of the attempt to the record for as long as that makes sense; what it has beside its lease only for
    /// as long as its lease is known to hold.
    async fn offer(
        &mut self,
        worker: &Worker,
        mut finish: Finish,
        name: &str,
        rights: &mut Option<Rights>,
    ) -> Option<Finished> {
        self.timeline.add(name);
        finish.timeline.extend(self.timeline.take());
        let given_up = self.held.given_up();
        let stored = store(worker, finish);
        tokio::pin!(given_up, stored);
        if rights.is_some() {
            tokio::select! {
                stored = &mut stored => return stored,
                () = &mut given_up => return None,
                () = self.held.lease_ended() => {}
            }
            if let Some(rights) = rights.take() {
                rights.release().await;
            }
        }
        tokio::select! {
            stored = stored => stored,
            () = given_up => None,
        }
    }

    fn tell(&self, settled: &'static str, run: Duration) {
        let (execute_id, attempt) = (self.request.execute_id, self.claim.attempt);
        let (model, run_us) = (&self.request.model, run.as_micros());
        if run.is_zero() {
            debug!(%execute_id, attempt, %model, "execution {settled}");
        } else {
            info!(%execute_id, attempt, %model, run_us, "execution {settled}");
        }
    }

    fn lost(&self) {
        metrics::lost();
        let (execute_id, attempt) = (self.request.execute_id, self.claim.attempt);
        warn!(%execute_id, attempt, model = %self.request.model, "an attempt was lost to another");
    }
}

/// Commits the end of an attempt. While the record is away the writer repeats it; a settlement that the record refuses
/// for good becomes a failure of ours. `None` if that is refused too.
async fn store(worker: &Worker, finish: Finish) -> Option<Finished> {
    let fallback = Finish {
        tail: Vec::new(),
        timeline: Vec::new(),
        settlement: Settlement::Failed {
            delay: Duration::from_secs(1),
            class: ErrorClass::Internal,
            message: "the record refused its result".to_owned(),
        },
        fence: finish.fence.clone(),
        ..finish
    };
    for finish in [finish, fallback] {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            match worker.writer.finish(finish.clone()).await {
                Ok(finished) => return Some(finished),
                Err(StoreError::Overloaded(_)) => tokio::time::sleep(backoff.next()).await,
                Err(error) => {
                    let (execute_id, attempt) = (finish.execute_id, finish.attempt);
                    error!(%execute_id, attempt, "the record refuses a settlement: {}", chain(&error));
                    break;
                }
            }
        }
    }
    None
}

/// Tells everybody who waits how it ended, if it has. Called only once the record says so.
pub(crate) fn reply(worker: &Worker, conclusion: &Conclusion, run: Duration) {
    worker.broker.reply_all(replies(conclusion, run));
}

/// The replies to everybody who waits, if it has ended.
pub(crate) fn replies(conclusion: &Conclusion, run: Duration) -> Vec<(ReplyAddress, RawMessage)> {
    let Conclusion { execute_id, attempt, ending: Some(ending), reply_addresses } = conclusion else {
        return Vec::new();
    };
    if reply_addresses.is_empty() {
        return Vec::new();
    }
    let reply = Reply { execute_id: *execute_id, attempt: *attempt, ending: ending.clone(), run };
    let addressed =
        |address: &ReplyAddress| (address.clone(), reply.to_message(address.correlation_id.clone()));
    reply_addresses.iter().map(addressed).collect()
}
