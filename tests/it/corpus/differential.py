# Reads the questions of differential.rs, one JSON object a line, and prints each disagreement.
import json
import sys

import h11

# h11's own limit for a head is 16 KiB; the router's is a setting.
MOST = 1 << 20


def requests_in(data):
    """The requests that h11 finds as a server, and why it stopped."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST)
    connection.receive_data(data)
    connection.receive_data(b"")
    found = []
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                found.append({
                    "method": event.method.decode(), "target": event.target.decode("latin-1"), "body": b"",
                    "complete": False,
                })
            elif isinstance(event, h11.Data):
                found[-1]["body"] += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                found[-1]["complete"] = True
                connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE:
                    return found, "closed"
                if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
                    connection.start_next_cycle()
            elif isinstance(event, h11.ConnectionClosed):
                return found, "end"
            else:
                return found, str(event)
    except h11.RemoteProtocolError as error:
        return found, str(error)


def origin_form(target):
    for scheme in ("http://", "https://"):
        if target.lower().startswith(scheme):
            rest = target[len(scheme):]
            at = min((rest.index(mark) for mark in "/?" if mark in rest), default=len(rest))
            path = rest[at:]
            return path if path.startswith("/") else "/" + path
    return target


def plain(request, target=lambda text: text):
    body = request["body"] if isinstance(request["body"], bytes) else bytes.fromhex(request["body"])
    target = target(request["target"]).split("#")[0]
    return request["method"], target.encode("latin-1", "replace"), body, request["complete"]


def as_python(request):
    """The test reads heads as UTF-8, h11 as Latin-1: compared are bytes."""
    request = dict(request)
    request["target"] = request["target"].encode("utf-8").decode("latin-1")
    return request


def holds(found, counted):
    """Whether `counted` is in `found`, in order: some the router answers itself."""
    left = iter(found)
    return all(any(one == other for other in left) for one in counted)


def answer_in(question):
    """The first final answer that h11 finds as a client: status, body and whether it is complete."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST)
    connection.send(h11.Request(method=question["method"], target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(bytes.fromhex(question["bytes"]))
    connection.receive_data(b"")
    status, body = None, b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return status, body, True
            elif not isinstance(event, h11.InformationalResponse):
                return status, body, False
    except h11.RemoteProtocolError:
        return status, body, False


def judge(question):
    if question["kind"] == "answer":
        status, body, complete = found = answer_in(question)
        wanted = question["body"]
        agrees = (status, complete) == (question["status"], question["complete"])
        return agrees and (wanted is None or bytes.fromhex(wanted) == body), found, ""
    found, why = requests_in(bytes.fromhex(question["bytes"]))
    counted = [plain(as_python(request)) for request in question["requests"]]
    if question["kind"] == "pod":
        found = [plain(request) for request in found]
        if any(request["upgraded"] for request in question["requests"]):
            found = found[: len(counted)]
        return found == counted, found, why
    found = [plain(request, origin_form) for request in found]
    # One that the router broke off has no end to agree on.
    counted = [request for request in counted if request[3]]
    return holds(found, counted) != question["differs"], found, why


asked = 0
for line in sys.stdin:
    question = json.loads(line)
    asked += 1
    agrees, found, why = judge(question)
    if not agrees:
        counted = question.get("requests", "as in its table")
        print(f"{question['kind']} {question['name']}: {counted}, h11 found {found} ({why})")
print(f"asked {asked} times with h11 {h11.__version__}")
