-- Copies log lines in, whose numbers were dealt out in the same transaction.
copy log (execute_id, log_id, at, attempt, continues, level, line) from stdin (format binary)
