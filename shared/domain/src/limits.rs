//! Every bound that a caller can meet. What an operator may change stands in the configuration instead.

use std::time::Duration;

/// The largest input of an execution that is stored and sent inline.
pub const INPUT_BYTES_MAX: usize = 1 << 20;
/// The deepest that arrays and objects of a JSON input or result may nest.
pub const JSON_DEPTH_MAX: usize = 128;
/// The largest result that is stored and sent inline; a larger one fails as `too_large`.
pub const RESULT_BYTES_MAX: usize = 1 << 20;
/// The largest bundle that may be uploaded, packed.
pub const BUNDLE_BYTES_MAX: usize = 64 << 20;
/// The largest sum of a bundle's files, unpacked.
pub const BUNDLE_UNPACKED_BYTES_MAX: u64 = 256 << 20;
/// The largest file in a bundle, unpacked.
pub const BUNDLE_FILE_BYTES_MAX: u64 = 64 << 20;
/// The most entries in a bundle.
pub const BUNDLE_ENTRIES_MAX: usize = 10_000;
/// The largest ratio of unpacked to packed bytes.
pub const BUNDLE_RATIO_MAX: u64 = 200;
/// The longest path in a bundle, in bytes.
pub const BUNDLE_PATH_BYTES_MAX: usize = 1_024;
/// The longest part of a path in a bundle, in bytes.
pub const BUNDLE_PATH_PART_BYTES_MAX: usize = 255;
/// The deepest path in a bundle, in parts.
pub const BUNDLE_PATH_DEPTH_MAX: usize = 32;
/// The largest `gantry.toml`.
pub const MANIFEST_BYTES_MAX: usize = 64 << 10;

/// The longest log line, in characters; what is longer goes on in further rows.
pub const LINE_CHARS_MAX: usize = 1_000;
/// What one printed line may hold over all its rows, in bytes; the rest is cut with a marker.
pub const LINE_BYTES_MAX: usize = 16 << 10;
/// What one attempt may print in all; the rest is dropped with a marker.
pub const OUTPUT_BYTES_MAX: usize = 10 << 20;
/// The most log lines one read returns.
pub const LOG_PAGE_MAX: u32 = 1_000;
/// The most log lines one read looks at to find those it returns: what bounds the time of a read whose filter lets little
/// through. It says how far it got.
pub const LOG_LOOK_MAX: u32 = 20_000;
/// The most executions one search of logs looks at.
pub const SEARCH_EXECUTIONS_MAX: u32 = 1_000;
/// The longest text that log lines are searched for, in bytes.
pub const SEARCH_TEXT_BYTES_MAX: usize = 200;
/// The most executions one list returns.
pub const LIST_PAGE_MAX: u32 = 200;
/// The most executions one list looks at to find those it returns. It says how far it got.
pub const LIST_LOOK_MAX: u32 = 4_000;

/// How long a caller waits if it does not say.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// The longest a caller may wait.
pub const WAIT_MAX: Duration = Duration::from_secs(300);
/// How long one attempt may run if the manifest does not say.
pub const RUN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// The longest one attempt may run.
pub const RUN_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long an execution may wait for its lock and its limits, if the manifest does not say.
pub const EXCLUSIVE_WAIT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(600);
/// The longest an execution may wait for its lock and its limits.
pub const EXCLUSIVE_WAIT_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// The most that may wait for one lock or one limit, on all nodes together.
pub const EXCLUSIVE_WAITERS_MAX: u32 = 1_000;
/// The largest `max_running` of a limit.
pub const MAX_RUNNING_MAX: u32 = 10_000;
/// The most `[[limit]]` tables of a manifest.
pub const LIMITS_OF_MODEL_MAX: usize = 8;
/// From SIGTERM to the kill of the whole tree, if the manifest does not say.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(5);
/// The farthest a deadline may lie ahead of its execution's acceptance.
pub const DEADLINE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The farthest `not_before` may lie ahead.
pub const DELAY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long an idempotency key is remembered.
pub const IDEMPOTENCY_KEY_LIFE: Duration = Duration::from_secs(24 * 3600);
/// The longest idempotency key, in visible ASCII characters.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// How far back a new `execute_id` may be dated, by the record's clock.
pub const EXECUTE_ID_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How far ahead a new `execute_id` may be dated, by the record's clock.
pub const EXECUTE_ID_AHEAD_MAX: Duration = Duration::from_secs(300);

/// How often our own side may fail (node lost, shim broken) before an execution is `dead`.
pub const FAILURES_MAX: i32 = 3;
/// The most reply addresses an execution remembers: duplicates beyond it get no reply of their own.
pub const REPLY_ADDRESSES_MAX: usize = 100;
/// The most attributes of an execution.
pub const ATTRIBUTES_MAX: usize = 8;
/// The longest value of an attribute, in bytes.
pub const ATTRIBUTE_VALUE_BYTES_MAX: usize = 64;
/// The most attempts a manifest may ask for.
pub const ATTEMPTS_MAX: u32 = 100;
