import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.ExponentialBackoffRetry;

/** Contends for one InterProcessMutex from many threads of one client and prints how often it was held. */
public class Contend {
    public static void main(String[] args) throws Exception {
        String servers = args[0], path = args[1];
        int contenders = Integer.parseInt(args[2]);
        long warmup = Long.parseLong(args[3]), duration = Long.parseLong(args[4]);
        CuratorFramework client =
            CuratorFrameworkFactory.newClient(servers, 10_000, 10_000, new ExponentialBackoffRetry(100, 5));
        client.start();
        client.blockUntilConnected();
        long begin = System.nanoTime() + warmup * 1_000_000, end = begin + duration * 1_000_000;
        List<Thread> threads = new ArrayList<>();
        List<Long> all = new ArrayList<>();
        for (int n = 0; n < contenders; n++) {
            Thread thread = new Thread(() -> {
                List<Long> own = new ArrayList<>();
                InterProcessMutex mutex = new InterProcessMutex(client, path);
                try {
                    while (System.nanoTime() < end) {
                        long asked = System.nanoTime();
                        mutex.acquire();
                        mutex.release();
                        long done = System.nanoTime();
                        if (asked >= begin && done <= end) own.add((done - asked) / 1_000);
                    }
                } catch (Exception error) {
                    error.printStackTrace();
                    System.exit(1);
                }
                synchronized (all) {
                    all.addAll(own);
                }
            });
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) thread.join();
        long[] sorted = all.stream().mapToLong(Long::longValue).sorted().toArray();
        long p50 = sorted.length == 0 ? 0 : sorted[sorted.length / 2];
        long p99 = sorted.length == 0 ? 0 : sorted[(int) (sorted.length * 0.99)];
        System.out.printf("{\"held\": %d, \"p50_us\": %d, \"p99_us\": %d}%n", sorted.length, p50, p99);
        client.close();
    }
}
