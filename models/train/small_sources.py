"""The smaller sources, each with a format of its own: CLDR, the Factbook, ChatterBot."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import yaml

from train.pairs import Found, Pair
from train.sources import Package
from train.text import clean, sentences, words

_BODY_SENTENCES = 3


def cldr(package: Package) -> Iterator[Found]:
    """An emoji or its name, and its keywords."""
    names: dict[str, str] = {}
    keywords: dict[str, str] = {}
    for _, content in package.files():
        for element in ET.fromstring(content).iter("annotation"):
            target = names if element.get("type") == "tts" else keywords
            target[element.get("cp", "")] = clean(element.text or "")
    for sign, name in names.items():
        yield Found(name, Pair(sign, name))
        if listed := keywords.get(sign, "").replace(" | ", ", "):
            yield Found(name, Pair(name, listed))
            yield Found(name, Pair(sign, listed))


def factbook(package: Package) -> Iterator[Found]:
    """A country and a topic, and what is said of it."""
    for path, content in package.files():
        data = json.loads(content)
        if not isinstance(data, dict) or "Government" not in data:
            continue
        name = data["Government"].get("Country name", {}).get("conventional short form", {}).get("text", "")
        if name and name != "none":
            for topic, text in _leaves(data):
                if body := sentences(clean(text)):
                    yield Found(path, Pair(f"{name}: {topic}", " ".join(body[:_BODY_SENTENCES])))


def _leaves(data: dict[str, Any], topic: str = "") -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if key == "text" and isinstance(value, str):
            yield topic, value
        elif isinstance(value, dict):
            yield from _leaves(value, clean(key))


def chatterbot(package: Package) -> Iterator[Found]:
    """A question and its answer."""
    for path, content in package.files():
        for turns in yaml.safe_load(content)["conversations"]:
            said = [clean(str(t)) for t in turns]
            for question, answer in pairwise(said):
                if len(words(answer)) > 2:
                    yield Found(f"{path}/{question.lower()}", Pair(question, answer))
