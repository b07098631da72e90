"""Two participants talk; one of them is closed and opened again in between. Run it with the library and a directory for the data:

    python3 two_participants.py target/release/libsds.so ./data
"""

import ctypes
import json
import pathlib
import sys
import threading

library, data = sys.argv[1], pathlib.Path(sys.argv[2])
sds = ctypes.CDLL(library)

CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
TEXT, BYTES, SIZE, HANDLE = ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p
sds.seabed_sds_open.restype = HANDLE
sds.seabed_sds_open.argtypes = [TEXT, TEXT, TEXT, CALLBACK, HANDLE]
sds.SdsSetEventCallback.argtypes = [HANDLE, CALLBACK, HANDLE]
sds.SdsWrapOutgoingMessage.argtypes = [HANDLE, BYTES, SIZE, TEXT, TEXT, CALLBACK, HANDLE]
sds.SdsUnwrapReceivedMessage.argtypes = [HANDLE, BYTES, SIZE, CALLBACK, HANDLE]
sds.SdsCleanupReliabilityManager.argtypes = [HANDLE, CALLBACK, HANDLE]
sds.seabed_sds_status.argtypes = [HANDLE, TEXT, CALLBACK, HANDLE]


def ask(function, *arguments):
    """Calls a function and waits for its result."""
    answers, answered = [], threading.Event()

    def callback(ret, msg, length, _):
        answers.append((ret, ctypes.string_at(msg, length).decode() if msg else ""))
        answered.set()

    # The callback must live until it was called.
    kept = CALLBACK(callback)
    returned = function(*arguments, kept, None)
    answered.wait()
    ((ret, text),) = answers
    if ret != 0:
        raise RuntimeError(f"{function.__name__}: {ret}: {text}")
    return returned, text


class Participant:
    def __init__(self, name):
        self.events = []
        self.on_event = CALLBACK(self.happened)
        self.sds, _ = ask(sds.seabed_sds_open, name.encode(), str(data / name).encode(), None)
        sds.SdsSetEventCallback(self.sds, self.on_event, None)

    def happened(self, _ret, msg, length, _data):
        self.events.append(json.loads(ctypes.string_at(msg, length)))

    def send(self, channel, name, content):
        _, numbers = ask(sds.SdsWrapOutgoingMessage, self.sds, content, len(content), name.encode(), channel.encode())
        return bytes(map(int, numbers.split(",")))

    def receive(self, wire):
        return json.loads(ask(sds.SdsUnwrapReceivedMessage, self.sds, wire, len(wire))[1])

    def status(self, channel):
        return json.loads(ask(sds.seabed_sds_status, self.sds, channel.encode())[1])

    def close(self):
        ask(sds.SdsCleanupReliabilityManager, self.sds)


alice, bob = Participant("alice"), Participant("bob")
hello = alice.send("room", "m1", b"hello")
assert bytes(bob.receive(hello)["message"]) == b"hello"
assert [event["eventType"] for event in bob.events] == ["message_ready"]
alice.close()
bob.close()

alice, bob = Participant("alice"), Participant("bob")
assert alice.status("room")["unacknowledged"] == ["m1"]
assert bob.receive(hello)["reception"] == "duplicate"
alice.receive(bob.send("room", "m2", b"hello yourself"))
assert {"eventType": "message_sent", "messageId": "m1", "channelId": "room"} in alice.events
assert alice.status("room")["unacknowledged"] == []
alice.close()
bob.close()
print("alice knows that bob has her message")
