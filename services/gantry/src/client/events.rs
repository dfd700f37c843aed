/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The type: `message` if the server named none.
    pub kind: String,
    /// The data, lines joined by line feeds.
    pub data: String,
}

/// Cuts a `text/event-stream` into events (HTML standard, section 9.2.6). Comments and ids are skipped: whoever reads a log
/// knows where it is from the rows.
#[derive(Default)]
pub struct Events {
    pending: Vec<u8>,
    kind: String,
    data: Vec<String>,
}

/// The longest line of a stream; a server that sends a longer one is none of ours.
const LINE_BYTES_MAX: usize = 1 << 20;

impl Events {
    /// Takes in `bytes` and returns the events they complete.
    ///
    /// # Errors
    /// A line is longer than any of ours.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>, &'static str> {
        let mut events = Vec::new();
        self.pending.extend_from_slice(bytes);
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            events.extend(self.line(line.trim_end_matches(['\n', '\r'])));
        }
        if self.pending.len() > LINE_BYTES_MAX {
            return Err("the stream of events has a line without an end");
        }
        Ok(events)
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let kind = std::mem::take(&mut self.kind);
            let data = std::mem::take(&mut self.data);
            if data.is_empty() {
                return None;
            }
            let kind = if kind.is_empty() { "message".to_owned() } else { kind };
            return Some(Event { kind, data: data.join("\n") });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.kind = value.to_owned(),
            "data" => self.data.push(value.to_owned()),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_any_cut_of_the_stream() {
        let stream = ": hello\n\nid: 1\nevent: line\ndata: {\"a\":1}\n\nid: 2\r\ndata: x\r\ndata: y\r\n\r\n";
        let line = Event { kind: "line".to_owned(), data: "{\"a\":1}".to_owned() };
        let message = Event { kind: "message".to_owned(), data: "x\ny".to_owned() };
        for size in 1..stream.len() {
            let mut events = Events::default();
            let found: Vec<_> =
                stream.as_bytes().chunks(size).flat_map(|cut| events.feed(cut).unwrap()).collect();
            assert_eq!(found, [line.clone(), message.clone()], "cut to {size} bytes");
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let mut events = Events::default();
        assert!(events.feed(&vec![b'x'; LINE_BYTES_MAX + 1]).is_err());
    }
}
