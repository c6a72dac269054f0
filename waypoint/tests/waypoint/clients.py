"""gRPC and WebSocket clients and servers that are not ours: grpcio and websockets from PyPI.

usage: clients.py serve HOST PORT      a gRPC server, until it is killed
       clients.py call HOST:PORT       a series of calls; the first that goes wrong ends it
       clients.py echo HOST PORT       a WebSocket server that sends everything back
       clients.py chat URL             a WebSocket client
"""

import asyncio
import sys
import threading
import time
from concurrent import futures

raw = dict(request_serializer=None, response_deserializer=None)
cancelled = threading.Event()
failures = {"flaky": 0}


def serve(host, port):
    import grpc

    def unary(request, context):
        context.set_trailing_metadata((("x-trailer", "kept"),))
        return request[::-1]

    def count(request, context):
        for number in range(int(request)):
            yield str(number).encode()

    def echo(requests, context):
        for request in requests:
            yield b"echo " + request

    def collect(requests, context):
        return b",".join(requests)

    def refuse(request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: ü")

    def flaky(request, context):
        failures["flaky"] += 1
        if failures["flaky"] % 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return str(failures["flaky"]).encode()

    def slow(request, context):
        cancelled.clear()
        context.add_callback(cancelled.set)
        left = context.time_remaining()
        cancelled.wait(5)
        return str(left).encode()

    def was_cancelled(request, context):
        return b"yes" if cancelled.wait(2) else b"no"

    calls = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "Flaky": grpc.unary_unary_rpc_method_handler(flaky),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    }
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Calls", calls),))
    assert server.add_insecure_port(f"{host}:{port}") == int(port)
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


def call(target):
    import grpc

    channel = grpc.insecure_channel(target)
    method = lambda kind, name: getattr(channel, kind)(f"/test.Calls/{name}")

    answer, unary = method("unary_unary", "Unary").with_call(b"hello", timeout=5)
    assert answer == b"olleh", answer
    assert ("x-trailer", "kept") in unary.trailing_metadata(), unary.trailing_metadata()
    large = bytes(3_000_000)
    assert method("unary_unary", "Unary")(large, timeout=20) == large

    assert [int(n) for n in method("unary_stream", "Count")(b"200", timeout=10)] == list(range(200))
    assert method("stream_unary", "Collect")(iter([b"a", b"b", b"c"]), timeout=5) == b"a,b,c"

    # Each message is sent only when the answer to the one before is there: nothing may be held back on the way.
    go, rounds = threading.Semaphore(1), 50

    def requests():
        for number in range(rounds):
            go.acquire()
            yield str(number).encode()

    seen = 0
    for reply in method("stream_stream", "Echo")(requests(), timeout=20):
        assert reply == b"echo " + str(seen).encode(), reply
        seen += 1
        go.release()
    assert seen == rounds, seen

    def fails(code, name, body=b"", timeout=5):
        try:
            method("unary_unary", name)(body, timeout=timeout)
        except grpc.RpcError as error:
            assert error.code() == code, error
            return error
        raise AssertionError(f"{name} did not fail")

    assert fails(grpc.StatusCode.NOT_FOUND, "Refuse").details() == "no such thing: ü"
    fails(grpc.StatusCode.UNIMPLEMENTED, "Absent")
    # Twice UNAVAILABLE, then an answer: the retries are the waypoint's, the client is told to make none.
    assert method("unary_unary", "Flaky")(b"", timeout=5) == b"3"

    began = time.monotonic()
    fails(grpc.StatusCode.DEADLINE_EXCEEDED, "Slow", timeout=0.5)
    assert time.monotonic() - began < 2
    assert method("unary_unary", "WasCancelled")(b"", timeout=5) == b"yes"

    future = method("unary_unary", "Slow").future(b"", timeout=10)
    time.sleep(0.3)
    future.cancel()
    assert method("unary_unary", "WasCancelled")(b"", timeout=5) == b"yes"
    print("done", flush=True)


async def echo(host, port):
    from websockets.asyncio.server import serve as listen

    async def back(socket):
        async for message in socket:
            await socket.send(message)

    async with listen(back, host, int(port)):
        print("ready", flush=True)
        await asyncio.Future()


async def chat(url):
    from websockets.asyncio.client import connect

    async with connect(url, max_size=None) as socket:
        for message in ["hello", b"\x00\x01\x02", "x" * 200_000]:
            await socket.send(message)
            assert await socket.recv() == message
        # Longer than any head or deadline would allow a request to wait.
        await asyncio.sleep(0.5)
        await (await socket.ping())
    print("done", flush=True)


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    outcome = {"serve": serve, "call": call, "echo": echo, "chat": chat}[action](*arguments)
    if asyncio.iscoroutine(outcome):
        asyncio.run(outcome)
