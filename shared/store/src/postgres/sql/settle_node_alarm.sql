-- Notes that an operator was told of an event. $1 event. No rows.
update node_event set alarm = false where event_id = $1::int8 and alarm
