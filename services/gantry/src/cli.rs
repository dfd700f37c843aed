//! The command line. What stands here is what `--help` prints.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use domain::limits::LOG_PAGE_MAX;
use domain::{
    AliasName, Attributes, ErrorClass, ExecuteId, Level, LimitName, ModelName, NodeName, Payload, State,
    VersionSelector,
};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use protocol::DrainMode;

use crate::client::Input;

/// Where `gantry dev` listens if nobody says otherwise, and where the client looks for a gateway.
pub const DEFAULT_URL: &str = "http://127.0.0.1:7070";

/// Hosts models and scripts and runs them on request.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, arg_required_else_help = true)]
#[command(after_help = "\
Try it:
  gantry demo                                      everything at once, nothing to install
  gantry dev                                       stay up; then, in another terminal:
  gantry push examples/iris
  gantry run iris --input @examples/iris/input.json --follow

Exit codes of the client commands: 0 done, 1 the script failed, 2 wrong usage,
65 refused, 66 not found, 69 no server, 75 try later, 124 timed out,
130 cancelled. A service ends with 0 drained, 1 failed, 78 bad configuration.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the examples in one process, show their results, and end
    Demo,
    /// Run everything in one process, until it is told to stop
    Dev(Dev),

    /// Upload a folder as a new version of a model
    Push(Push),
    /// Run a model and print its result
    Run(Run),
    /// Print the log lines of an execution
    Logs(Logs),
    /// Search the log lines of a model
    Search(Search),
    /// List executions, the youngest first
    Ps(Ps),
    /// Show everything about an execution
    Show(One),
    /// Say why an execution waits, or what it does
    Explain(One),
    /// Take an execution back
    Cancel(One),
    /// List the models
    Models(Plain),
    /// Point an alias at a version, once enough nodes have it
    Alias(Alias),
    /// List the aliases of a model
    Aliases(OfModel),
    /// Show which nodes have which version of a model
    Readiness(Readiness),
    /// List the nodes that run executions; resize, drain and undrain them
    Nodes(Nodes),
    /// List the limits that are held or waited for
    Limits(Limits),

    /// Serve HTTP
    Gateway(Service),
    /// Run executions on this machine
    Worker(Service),
    /// Fetch bundles for the worker of this machine
    Sync(Service),
    /// Rescue, dispatch and expire executions; keep the record in shape
    Monitor(Service),
    /// Bring the schema of PostgreSQL up to this version
    Migrate(Service),
    /// Say how the log lies on the disk
    Store(Store),
    /// Print the configuration, with the place of each value
    Config(Config),
}

/// Options of `gantry dev`.
#[derive(Debug, Args)]
#[command(after_help = "\
What was accepted survives kill -9: it is dispatched again at the next start in
the same directory. Ctrl-C stops it: it finishes what runs; a second Ctrl-C
gives that back instead.")]
pub struct Dev {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = ".gantry")]
    pub dir: PathBuf,
    /// Where to serve HTTP [default: 127.0.0.1:7070, or a free port]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// How many executions run at once
    #[arg(long, value_name = "N")]
    pub slots: Option<u16>,
}

/// Options of every service.
#[derive(Debug, Args)]
#[command(after_help = "\
Each key of the file is also an environment variable: [worker] slots is
GANTRY_WORKER__SLOTS. docs/configuration.md lists all keys.")]
pub struct Service {
    /// The configuration file [env: GANTRY_CONFIG]
    #[arg(long, value_name = "FILE", env = "GANTRY_CONFIG", hide_env = true)]
    pub config: Option<PathBuf>,
}

/// Options of `gantry store`.
#[derive(Debug, Args)]
pub struct Store {
    /// What to do.
    #[command(subcommand)]
    pub command: StoreCommand,
}

/// What to do with the record's store.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Show for each part of the log its lines, its bytes, its order, and what reading it costs
    Status(StoreStatus),
}

/// Options of `gantry store status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Asks the database of [record] itself, as `gantry migrate` does; of `gantry dev`:

  gantry store status --path .gantry/record.db

CORRELATION: how well the order on the disk agrees with that of the key, in a
sample. PAGES: what reading the first 100 lines of an execution touches, as a
mean over a sample, and how few it could be.")]
pub struct StoreStatus {
    /// The configuration file [env: GANTRY_CONFIG]
    #[arg(long, value_name = "FILE", env = "GANTRY_CONFIG", hide_env = true)]
    pub config: Option<PathBuf>,
    /// A database of SQLite, whatever the configuration says
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub path: Option<PathBuf>,
    /// Read so many executions of each part
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub reads: u32,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `gantry config`.
#[derive(Debug, Args)]
pub struct Config {
    /// The configuration file [env: GANTRY_CONFIG]
    #[arg(long, value_name = "FILE", env = "GANTRY_CONFIG", hide_env = true)]
    pub config: Option<PathBuf>,
    /// Print the reference of all keys instead, as Markdown
    #[arg(long)]
    pub reference: bool,
}

/// Where the gateway is.
#[derive(Debug, Args)]
pub struct Server {
    /// The gateway [env: GANTRY_URL, else http://127.0.0.1:7070]
    #[arg(long, value_name = "URL", env = "GANTRY_URL", default_value = DEFAULT_URL)]
    #[arg(hide_env = true, hide_default_value = true)]
    pub url: String,
}

/// Options of `gantry push`.
#[derive(Debug, Args)]
#[command(after_help = "\
The folder holds gantry.toml and everything the model needs; .git and
__pycache__ are left out. The same files make the same version, whenever and
wherever they are pushed.

  gantry push examples/iris
  gantry push . --model iris-next
  gantry push . --alias stable")]
pub struct Push {
    /// The folder
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// The model's name [default: the folder's]
    #[arg(long, value_name = "NAME")]
    pub model: Option<ModelName>,
    /// Then point this alias at the new version, once enough nodes have it
    #[arg(long, value_name = "ALIAS")]
    pub alias: Option<AliasName>,
    /// Wait at most this long for the nodes
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "alias")]
    pub wait: u64,
    /// Print the new version as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}

/// Options of `gantry run`.
#[derive(Debug, Args)]
#[command(after_help = "\
The result goes to stdout, log lines and errors to stderr.

  gantry run echo --input '{\"a\": 1}'
  gantry run iris --input @input.json --follow
  gantry run clean --input - --content-type text/csv < table.csv > clean.csv
  id=$(gantry run ticker --async); gantry logs -f $id")]
pub struct Run {
    /// The model
    #[arg(value_name = "MODEL")]
    pub model: ModelName,
    /// JSON, @FILE, or - for stdin
    #[arg(long, short, value_name = "INPUT", default_value = "{}", allow_hyphen_values = true)]
    pub input: Input,
    /// A version's number or an alias [default: latest]
    #[arg(long, value_name = "VERSION")]
    pub version: Option<VersionSelector>,
    /// Wait at most this long; the execution goes on
    #[arg(long, value_name = "SECONDS", conflicts_with = "detach")]
    pub wait: Option<u64>,
    /// Print its log lines as they are written
    #[arg(long, short, conflicts_with = "detach")]
    pub follow: bool,
    /// Do not wait: print its execute_id
    #[arg(long = "async")]
    pub detach: bool,
    /// The same key is the same execution for 24 hours
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// A label to find the execution by; may be given several times
    #[arg(long = "attribute", short, value_name = "KEY=VALUE")]
    pub attributes: Vec<Attributes>,
    /// What the input is
    #[arg(long, value_name = "TYPE", default_value = Payload::JSON)]
    pub content_type: String,
    /// Print id, state, attempt and result as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}

/// Options of `gantry logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
  gantry logs ID --tail 20 --follow
  gantry logs ID --level warning
  gantry logs ID --before 500 --tail 100    lines 400 to 499
  gantry logs ID --text timeout --json")]
pub struct Logs {
    /// The execution
    #[arg(value_name = "EXECUTE_ID")]
    pub execute_id: ExecuteId,
    /// Go on until the execution ends, through lost connections
    #[arg(long, short, conflicts_with = "before")]
    pub follow: bool,
    /// Begin after this log_id
    #[arg(long, value_name = "LOG_ID", default_value_t = 0, conflicts_with_all = ["before", "tail"])]
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    pub after: i64,
    /// End before this log_id
    #[arg(long, value_name = "LOG_ID", value_parser = clap::value_parser!(i64).range(1..))]
    pub before: Option<i64>,
    /// Only the last N lines
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=LOG_PAGE_MAX as i64))]
    pub tail: Option<u32>,
    /// Which lines
    #[command(flatten)]
    pub lines: Lines,
    /// Only lines of this time or later: 90s, 5m, 2h or 3d ago, or a time
    #[arg(long, value_name = "TIME")]
    pub since: Option<When>,
    /// Only lines before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<When>,
    /// Leave control characters in (they can change your terminal)
    #[arg(long)]
    pub raw: bool,
    /// Print each line as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}

/// Which log lines are wanted.
#[derive(Debug, Args)]
pub struct Lines {
    /// Only lines of this level and those that matter more: debug, info, warning, error, or D, I, W, E
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    pub level: Option<Level>,
    /// Only lines with this text in them, letter for letter
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
}

fn level(text: &str) -> Result<Level, String> {
    let words = [
        (Level::Debug, "debug"),
        (Level::Info, "info"),
        (Level::Warning, "warning"),
        (Level::Error, "error"),
    ];
    let lower = text.to_ascii_lowercase();
    let is_it = |(level, word): &(Level, &str)| {
        lower == *word
            || lower == level.letter().to_ascii_lowercase()
            || (lower == "warn" && *word == "warning")
    };
    let found = words.iter().find(|level| is_it(level));
    found.map(|(level, _)| *level).ok_or_else(|| "it is debug, info, warning or error".to_owned())
}

/// A time, as people give one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When(pub Timestamp);

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ago = |seconds: i64| Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).ok();
        let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
        let relative = units.iter().find_map(|(unit, each)| {
            let number = text.strip_suffix(unit)?.parse::<u32>().ok()?;
            ago(i64::from(number) * each)
        });
        let local = || {
            let civil: DateTime = text.parse().ok()?;
            Some(civil.to_zoned(TimeZone::system()).ok()?.timestamp())
        };
        relative.or_else(|| text.parse().ok()).or_else(local).map(Self).ok_or_else(|| {
            "it is 90s, 5m, 2h or 3d (that long ago), 2026-11-23T08:00 (here) or 2026-11-23T08:00:00Z"
                .to_owned()
        })
    }
}

/// Options of `gantry search`.
#[derive(Debug, Args)]
#[command(after_help = "\
The youngest execution comes first, its lines in order. --since and --until go
by when executions were accepted.

  gantry search iris 'out of memory' --since 1h
  gantry search iris --level error --since 2026-11-23 --limit 1000 --json")]
pub struct Search {
    /// The model
    #[arg(value_name = "MODEL")]
    pub model: ModelName,
    /// Only lines with this text in them, letter for letter
    #[arg(value_name = "TEXT")]
    pub text: Option<String>,
    /// Only lines of this level and those that matter more: debug, info, warning, error, or D, I, W, E
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    pub level: Option<Level>,
    /// Only executions of this time or later: 90s, 5m, 2h or 3d ago, or a time
    #[arg(long, value_name = "TIME")]
    pub since: Option<When>,
    /// Only executions before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<When>,
    /// How many lines at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// Leave control characters in (they can change your terminal)
    #[arg(long)]
    pub raw: bool,
    /// Print each line as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}

/// Options of `gantry ps`.
#[derive(Debug, Args)]
#[command(after_help = "\
--since and --until go by when executions were accepted.

  gantry ps --state failed --since 1d
  gantry ps --attribute customer=acme
  gantry ps --model iris --error oom --limit 1000 --json")]
pub struct Ps {
    /// Only those of this model
    #[arg(long, value_name = "MODEL")]
    pub model: Option<ModelName>,
    /// Only those in this state
    #[arg(long, value_name = "STATE")]
    pub state: Option<State>,
    /// Only those that this node holds or held last
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Only those that ended for this reason: script, timeout, oom, ...
    #[arg(long, value_name = "CLASS")]
    pub error: Option<ErrorClass>,
    /// Only those with this label; several: with all of them
    #[arg(long = "attribute", short, value_name = "KEY=VALUE")]
    pub attributes: Vec<Attributes>,
    /// Only those of this time or later: 90s, 5m, 2h or 3d ago, or a time
    #[arg(long, value_name = "TIME")]
    pub since: Option<When>,
    /// Only those before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<When>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}

/// Options of commands about one execution.
#[derive(Debug, Args)]
pub struct One {
    /// The execution
    #[arg(value_name = "EXECUTE_ID")]
    pub execute_id: ExecuteId,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}

/// Options of `gantry alias`.
#[derive(Debug, Args)]
#[command(after_help = "\
An alias moves when enough of the nodes that serve the model's queue have the
version (gateway.ready_percent_min); until then they fetch it, and the exit
code is 75.

  gantry alias iris stable 7 --wait 300
  gantry alias iris stable 6 --expected 7 --force
  gantry alias iris canary --delete")]
pub struct Alias {
    /// The model
    #[arg(value_name = "MODEL")]
    pub model: ModelName,
    /// The alias
    #[arg(value_name = "ALIAS")]
    pub alias: AliasName,
    /// The version's number
    #[arg(value_name = "VERSION", required_unless_present = "delete", value_parser = clap::value_parser!(i32).range(1..))]
    pub version: Option<i32>,
    /// Take the alias away
    #[arg(long, conflicts_with_all = ["version", "force", "wait", "expected"])]
    pub delete: bool,
    /// Move it however few nodes have the version
    #[arg(long)]
    pub force: bool,
    /// Wait at most this long for the nodes
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
    /// Only if it points at this version now; 0: only if it is new
    #[arg(long, value_name = "VERSION")]
    pub expected: Option<u32>,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}

/// Options of commands about one model.
#[derive(Debug, Args)]
pub struct OfModel {
    /// The model
    #[arg(value_name = "MODEL")]
    pub model: ModelName,
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}

/// Options of `gantry readiness`.
#[derive(Debug, Args)]
pub struct Readiness {
    /// The model
    #[arg(value_name = "MODEL")]
    pub model: ModelName,
    /// A version's number or an alias [default: the youngest ten, and those that aliases point at]
    #[arg(value_name = "VERSION")]
    pub version: Option<VersionSelector>,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}

/// Options of `gantry nodes`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "\
Those that left or were lost are listed for a day.

  gantry nodes --watch
  gantry nodes set box-1 --slots 16
  gantry nodes drain box-1 --deadline 5m --wait")]
pub struct Nodes {
    /// What to do with one
    #[command(subcommand)]
    pub command: Option<NodesCommand>,
    /// Draw the list again each second, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}

/// What to do with a node.
#[derive(Debug, Subcommand)]
pub enum NodesCommand {
    /// Show everything about a node
    Show(OneNode),
    /// Set how many executions a node runs at once; it takes effect at once
    Set(SetNode),
    /// Let a node take no new work, until it is undrained
    Drain(DrainNode),
    /// Let a node take work again
    Undrain(OneNode),
}

impl NodesCommand {
    /// Where the gateway is.
    pub const fn server(&self) -> &Server {
        match self {
            Self::Show(one) | Self::Undrain(one) => &one.server,
            Self::Set(set) => &set.server,
            Self::Drain(drain) => &drain.server,
        }
    }
}

/// Options of commands about one node.
#[derive(Debug, Args)]
pub struct OneNode {
    /// Its name
    #[arg(value_name = "NODE")]
    pub node: NodeName,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}

/// Options of `gantry nodes set`.
#[derive(Debug, Args)]
pub struct SetNode {
    /// Its name
    #[arg(value_name = "NODE")]
    pub node: NodeName,
    /// 1 to 10000, or `default` for what is configured
    #[arg(long, value_name = "N|default")]
    pub slots: Slots,
    /// Print the node as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}

/// A number of slots; `None`: as configured.
#[derive(Debug, Clone, Copy)]
pub struct Slots(pub Option<u16>);

impl FromStr for Slots {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "default" {
            return Ok(Self(None));
        }
        let slots = text.parse().ok().filter(|slots| (1..=10_000).contains(slots));
        slots.map(|slots| Self(Some(slots))).ok_or_else(|| "it is 1 to 10000, or default".to_owned())
    }
}

/// Options of `gantry nodes drain`.
#[derive(Debug, Args)]
pub struct DrainNode {
    /// Its name
    #[arg(value_name = "NODE")]
    pub node: NodeName,
    /// finish: what still runs after this is given back, as 90s, 5m or 2h
    #[arg(long, value_name = "TIME")]
    pub deadline: Option<Seconds>,
    /// What becomes of what runs: finish, requeue (SIGTERM, then again elsewhere) or kill
    #[arg(long, value_name = "MODE", default_value = "finish", value_parser = drain_mode)]
    pub mode: DrainMode,
    /// Wait until it runs nothing
    #[arg(long, conflicts_with = "json")]
    pub wait: bool,
    /// Print the node as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}

fn drain_mode(text: &str) -> Result<DrainMode, String> {
    match text {
        "finish" => Ok(DrainMode::Finish),
        "requeue" => Ok(DrainMode::Requeue),
        "kill" => Ok(DrainMode::Kill),
        _ => Err("it is finish, requeue or kill".to_owned()),
    }
}

/// A time in seconds, written as `90s`, `5m` or `2h`.
#[derive(Debug, Clone, Copy)]
pub struct Seconds(pub u32);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, each) = match text.strip_suffix(['s', 'm', 'h']) {
            Some(number) if text.ends_with('m') => (number, 60),
            Some(number) if text.ends_with('h') => (number, 3_600),
            Some(number) => (number, 1),
            None => (text, 1),
        };
        let seconds = number.parse::<u32>().ok().and_then(|number| number.checked_mul(each));
        seconds.map(Self).ok_or_else(|| "it is a number of seconds, or as 90s, 5m or 2h".to_owned())
    }
}

/// Options of `gantry limits`.
#[derive(Debug, Args)]
pub struct Limits {
    /// Show who holds this one, and who waits for it
    #[arg(value_name = "NAME")]
    pub name: Option<LimitName>,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}

/// Options of commands without any of their own.
#[derive(Debug, Args)]
pub struct Plain {
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
    /// The gateway
    #[command(flatten)]
    pub server: Server,
}
