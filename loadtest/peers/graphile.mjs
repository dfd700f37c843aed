// graphile-worker on PostgreSQL, many jobs at once. It keeps no results, so its caller learns of the end from the worker's events,
// in one process: a notification of PostgreSQL for each job was half as fast, as those commit one after another. So was its local
// queue, which serves a backlog, not callers who wait.
//
//   node graphile.mjs migrate
//   node graphile.mjs client CONCURRENCY SECONDS WARMUP PAYLOAD_BYTES

import { Logger, run, runMigrations } from "graphile-worker";
import { measure, payload } from "./measure.mjs";

const preset = {
  worker: {
    connectionString: process.env.PEER_POSTGRES_URL,
    concurrentJobs: 64,
    maxPoolSize: 16,
    logger: new Logger(() => () => {}),
  },
};

if (process.argv[2] === "migrate") {
  await runMigrations({ preset });
} else {
  const runner = await run({ preset, taskList: { noop: async () => {} }, noHandleSignals: true });
  const waiting = new Map();
  runner.events.setMaxListeners(0);
  runner.events.on("job:complete", ({ job }) => {
    waiting.get(job.payload.number)?.();
    waiting.delete(job.payload.number);
  });
  let next = 0;
  await measure(async () => {
    const number = next++;
    const done = new Promise((resolve) => waiting.set(number, resolve));
    await runner.addJob("noop", { number, payload });
    await done;
  });
  await runner.stop();
}
