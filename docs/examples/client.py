#!/usr/bin/env python3
"""A Tidegate client in one page: pip install websockets; python3 client.py alice [g:42 …]

TIDEGATE_CLIENT_ADDR names the gateway's client listener; TIDEGATE_TOKEN_FILE a file with alice's token (not needed in dev).
It follows the one rule of the protocol: keep (epoch, seq) per stream; every batch and pull answer covers (after, upto].
`after <= seq`: take what is newer and move to `upto`. `after > seq`: a hole, so pull. The cursors are kept in a file, so a
second run shows what was missed, once and in order; remove the file to begin anew.
"""
import asyncio, itertools, json, os, pathlib, random, sys
import websockets

UID, GROUPS = sys.argv[1] if len(sys.argv) > 1 else "alice", sys.argv[2:]
ADDR = os.environ.get("TIDEGATE_CLIENT_ADDR", "127.0.0.1:8080")
TOKEN = pathlib.Path(file).read_text().strip() if (file := os.environ.get("TIDEGATE_TOKEN_FILE")) else None
# With a token the handshake names nobody: the token goes in the first frame, where no proxy logs it.
URL = f"ws://{ADDR}/api/v1/ws" + ("" if TOKEN else f"?uid={UID}&device=python&defer=1")
FILE = pathlib.Path(f".tidegate-{UID}.json")
cursors = json.loads(FILE.read_text()) if FILE.exists() else {}
# Where a join without a cursor began: it goes along until the stream's first message makes a cursor.
begun = {}


def move(stream, epoch, seq):
    cursors[stream] = {"epoch": epoch, "seq": seq}
    FILE.write_text(json.dumps(cursors))


def take(stream, epoch, upto, messages):
    last = cursors[stream]["seq"]
    for message in messages:
        if message["seq"] > last:
            print(f"{stream} #{message['seq']} {message.get('from', '')}: {message.get('content', '')}", flush=True)
    move(stream, epoch, max(last, upto))


class Connection:
    def __init__(self, socket):
        self.socket, self.ids, self.waiting = socket, itertools.count(1), {}
        self.tasks, self.pulling = set(), set()

    async def ask(self, op, body):
        number = next(self.ids)
        self.waiting[number] = answer = asyncio.get_running_loop().create_future()
        await self.socket.send(json.dumps({"id": number, op: body}))
        return await answer

    def start(self, task):
        self.tasks.add(task := asyncio.create_task(task))
        task.add_done_callback(self.tasks.discard)

    async def pull(self, stream, head, wait_ms=0):
        await asyncio.sleep(wait_ms / 1000)
        if stream in self.pulling:
            return
        self.pulling.add(stream)
        while cursors[stream]["seq"] < head:
            at = cursors[stream]
            answer = await self.ask("pull", {"stream": stream, "epoch": at["epoch"], "after": at["seq"], "limit": 100})
            if error := answer.get("error"):
                if error["code"] == "EXPIRED":
                    move(stream, error["epoch"], error["first"] - 1)
                    continue
                if not error.get("retry"):
                    print(f"{stream}:", error, file=sys.stderr)
                    break
                await asyncio.sleep(error.get("retry_after_ms", 1000) / 1000)
                continue
            page = answer["ok"]
            take(stream, page["epoch"], page["next_after"], page["messages"])
            head = page["head"]
        self.pulling.discard(stream)

    def standing(self, state):
        cursor = cursors.get(state["stream"])
        if cursor and (state.get("recovered") == "expired" or cursor["epoch"] != state["epoch"]):
            move(state["stream"], state["epoch"], state["first"] - 1)

    async def hello(self):
        places = {**begun, **cursors}
        body = {"device": "python", "platform": "pc", "cursors": places}
        answer = await self.ask("connect", {**body, "token": TOKEN} if TOKEN else body)
        if "error" in answer:
            return print("connect:", answer["error"], file=sys.stderr)
        print(f"connected as {answer['ok']['uid']} to {answer['ok']['gateway']}", file=sys.stderr)
        for state in answer["ok"].get("streams", []):
            self.standing(state)
        # A cursor implies the join.
        for stream in (stream for stream in GROUPS if stream not in places):
            joined = await self.ask("join", {"stream": stream})
            if state := joined.get("ok"):
                begun[stream] = {"epoch": state["epoch"], "seq": state["head"]}
            else:
                print(f"{stream}:", joined["error"], file=sys.stderr)

    async def run(self):
        self.start(self.hello())
        async for text in self.socket:
            frame = json.loads(text)
            if waiting := self.waiting.pop(frame.get("id"), None):
                waiting.set_result(frame)
                # What was asked goes on before the next frame is looked at: a stream's state comes before its messages.
                await asyncio.sleep(0)
            elif batch := frame.get("batch"):
                stream, epoch = batch["stream"], batch["epoch"]
                if "upto" not in batch:
                    for message in batch["messages"]:
                        print(f"{stream}    {message.get('from', '')}: {message.get('content', '')}", flush=True)
                    continue
                if cursors.setdefault(stream, {"epoch": epoch, "seq": batch["after"]})["epoch"] != epoch:
                    move(stream, epoch, 0)
                if batch["after"] <= cursors[stream]["seq"]:
                    take(stream, epoch, batch["upto"], batch["messages"])
                else:
                    self.start(self.pull(stream, batch["upto"]))
            elif gap := frame.get("gap"):
                if cursors.get(gap["stream"], {}).get("epoch") != gap["epoch"]:
                    move(gap["stream"], gap["epoch"], gap["from"] - 1)
                self.start(self.pull(gap["stream"], gap["head"], gap.get("pull_after_ms", 0)))
            elif bye := frame.get("bye"):
                return bye.get("reconnect_after_ms")


async def main():
    wait = 0.25
    while True:
        asked = None
        try:
            async with websockets.connect(URL, subprotocols=["tidegate.v1.json"]) as socket:
                wait, connection = 0.25, Connection(socket)
                try:
                    asked = await connection.run()
                finally:
                    # What still waits for an answer would wait for ever.
                    for task in connection.tasks:
                        task.cancel()
            if 3500 <= (socket.close_code or 0) <= 3999:
                sys.exit(f"refused: {socket.close_code} {socket.close_reason}")
        except (OSError, websockets.WebSocketException) as error:
            code = getattr(getattr(error, "rcvd", None), "code", 0) or 0
            status = getattr(getattr(error, "response", None), "status_code", 0)
            if 3500 <= code <= 3999 or status in (400, 401, 403, 404):
                sys.exit(f"refused: {error}")
            print(f"connection lost: {error}", file=sys.stderr)
        # As long as the server asks for; otherwise longer with each failure, with jitter.
        await asyncio.sleep(asked / 1000 if asked is not None else wait * random.uniform(0.5, 1))
        wait = min(wait * 2, 15)


try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
