-- Who is alive, and who may: fences of exclusive executions, and what the coordination keeps where there is no ZooKeeper.

