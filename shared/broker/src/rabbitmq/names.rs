use domain::QueueName;

/// What our exchanges and queues are called.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
    /// Of this process: a part of the names of its own queues.
    process: String,
}

impl Names {
    pub(super) const fn new(prefix: String, process: String) -> Self {
        Self { prefix, process }
    }

    /// Requests go here, with the queue's name as routing key.
    pub(super) fn execute(&self) -> String {
        format!("{}.execute", self.prefix)
    }

    /// Both an exchange and the queue behind it: requests that no queue took.
    pub(super) fn unroutable(&self) -> String {
        format!("{}.unroutable", self.prefix)
    }

    /// Both an exchange and the queue behind it: requests that were given back too often.
    pub(super) fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    pub(super) fn rejected(&self) -> String {
        format!("{}.rejected", self.prefix)
    }

    /// What is told to every worker goes through this exchange.
    pub(super) fn control(&self) -> String {
        format!("{}.control", self.prefix)
    }

    pub(super) fn controls_of_this_process(&self) -> String {
        format!("{}.control.{}", self.prefix, self.process)
    }

    pub(super) fn reply_queue(&self) -> String {
        format!("{}.reply.{}", self.prefix, self.process)
    }

    pub(super) fn queue(&self, queue: &QueueName) -> String {
        format!("{}.queue.{queue}", self.prefix)
    }

    /// The queue that RabbitMQ knows as `name`.
    pub(super) fn parse_queue(&self, name: &str) -> Option<QueueName> {
        name.strip_prefix(&self.prefix)?.strip_prefix(".queue.")?.parse().ok()
    }

    /// Is this the reply queue of a process of ours, of this installation or of another with the same prefix?
    pub(super) fn is_of_a_process(&self, name: &str) -> bool {
        name.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with(".reply."))
    }

    /// May a reply be sent to the queue `name`? A caller chooses that name, so it must not be one of those we rely on.
    pub(super) fn may_be_replied_to(&self, name: &str) -> bool {
        match name.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix('.')) {
            Some(ours) => ours.starts_with("reply."),
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_cannot_be_sent_into_a_queue_we_rely_on() {
        let names = Names::new("gantry".to_owned(), "gateway-1".to_owned());
        for name in ["gantry.queue.default", "gantry.rejected", "gantry.dead", "gantry.control.worker-1"] {
            assert!(!names.may_be_replied_to(name), "{name}");
        }
        for name in
            ["gantry.reply.gateway-2", "amq.gen-x", "answers", "gantry2.queue.x", &names.reply_queue()]
        {
            assert!(names.may_be_replied_to(name), "{name}");
        }
    }

    #[test]
    fn the_reply_queue_of_a_process_is_told_from_a_producers() {
        let names = Names::new("gantry".to_owned(), "gateway-1".to_owned());
        assert!(names.is_of_a_process(&names.reply_queue()) && names.is_of_a_process("gantry.reply.other"));
        for name in ["amq.gen-x", "reply.x", "gantry.queue.reply.x", "gantry2.reply.x", "gantry.reply"] {
            assert!(!names.is_of_a_process(name), "{name}");
        }
    }

    #[test]
    fn the_name_of_a_queue_reads_back() {
        let names = Names::new("gantry".to_owned(), "x".to_owned());
        let queue: QueueName = "gpu.big".parse().unwrap();
        assert_eq!(names.parse_queue(&names.queue(&queue)), Some(queue));
        assert_eq!(names.parse_queue("gantry.dead"), None);
        assert_eq!(names.parse_queue("other.queue.default"), None);
    }
}
