"""A chat template that leaves texts as they are is taken, in any spelling; every other one is refused."""

import json
from pathlib import Path

import pytest
import standin2_config

from embedding_export.checkpoint.chat_template import FILE, check_chat_template
from embedding_export.errors import CheckpointError

# The same in the spelling of a file for people, where block marks stand on lines of their own.
LINES = """\
{%- for m in messages -%}
    {%- for part in m['content'] -%}
        {%- if part.get('type') == 'image' -%}
            <|image|>
        {%- endif -%}
    {%- endfor -%}
{%- endfor -%}
{% for m in messages %}
    {% for part in m['content'] %}
        {%- if part['type'] == 'text' -%}
            {{- part['text'] -}}
        {%- endif -%}
    {% endfor %}
{%- endfor -%}"""

JOINED = "{%- for m in messages -%}{%- for p in m['content'] -%}{{ p['text'] }}{%- endfor -%}{%- endfor -%}"
REFUSED = {
    "turns": "{% for m in messages %}<|turn>{{ m.role }}\n{{ m.content[0].text }}<turn|>{% endfor %}",
    "the user alone": "{{ messages[-1].content[0].text }}",
    "trimmed": JOINED.replace("p['text']", "p['text'] | trim"),
    "bos": "{{ bos_token }}" + JOINED,
    "a line between": JOINED.replace(
        "{%- endfor -%}{%- endfor -%}", "{%- endfor -%}{{ '\\n' }}{%- endfor -%}"
    ),
    "escaped": JOINED.replace("p['text']", "p['text'] | e"),
    "lower case": JOINED.replace("p['text']", "p['text'] | lower"),
    "nothing": "",
}


@pytest.mark.parametrize("source", [standin2_config.TEMPLATE, JOINED, LINES, JOINED + "\n"])
def test_texts_stay_as_they_are(tmp_path: Path, source: str) -> None:
    (tmp_path / FILE).write_text(source)
    check_chat_template(tmp_path)


@pytest.mark.parametrize("case", REFUSED)
def test_what_changes_texts_is_refused(tmp_path: Path, case: str) -> None:
    (tmp_path / FILE).write_text(REFUSED[case])
    with pytest.raises(CheckpointError, match=r"jinja: the chat template makes .* expected the two joined"):
        check_chat_template(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "processor_config.json", "chat_template.json"])
def test_older_places_are_looked_at(tmp_path: Path, name: str) -> None:
    (tmp_path / FILE).write_text(JOINED)
    (tmp_path / name).write_text(json.dumps({"chat_template": REFUSED["turns"]}))
    with pytest.raises(CheckpointError, match=f"{name}: the chat template makes"):
        check_chat_template(tmp_path)


@pytest.mark.parametrize(
    "source",
    ["{% for", "{{ messages.pop() }}", "{{ 1 / 0 }}", "{{ raise_exception('no') }}", "{{ ''.__class__.x }}"],
)
def test_what_cannot_be_rendered_is_refused(tmp_path: Path, source: str) -> None:
    (tmp_path / FILE).write_text(source)
    with pytest.raises(CheckpointError, match=r"cannot be rendered|makes"):
        check_chat_template(tmp_path)


def test_a_missing_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no chat_template\.jinja.*Fetch the checkpoint again"):
        check_chat_template(tmp_path)
