"""One process of a scaling measurement: times the step, the all-reduce, and training with the input pipeline.

Started by benchmarks/scaling with its task as JSON; prints one line of JSON after RESULT.
"""

import json
import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

SIZES = (2**16, 2**20, 2**23)  # float32 elements of the all-reduces to which the link is fitted


def main() -> None:
    """Runs the measurement."""
    task = json.loads(sys.argv[1])
    from flexseg.commands.quiet import load_tensorflow

    load_tensorflow()
    from flexseg.console import be_silent
    from flexseg.data.dataset import open_dataset
    from flexseg.distribution.cluster import find_cluster
    from flexseg.runs.directory import RunDirectory
    from flexseg.training.assembly import Assembly
    from flexseg.training.experiment import read_experiment
    from flexseg.training.precision import precision_scope, resolve_precision
    from flexseg.training.session import open_devices
    from flexseg.training.trainer import Trainer

    experiment, _, _ = read_experiment([task["gin_file"]], task["gin_param"], user_modules=())
    cluster = find_cluster(distribution="auto" if task["workers"] else "mirrored", workers=task["workers"], worker=task["worker"], environment={})
    replicas = open_devices(experiment.train, replicas=task["replicas"], logical_cpus=task["logical_cpus"], cluster=cluster)
    if not replicas.is_chief:
        be_silent()
    precision = resolve_precision(experiment.train.precision, on_gpu=replicas.on_gpu)
    with precision_scope(precision):
        assembly = Assembly(experiment, open_dataset("synthetic_nuclei", task["data_dir"]), replicas, precision=precision, xla=experiment.train.xla)
        trainer = Trainer(assembly, experiment, open_dataset("synthetic_nuclei", task["data_dir"]), RunDirectory(os.devnull))
        steps, batches = trainer.steps, trainer.steps.batches()
        constant = next(batches)
        given = {"learning_rate": 1e-3, "total_weight": float(steps.batch_size)}

        def step() -> None:
            bool(steps.train_step(constant, global_step=0, **given).applied)

        gradients = [tuple(weight.shape) for weight in assembly.model.trainable_variables]
        found = {
            "replicas": replicas.count,
            "parameters": assembly.parameters,
            "step": seconds(step, task["steps"]),
            "all_reduce": seconds(all_reduce(replicas, gradients), task["steps"]),
            "links": [(4 * size, seconds(all_reduce(replicas, [(size,)]), task["steps"])) for size in SIZES] if replicas.count > 1 else [],
            "device": "GPU" if replicas.on_gpu else "CPU",
        }
        for _ in range(3):
            steps.advance(batches, last=2**62)
        steps.wait_for_pending()
        steps.throughput.pause()
        for _ in range(task["steps"]):
            steps.advance(batches, last=2**62)
        steps.wait_for_pending()
        facts = steps.throughput.facts()
    found |= {"images_per_second": facts["images_per_second"], "input_wait": facts["input_wait_fraction"], "batch": steps.batch_size}
    print("RESULT " + json.dumps(found), flush=True)


def seconds(act, count: int) -> float:
    """Median seconds of a call, after three calls for warm-up."""
    times = []
    for number in range(count + 3):
        began = time.perf_counter()
        act()
        if number >= 3:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def all_reduce(replicas, shapes):
    """A function that all-reduces float32 tensors of these shapes over all replicas and waits for the result."""
    import tensorflow as tf

    def replica():
        context = tf.distribute.get_replica_context()
        own = tf.cast(context.replica_id_in_sync_group, tf.float32)
        values = [tf.fill(shape, own) for shape in shapes]
        return tf.add_n([tf.reduce_max(v) for v in context.all_reduce(tf.distribute.ReduceOp.SUM, values, replicas.communication)])

    run = tf.function(lambda: replicas.strategy.run(replica), autograph=False)
    return lambda: replicas.local(run())[0].numpy()


if __name__ == "__main__":
    main()
