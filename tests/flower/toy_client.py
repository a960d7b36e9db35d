"""A toy ClientApp: echoes packets with words of its own, refuses, crashes or stalls on request."""

from __future__ import annotations

import os
import time

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedclient.packets import SiteRefusal, decode_packet, encode_packet, encode_refusal
from secagg.errors import FaultyServer
from secagg.session import Packet

app = ClientApp()


def own_number(site: str) -> np.uint64:
    """What this site adds to every word, so that no two sites send the same vector."""
    return np.uint64(ord(site[-1]))


@app.query("echo")
def echo(message: Message, context: Context) -> Message:
    packet = decode_packet(message.content, max_words=1 << 27)
    words = None if packet.words is None else packet.words + own_number(str(context.node_config["site"]))
    return Message(encode_packet(Packet(packet.head, words)), reply_to=message)


@app.query("refuse")
def refuse(message: Message, context: Context) -> Message:
    return Message(encode_refusal(SiteRefusal("faulty-site", "hospital-b")), reply_to=message)


@app.query("crash")
def crash(message: Message, context: Context) -> Message:
    raise RuntimeError("SECRET-IN-AN-EXCEPTION")


@app.query("accuse")
def accuse(message: Message, context: Context) -> Message:
    raise FaultyServer("SECRET-IN-AN-EXCEPTION")


@app.query("die")
def die(message: Message, context: Context) -> Message:
    if context.node_config["site"] == "hospital-a":
        os._exit(9)
    return echo(message, context)


@app.query("slow")
def slow(message: Message, context: Context) -> Message:
    time.sleep(30)
    return echo(message, context)
