#!/usr/bin/python3
"""A reward of your own: grades quantities of physics, as an example.

    deploy/examples/reward-python/server.py [--address 127.0.0.1:7080]

Implements crescendo.v1.RewardService for a kind of problem whose answers are measured quantities: a gold answer is "9.81 m/s^2
+- 1%", and any answer counts that lies within the tolerance, in whatever unit of the same dimension. Name the server in the
run's rewards file (rewards.toml beside this file) and give the problems "physics" as their reward kind.

Needs Debian's python3-grpcio, python3-protobuf and protobuf-compiler. Prints the address it listens at; ends on SIGTERM.
"""
import argparse
import math
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent import futures

import grpc

PROTO = pathlib.Path(__file__).resolve().parents[3] / "proto"

# To the base unit (m, kg, s, A, K), with the powers of each.
UNITS = {
    "m": (1, (1, 0, 0, 0, 0)), "km": (1e3, (1, 0, 0, 0, 0)), "cm": (1e-2, (1, 0, 0, 0, 0)), "mm": (1e-3, (1, 0, 0, 0, 0)),
    "kg": (1, (0, 1, 0, 0, 0)), "g": (1e-3, (0, 1, 0, 0, 0)), "s": (1, (0, 0, 1, 0, 0)), "ms": (1e-3, (0, 0, 1, 0, 0)),
    "min": (60, (0, 0, 1, 0, 0)), "h": (3600, (0, 0, 1, 0, 0)), "A": (1, (0, 0, 0, 1, 0)), "K": (1, (0, 0, 0, 0, 1)),
    "N": (1, (1, 1, -2, 0, 0)), "J": (1, (2, 1, -2, 0, 0)), "kJ": (1e3, (2, 1, -2, 0, 0)), "W": (1, (2, 1, -3, 0, 0)),
    "kW": (1e3, (2, 1, -3, 0, 0)), "Pa": (1, (-1, 1, -2, 0, 0)), "Hz": (1, (0, 0, -1, 0, 0)), "V": (1, (2, 1, -3, -1, 0)),
}
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:\s*(?:[eE]|\\times\s*10\^|\\cdot\s*10\^|\*\s*10\^)\s*\{?[-+]?\d+\}?)?"


def parse_quantity(text):
    """(value in base units, dimension), or None when the text is no quantity."""
    text = re.sub(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}", r"\1", text.strip().strip("$"))
    text = re.sub(r"\\[,;! ~]|~", " ", text)
    match = re.match(rf"\s*({NUMBER})\s*(.*)$", text, re.S)
    if not match:
        return None
    number = re.sub(r"\s*(?:\\times|\\cdot|\*)\s*10\^\s*", "e", match.group(1))
    value = float(re.sub(r"[{}\s]", "", number))
    dimension = [0] * 5
    sign = 1
    for operator, unit, power in re.findall(r"([/*·]|\\cdot)?\s*([A-Za-z]+)(?:\^\{?(-?\d{1,2})\}?)?", match.group(2)):
        if unit not in UNITS:
            return None
        sign = -1 if operator == "/" else 1
        exponent = sign * int(power or 1)
        factor, powers = UNITS[unit]
        value *= factor ** exponent
        dimension = [d + exponent * p for d, p in zip(dimension, powers)]
    return value, tuple(dimension)


def extract(response):
    """The content of the last \\boxed{...} after the thinking part; None without one that ends."""
    text = response.rsplit("</think>", 1)[-1]
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for at in range(begin, min(len(text), begin + 4096)):
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            if depth == 0:
                return text[begin:at]
            depth -= 1
    return None


def grade(golds, response):
    """(verdict, reward, reason, extracted): 1 correct, 2 incorrect, 3 undecided, as in the proto."""
    answer = extract(response)
    if answer is None:
        return 2, 0.0, "no_answer", ""
    quantity = parse_quantity(answer)
    verdict = (2, 0.0, "number_differs", answer)
    for gold in golds:
        text, _, tolerance = gold.partition("+-")
        wanted = parse_quantity(text)
        if wanted is None:
            return 3, 0.0, "gold_unparsable", answer
        if quantity is None:
            return 3, 0.0, "answer_unparsable", answer
        if quantity[1] != wanted[1]:
            verdict = (2, 0.0, "unit_differs", answer)
            continue
        share = float(tolerance.strip().rstrip("%") or 1) / 100
        if math.isclose(quantity[0], wanted[0], rel_tol=share):
            return 1, 1.0, "rounds", answer
    return verdict


def load_protos():
    """The generated modules, made by protoc in a temporary folder."""
    folder = tempfile.mkdtemp(prefix="crescendo-proto-")
    names = ["crescendo/v1/coordinator.proto", "crescendo/v1/reward.proto"]
    subprocess.run(["protoc", f"-I{PROTO}", f"--python_out={folder}", *names], check=True)
    sys.path.insert(0, folder)
    from crescendo.v1 import reward_pb2
    return reward_pb2


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--address", default="127.0.0.1:7080", help="host:port; port 0 takes any free one")
    arguments = parser.parse_args()
    reward_pb2 = load_protos()

    def grade_stream(requests, context):
        for request in requests:
            verdict, reward, reason, extracted = grade(request.reward.gold, request.response.decode("utf-8", "replace"))
            yield reward_pb2.GradeResponse(id=request.id, verdict=verdict, reward=reward, reason=reason, extracted=extracted[:64])

    handler = grpc.stream_stream_rpc_method_handler(
        grade_stream,
        request_deserializer=reward_pb2.GradeRequest.FromString,
        response_serializer=reward_pb2.GradeResponse.SerializeToString)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("crescendo.v1.RewardService", {"Grade": handler}),))
    port = server.add_insecure_port(arguments.address)
    server.start()
    print(f"listening at {arguments.address.rsplit(':', 1)[0]}:{port}", flush=True)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    stopped.wait()
    server.stop(grace=2)


if __name__ == "__main__":
    main()
