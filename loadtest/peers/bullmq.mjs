// BullMQ on Redis: many jobs at once in the worker, few finished jobs kept, as its guide advises for
// throughput (none at all would be gone before their callers look).
//
//   node bullmq.mjs worker
//   node bullmq.mjs client CONCURRENCY SECONDS WARMUP PAYLOAD_BYTES

import { Queue, QueueEvents, Worker } from "bullmq";
import { measure, payload } from "./measure.mjs";

const url = new URL(process.env.PEER_REDIS_URL);
const connection = { host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null };

if (process.argv[2] === "worker") {
  new Worker("peer", async (job) => job.data.payload, { connection, concurrency: 256 });
} else {
  const queue = new Queue("peer", { connection });
  const events = new QueueEvents("peer", { connection });
  queue.setMaxListeners(0);
  events.setMaxListeners(0);
  await events.waitUntilReady();
  await measure(async () => {
    const job = await queue.add("noop", { payload }, { removeOnComplete: 10_000, removeOnFail: 10_000 });
    await job.waitUntilFinished(events, 60_000);
  });
  await events.close();
  await queue.close();
}
