//! What readers ask for, and the pages they get.
//!
//! Every read is bounded: by how much it returns, and by how much it looks at to find that. A page says where the next one
//! begins, as long as there may be one, so a page may be short, or even empty, and not be the last.

use domain::limits::{LIST_PAGE_MAX, LOG_LOOK_MAX, LOG_PAGE_MAX};
use domain::{Attributes, ErrorClass, ExecuteId, Level, ModelName, NodeId, NodeName, State};
use jiff::Timestamp;

use crate::{ExecutionRow, LoggedLine};

/// Which executions to list.
#[derive(Debug, Clone, Default)]
pub struct ExecutionFilter {
    /// Only of this model.
    pub model: Option<ModelName>,
    /// Only in this state.
    pub state: Option<State>,
    /// Only those that this node, or this life of it, holds or held last.
    pub node: Option<OfNode>,
    /// Only with all of these attributes.
    pub attributes: Attributes,
    /// Only those that ended for this reason.
    pub error_class: Option<ErrorClass>,
    /// Only with ids from this one on: how a time is asked for ([`ExecuteId::floor`]).
    pub from: Option<ExecuteId>,
    /// Only with ids below this one: how a time is asked for, and the cursor.
    pub before: Option<ExecuteId>,
    /// At most this many, the youngest first; at most [`LIST_PAGE_MAX`].
    pub limit: u32,
}

/// A node in a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfNode {
    /// Any life of the node with this name.
    Named(NodeName),
    /// One of its lives.
    Life(NodeId),
}

impl ExecutionFilter {
    pub(crate) fn page_limit(&self) -> usize {
        self.limit.min(LIST_PAGE_MAX) as usize
    }

    pub(crate) fn node_name(&self) -> Option<&str> {
        match self.node.as_ref()? {
            OfNode::Named(name) => Some(name.as_str()),
            OfNode::Life(_) => None,
        }
    }

    pub(crate) fn node_life(&self) -> Option<String> {
        match self.node.as_ref()? {
            OfNode::Named(_) => None,
            OfNode::Life(life) => Some(life.to_string()),
        }
    }
}

/// A page of executions, the youngest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutionPage {
    /// Those that were found.
    pub executions: Vec<ExecutionRow>,
    /// Pass as `before` for the next page; `None`: there are no more.
    pub next: Option<ExecuteId>,
}

/// Which lines of a log are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineFilter {
    /// Only of this level and those that matter more.
    pub level: Option<Level>,
    /// Only with this text in it, letter for letter.
    pub text: Option<String>,
    /// Only read by their worker at this time or later.
    pub from: Option<Timestamp>,
    /// Only read by their worker before this time.
    pub to: Option<Timestamp>,
}

impl LineFilter {
    /// Is every line wanted?
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }

    /// Is this line wanted? As the record judges it.
    #[must_use]
    pub fn lets_through(&self, line: &LoggedLine) -> bool {
        self.level.is_none_or(|level| line.level >= level)
            && self.text.as_ref().is_none_or(|text| line.line.contains(text))
            && self.from.is_none_or(|from| line.at >= from)
            && self.to.is_none_or(|to| line.at < to)
    }

    pub(crate) fn levels(&self) -> &'static str {
        self.level.unwrap_or(Level::Debug).and_above()
    }
}

/// Which part of an execution's log to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Only lines after this `log_id`.
    pub after: i64,
    /// Only lines before this `log_id`; `None`: to the end.
    pub before: Option<i64>,
    /// The last lines of that range instead of the first. (The page is in order all the same.)
    pub from_end: bool,
    /// Which of them.
    pub lines: LineFilter,
    /// At most this many; at most [`LOG_PAGE_MAX`].
    pub limit: u32,
}

/// Lines of one execution, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogSlice {
    /// The lines.
    pub lines: Vec<LoggedLine>,
    /// Where the next page begins: pass it as `after`, or as `before` if the lines were taken from the end. `None`: the range
    /// has no further lines now.
    pub next: Option<i64>,
}

impl LogFilter {
    /// At most `limit` lines after `after`.
    #[must_use]
    pub fn after(after: i64, limit: u32) -> Self {
        Self { after, limit, ..Self::default() }
    }

    /// The last `limit` lines.
    #[must_use]
    pub fn tail(limit: u32) -> Self {
        Self { from_end: true, limit, ..Self::default() }
    }

    pub(crate) fn page_limit(&self) -> usize {
        self.limit.min(LOG_PAGE_MAX) as usize
    }

    pub(crate) fn before_or_end(&self) -> i64 {
        self.before.unwrap_or(i64::MAX)
    }

    /// The page of the lines that were `found`, in the order they were read in: at most one more than it holds. The last one
    /// need not be wanted if `is_cut`: the read has looked at as many lines as it may.
    pub(crate) fn slice(&self, mut found: Vec<(LoggedLine, bool)>, is_cut: bool) -> LogSlice {
        let is_full = found.len() > self.page_limit();
        found.truncate(self.page_limit());
        let last = found.last().map(|(line, _)| line.log_id);
        let wanted = found.into_iter().filter(|(_, is_wanted)| *is_wanted);
        let mut lines: Vec<_> = wanted.map(|(line, _)| line).collect();
        if self.from_end {
            lines.reverse();
        }
        LogSlice { lines, next: last.filter(|_| is_full || is_cut) }
    }
}

/// Where in the logs of a model to look for what.
#[derive(Debug, Clone)]
pub struct LogSearch {
    /// The model.
    pub model: ModelName,
    /// Only executions with ids from this one on.
    pub from: Option<ExecuteId>,
    /// Only executions with ids below this one.
    pub before: Option<ExecuteId>,
    /// Go on after this line.
    pub cursor: Option<LogCursor>,
    /// Which lines.
    pub lines: LineFilter,
    /// At most this many lines; at most [`LOG_PAGE_MAX`].
    pub limit: u32,
}

/// A line, as a place in the logs of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogCursor {
    /// The execution.
    pub execute_id: ExecuteId,
    /// Its line.
    pub log_id: i64,
}

/// What a search found: the youngest execution first, the lines of each in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogsFound {
    /// The lines and whose they are.
    pub lines: Vec<(ExecuteId, LoggedLine)>,
    /// How far it got: pass it as `cursor` to go on. `None`: there is nothing more to look at now.
    pub next: Option<LogCursor>,
}

/// Lines of one execution to be looked at: those after `after`, up to `upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub execute_id: ExecuteId,
    pub after: i64,
    pub upto: i64,
}

/// What one search looks at, and where it stops if it finds less than a page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Spans {
    pub list: Vec<Span>,
    pub stop: Option<LogCursor>,
}

impl LogSearch {
    pub(crate) fn page_limit(&self) -> usize {
        self.limit.min(LOG_PAGE_MAX) as usize
    }

    /// The ids to look at: the first, and the last.
    pub(crate) fn range(&self) -> (ExecuteId, Option<ExecuteId>) {
        (self.from.unwrap_or(ExecuteId::floor(0)), self.cursor.map(|cursor| cursor.execute_id))
    }

    /// The part of the logs of `executions` (with their last `log_id`, the youngest first; `most` were asked for) that one
    /// search looks at: at most [`LOG_LOOK_MAX`] lines.
    pub(crate) fn spans(&self, executions: &[(ExecuteId, i64)], most: u32) -> Spans {
        let mut spans = Spans::default();
        let mut left = i64::from(LOG_LOOK_MAX);
        for &(execute_id, last_log_id) in executions {
            let cursor = self.cursor.filter(|cursor| cursor.execute_id == execute_id);
            let after = cursor.map_or(0, |cursor| cursor.log_id);
            let upto = last_log_id.min(after.saturating_add(left));
            if upto > after {
                spans.list.push(Span { execute_id, after, upto });
                left -= upto - after;
            }
            if left == 0 {
                spans.stop = Some(LogCursor { execute_id, log_id: upto });
                return spans;
            }
        }
        if executions.len() >= most as usize {
            let last = executions.last();
            spans.stop = last.map(|&(execute_id, log_id)| LogCursor { execute_id, log_id });
        }
        spans
    }

    /// The page that these lines are, of those found in `spans`.
    pub(crate) fn found(&self, lines: Vec<(ExecuteId, LoggedLine)>, spans: &Spans) -> LogsFound {
        let is_full = lines.len() >= self.page_limit();
        let last =
            lines.last().map(|(execute_id, line)| LogCursor { execute_id: *execute_id, log_id: line.log_id });
        LogsFound { lines, next: if is_full { last } else { spans.stop } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(cursor: Option<LogCursor>) -> LogSearch {
        LogSearch {
            model: "echo".parse().unwrap(),
            from: None,
            before: None,
            cursor,
            lines: LineFilter::default(),
            limit: 10,
        }
    }

    #[test]
    fn a_search_looks_at_so_many_lines_and_says_where_it_stopped() {
        let most = i64::from(LOG_LOOK_MAX);
        let [young, old, oldest] = [3, 2, 1].map(ExecuteId::new);
        let all = [(young, 5), (old, most), (oldest, 1)];
        let spans = search(None).spans(&all, 100);
        let cut = Span { execute_id: old, after: 0, upto: most - 5 };
        assert_eq!(spans.list, [Span { execute_id: young, after: 0, upto: 5 }, cut]);
        let stop = LogCursor { execute_id: old, log_id: most - 5 };
        assert_eq!(spans.stop, Some(stop));
        let spans = search(Some(stop)).spans(&all[1..], 100);
        let rest = Span { execute_id: old, after: most - 5, upto: most };
        assert_eq!(spans.list, [rest, Span { execute_id: oldest, after: 0, upto: 1 }]);
        assert_eq!(spans.stop, None);
    }

    #[test]
    fn a_search_goes_on_after_as_many_executions_as_it_looks_at() {
        let silent: Vec<_> = (1..=3).rev().map(|ms| (ExecuteId::new(ms), 0)).collect();
        let spans = search(None).spans(&silent, 3);
        assert_eq!(
            (spans.list.len(), spans.stop),
            (0, Some(LogCursor { execute_id: silent[2].0, log_id: 0 }))
        );
        assert_eq!(search(None).spans(&silent, 4).stop, None);
    }
}
