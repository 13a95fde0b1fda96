"""Run an input host that reads, decodes and augments for trainers: a dispatcher and a worker of the tf.data service.

    python -m flexseg.launch.data_service --port=5050                 # on every input host, until it is ended
    flexseg train … --data_service=grpc://input1:5050,grpc://input2:5050

It serves any number of trainers and runs. Datasets must have the same paths as on the trainers. After Ctrl-C or SIGTERM nothing is lost: the trainers
stop, and the same commands resume from the last checkpoint. The port has no authentication: keep it inside the cluster.
"""

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the service and returns the exit code."""
    parser = argparse.ArgumentParser(prog="flexseg.launch.data_service", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=5050, help="of the dispatcher, which trainers name (default: 5050)")
    parser.add_argument("--worker_port", type=int, default=0, help="of the worker, which trainers fetch from (default: the one after --port)")
    parser.add_argument("--host", default=socket.gethostname(), help="under which trainers reach this host (default: its name)")
    given = parser.parse_args(arguments)
    worker_port = given.worker_port or given.port + 1
    for port in (given.port, worker_port):
        try:
            socket.create_server(("", port), reuse_port=False).close()  # gRPC would share the port of another process
        except (OSError, OverflowError) as error:
            found = getattr(error, "strerror", None) or str(error)
            print(f"data_service: expected port {port} to be free, found: {found}. To fix it: another --port or --worker_port", file=sys.stderr)
            return 1
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from flexseg.commands.quiet import hide_gpus, load_tensorflow
    from flexseg.errors import UserError

    hide_gpus()
    try:
        load_tensorflow()
    except UserError as error:
        print(f"data_service: {error}", file=sys.stderr)
        return 1
    import tensorflow as tf

    service, ended = tf.data.experimental.service, threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=given.port))
    settings = {"dispatcher_address": f"localhost:{given.port}", "worker_address": f"{given.host}:{worker_port}", "port": worker_port}
    worker = service.WorkerServer(service.WorkerConfig(**settings))
    print(f"serving; trainers name it as grpc://{given.host}:{given.port}", flush=True)
    ended.wait()
    del worker, dispatcher
    return 0


if __name__ == "__main__":
    sys.exit(main())
