"""A Ray cluster of several node processes on this machine, a plan run on it, and nodes killed.

    python ray_cluster.py PLAN NODES KILLS SEED

Runs PLAN as `runs/ray` in the working folder. The last line is JSON: the exit code, how many nodes
were killed, and how many shards were there at each kill.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"

os.environ.update({"RAY_raylet_start_wait_time_s": "180"})  # machines that are busy elsewhere

HEALTH = {
    "health_check_initial_delay_ms": 5000,
    "health_check_period_ms": 2000,
    "health_check_failure_threshold": 5,
}
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


def shards():
    return len(list(Path("runs/ray/cells").glob("*/shard-*.parquet")))


def main(plan, nodes, kills, seed):
    from ray.cluster_utils import Cluster

    lot = random.Random(seed)
    cluster = Cluster(
        initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "_system_config": HEALTH}
    )
    workers = [cluster.add_node(**NODE) for _ in range(nodes)]
    arguments = ["run", plan, "--name", "ray", "--no-report"]
    with open("run.out", "wb") as out:
        run = subprocess.Popen(
            [sys.executable, "-m", "bench", *arguments],
            env={**os.environ, "RAY_ADDRESS": cluster.address},
            stdout=out,
            stderr=out,
        )
        there = []
        while run.poll() is None:
            time.sleep(0.2)
            if len(there) < kills and shards() > (there[-1] if there else 0):
                time.sleep(lot.uniform(0, 0.5))
                there.append(shards())
                gone = workers.pop(lot.randrange(len(workers)))
                cluster.remove_node(gone, allow_graceful=False)
                workers.append(cluster.add_node(**NODE))
    cluster.shutdown()
    print(json.dumps({"code": run.returncode, "kills": len(there), "shards": there}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
