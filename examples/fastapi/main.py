"""One application with everything that hurts its neighbours when one kind of worker serves it all.

    ldcorn examples/fastapi/groups.ini

Nothing in this file knows about ldcorn: groups.ini decides which processes serve which path.
"""
import asyncio
import os
import random
import time

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

app = FastAPI(title="one application, three kinds of endpoint")
pid = os.getpid()


@app.get("/")
async def fast():
    return {"fast": True, "pid": pid}


@app.get("/ml-pipeline")
async def ml_pipeline(least: float = 1.0, most: float = 3.0):
    """Stands for inference: while it runs, its process can do nothing else, not even accept."""
    seconds = random.uniform(least, most)
    time.sleep(seconds)
    return {"slept": round(seconds, 3), "pid": pid}


# State in memory: right as long as exactly one process has it, and as long as that one lives.
counter = 0


@app.post("/counter")
async def count():
    global counter
    counter += 1
    return {"counter": counter, "pid": pid}


@app.websocket("/ws")
async def echo(ws: WebSocket):
    await ws.accept()
    try:
        while True:
            await ws.send_text(await ws.receive_text())
    except WebSocketDisconnect:
        pass


@app.get("/events")
async def events(n: int = 10, every: float = 0.1):
    """Server-sent events: each has to arrive when it was sent, not when the answer is over."""

    async def stream():
        for i in range(n):
            yield f"id: {i}\ndata: {time.time():.6f}\n\n"
            await asyncio.sleep(every)

    return StreamingResponse(stream(), media_type="text/event-stream",
                             headers={"Cache-Control": "no-store"})
