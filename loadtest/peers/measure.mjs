// What the Node.js peers share: how a closed loop is measured and what is printed of it.

const [, , , concurrency, seconds, warmup, payloadBytes] = process.argv;

export const payload = "x".repeat(Number(payloadBytes));

/** Makes `call` again and again from CONCURRENCY callers; only what is sent in the measured time counts. */
export async function measure(call) {
  await call();
  const measured = performance.now() + Number(warmup) * 1000;
  const end = measured + Number(seconds) * 1000;
  const times = [];
  const caller = async () => {
    for (let sent = performance.now(); sent < end; sent = performance.now()) {
      await call();
      if (sent >= measured) times.push(performance.now() - sent);
    }
  };
  await Promise.all(Array.from({ length: Number(concurrency) }, caller));
  const elapsed = (performance.now() - measured) / 1000;
  times.sort((one, two) => one - two);
  const at = (q) => Math.round((times[Math.min(Math.floor(times.length * q), times.length - 1)] ?? 0) * 1000);
  console.log(JSON.stringify({ per_s: times.length / elapsed, p50_us: at(0.5), p99_us: at(0.99) }));
}
