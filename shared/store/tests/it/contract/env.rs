use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{
    Digest, Ending, ErrorClass, ExecuteId, Failure, Level, LogLine, NodeId, Payload, QueueName, TenantId,
    VersionNumber, VersionSelector,
};
use jiff::Timestamp;
use protocol::{ReplyAddress, Request};
use store::{
    Acceptance, Append, Claim, ClaimAnswer, ClaimRequest, Conclusion, Fence, FenceTaken, Finish, Finished,
    LogFilter, NewExecution, Record, Requeue, Settlement,
};
use uuid::Uuid;

/// The lease of a claim in tests that do not care.
pub const LEASE: Duration = Duration::from_secs(30);

/// A database of one test's own.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The record on it.
    fn record(&self) -> Arc<dyn Record>;

    /// Makes it as if `by` had passed: every time it holds moves back by that much.
    async fn pass(&self, by: Duration);

    /// Gives an execution that has no lines yet another id, and makes the place for that one's lines.
    async fn redate(&self, from: ExecuteId, to: ExecuteId);
}

/// What a test of the contract works with.
pub struct Env {
    pub record: Arc<dyn Record>,
    fixture: Box<dyn Fixture>,
}

impl Env {
    pub fn new(fixture: impl Fixture + 'static) -> Self {
        Self { record: fixture.record(), fixture: Box::new(fixture) }
    }

    /// See [`Fixture::pass`].
    pub async fn pass(&self, by: Duration) {
        self.fixture.pass(by).await;
    }

    pub async fn accept(&self, new: &NewExecution) -> Acceptance {
        let answers = self.record.accept(std::slice::from_ref(new)).await.unwrap();
        assert_eq!(answers.len(), 1);
        answers[0]
    }

    /// A recorded execution.
    pub async fn recorded(&self) -> NewExecution {
        let new = new_execution();
        assert_eq!(self.accept(&new).await, Acceptance::Recorded);
        new
    }

    pub async fn claim(&self, request: &ClaimRequest) -> ClaimAnswer {
        let mut answers = self.record.claim(std::slice::from_ref(request)).await.unwrap();
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// A recorded execution that [`node`] runs.
    pub async fn running(&self) -> (NewExecution, Claim) {
        let new = self.recorded().await;
        let claim = claimed(self.claim(&claim_of(&new)).await);
        (new, claim)
    }

    /// The same with an id that is dated so many days ago, as if it had begun then.
    pub async fn running_for_days(&self, days: u64) -> (NewExecution, Claim) {
        let (mut new, claim) = self.running().await;
        let from = new.execute_id;
        new.execute_id = ExecuteId::new(from.unix_ms() - days * 86_400_000);
        self.fixture.redate(from, new.execute_id).await;
        (new, claim)
    }

    /// Appends these lines and ends it.
    pub async fn log_and_end(&self, new: &NewExecution, claim: &Claim, texts: &[&str]) {
        let mut claim = claim.clone();
        let base = claim.last_log_id;
        self.record.append(&[append(new, claim.attempt, base, texts)]).await.unwrap();
        claim.last_log_id += i64::try_from(texts.len()).unwrap();
        self.settle(new, &claim, succeeded("done")).await;
    }

    /// The next attempt of an execution that is queued or about to be.
    pub async fn run_again(&self, new: &NewExecution) -> Claim {
        self.record.take_due(100).await.unwrap();
        claimed(self.claim(&claim_of(new)).await)
    }

    /// Takes a fence for the attempt of `claim`.
    pub async fn take_fence(&self, new: &NewExecution, claim: &Claim, fence: &Fence) -> FenceTaken {
        self.record.take_fence(&new.tenant, fence, new.execute_id, claim.attempt).await.unwrap()
    }

    pub async fn finish(&self, finish: &Finish) -> Finished {
        let mut answers = self.record.finish(std::slice::from_ref(finish)).await.unwrap();
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// Settles and must succeed in it.
    pub async fn settle(&self, new: &NewExecution, claim: &Claim, settlement: Settlement) -> Conclusion {
        match self.finish(&finish(new, claim, settlement)).await {
            Finished::Stored(conclusion) => *conclusion,
            Finished::Stale => panic!("{} was settled by somebody else", new.execute_id),
        }
    }

    pub async fn row(&self, execute_id: ExecuteId) -> protocol::http::Execution {
        let row = self.record.find_execution(&TenantId::default(), execute_id).await.unwrap();
        row.expect("the execution has a row").execution
    }

    pub async fn ending(&self, execute_id: ExecuteId) -> Option<Ending> {
        let found = self.record.find_ending(&TenantId::default(), execute_id).await.unwrap();
        found.map(|(_, ending)| ending)
    }

    /// All lines of an execution, as numbers and texts.
    pub async fn log(&self, execute_id: ExecuteId) -> Vec<(i64, String)> {
        let lines = self.record.list_log(execute_id, &LogFilter::after(0, 1_000)).await.unwrap().lines;
        lines.into_iter().map(|line| (line.log_id, line.line)).collect()
    }
}

fn now_ms() -> u64 {
    Timestamp::now().as_millisecond().try_into().unwrap()
}

/// An execution nobody has seen yet, whose caller waits.
pub fn new_execution() -> NewExecution {
    let input = Payload::new(Payload::JSON, &b"{\"n\": 1}"[..]);
    NewExecution {
        execute_id: ExecuteId::new(now_ms()),
        tenant: TenantId::default(),
        model: "echo".parse().unwrap(),
        version: VersionNumber(3),
        queue: QueueName::default(),
        input_digest: Digest::of(&input.bytes),
        input,
        reply_address: Some(address("gateway", "1")),
        deadline: None,
        traceparent: None,
        attributes: domain::Attributes::default(),
        idempotency_key: None,
    }
}

pub fn address(reply_to: &str, correlation_id: &str) -> ReplyAddress {
    ReplyAddress { reply_to: reply_to.to_owned(), correlation_id: correlation_id.to_owned() }
}

/// A node by its name.
pub fn node(name: &str) -> NodeId {
    NodeId::new(name.parse().unwrap(), 1_700_000_000_000, 7)
}

/// A claim on what the gateway recorded and published.
pub fn claim_of(new: &NewExecution) -> ClaimRequest {
    let request = Request {
        execute_id: new.execute_id,
        model: new.model.clone(),
        version: VersionSelector::Number(new.version),
        queue: new.queue.clone(),
        input: new.input.clone(),
        deadline: new.deadline,
        reply_address: new.reply_address.clone(),
        traceparent: new.traceparent.clone(),
        attributes: new.attributes.clone(),
        recorded: true,
    };
    ClaimRequest {
        claim_id: Uuid::now_v7(),
        node: node("one"),
        lease: LEASE,
        tenant: new.tenant.clone(),
        request,
        input_digest: new.input_digest,
        version: Some(new.version),
        redelivered: false,
        result: None,
    }
}

/// A claim on a direct producer's message with that content.
pub fn direct(new: &NewExecution) -> ClaimRequest {
    let mut claim = claim_of(new);
    claim.request.recorded = false;
    claim
}

/// The same message, given back.
pub fn requeue_of(claim: &ClaimRequest) -> Requeue {
    Requeue {
        tenant: claim.tenant.clone(),
        request: claim.request.clone(),
        input_digest: claim.input_digest,
        version: claim.version,
    }
}

pub fn claimed(answer: ClaimAnswer) -> Claim {
    match answer {
        ClaimAnswer::Claimed(claim) => claim,
        other => panic!("not claimed but {other:?}"),
    }
}

pub fn lines(texts: &[&str]) -> Vec<LogLine> {
    let line = |text: &&str| LogLine {
        level: Level::Info,
        at_unix_us: 1_700_000_000_000_001,
        text: (*text).to_owned(),
        continues: false,
    };
    texts.iter().map(line).collect()
}

pub fn append(new: &NewExecution, attempt: i32, base: i64, texts: &[&str]) -> Append {
    Append { fence: None, execute_id: new.execute_id, attempt, base, lines: lines(texts) }
}

/// A fence of generation 0 or more.
pub fn fence(key: &str, generation: i64, number: i64) -> Fence {
    Fence { key: key.parse().unwrap(), generation, number }
}

pub fn finish(new: &NewExecution, claim: &Claim, settlement: Settlement) -> Finish {
    Finish {
        fence: None,
        execute_id: new.execute_id,
        attempt: claim.attempt,
        base: claim.last_log_id,
        tail: Vec::new(),
        settlement,
        timeline: Vec::new(),
    }
}

pub fn succeeded(result: &'static str) -> Settlement {
    Settlement::Ended(Ending::Succeeded(text(result)))
}

pub fn failed(message: &str) -> Settlement {
    Settlement::Ended(Ending::Failed(Failure::new(ErrorClass::Script, message)))
}

pub fn text(result: &'static str) -> Payload {
    Payload::new("text/plain", result.as_bytes())
}
