"""Dead letters as tables and lines for people. Pure: makes rich renderables, prints nothing."""

from __future__ import annotations

from base64 import b64decode
from datetime import datetime

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from foldline.render import NOTHING, between, moment_text, table
from ingest.dlq.answers import RedriveOutcome
from projections.dlq.answers import InputAnswer, LetterAnswer, LetterGroups, LetterList

STYLES = {"open": "bold red", "redriven": "green", "purged": "dim"}
LETTER_ID_LETTERS = 36
SHOWN_BYTES = 256
ROW_BYTES = 16


def letters_table(page: LetterList, now: datetime) -> RenderableType:
    """A page of letters."""
    made = table("ID", "STATE", "AGE", "TRIES", "QUEUE", "FAILURE", "FINGERPRINT", "MESSAGE")
    made.columns[0].min_width = LETTER_ID_LETTERS
    for letter in page.letters:
        made.add_row(
            letter.id,
            Text(letter.state, style=STYLES.get(letter.state, "")),
            between(letter.at, now),
            str(letter.attempts),
            f"{letter.cluster}/{letter.queue}" if letter.queue else NOTHING,
            letter.failure or NOTHING,
            letter.fingerprint or NOTHING,
            escape(letter.message) or NOTHING,
        )
    more = f"more: --cursor {page.next_cursor}" if page.next_cursor else ""
    return Group(made, Text(more, style="dim")) if more else made


def groups_table(answer: LetterGroups, now: datetime) -> RenderableType:
    """Letters that look alike, one line a look."""
    made = table("LETTERS", "FAILURE", "FINGERPRINT", "FIRST", "LAST", "LATEST", "MESSAGE")
    made.columns[0].justify = "right"
    made.columns[5].min_width = LETTER_ID_LETTERS
    for group in answer.groups:
        made.add_row(
            str(group.letters),
            group.failure or NOTHING,
            group.fingerprint or NOTHING,
            f"{between(group.first_at, now)} ago",
            f"{between(group.last_at, now)} ago",
            group.latest_id,
            escape(group.message) or NOTHING,
        )
    return made


def letter_text(letter: LetterAnswer) -> RenderableType:
    """One letter in full."""
    facts = table("", "")
    facts.show_header = False
    for name, value in _facts(letter):
        facts.add_row(Text(name, style="dim"), value)
    parts: list[RenderableType] = [facts]
    if letter.history:
        parts += ["", _history(letter)]
    if letter.log_tail:
        parts += ["", Text("last lines", style="dim"), Text(letter.log_tail)]
    if letter.input is not None:
        parts += ["", *_input(letter.input)]
    return Group(*parts)


def outcome_text(outcome: RedriveOutcome) -> str:
    """What was done with one letter, on one line."""
    if outcome.outcome == "skipped":
        return f"{outcome.letter_id} skipped: {outcome.message}"
    verb = "would become" if outcome.outcome == "would_send" else "is"
    if outcome.job_id is None:
        place = f" as command {outcome.position}" if outcome.position else ""
        return f"{outcome.letter_id} {'would be sent' if not place else 'sent'} again{place}"
    asks = f"cpu {(outcome.cpu_milli or 0) / 1000:g}, memory {outcome.memory_mib}Mi"
    asks += f", gpu {outcome.gpu_milli / 1000:g}" if outcome.gpu_milli else ""
    asks += f", image {outcome.image}" if outcome.image else ""
    where = f"{outcome.cluster}/{outcome.queue}"
    return f"{outcome.letter_id} {verb} {outcome.job_id} ({where}; {asks})"


def _facts(letter: LetterAnswer) -> list[tuple[str, RenderableType]]:
    rows: list[tuple[str, RenderableType]] = [
        ("id", letter.id),
        ("state", Text(letter.state, style=STYLES.get(letter.state, ""))),
        ("laid aside", moment_text(letter.at)),
        ("failure", letter.failure or NOTHING),
        ("fingerprint", letter.fingerprint or NOTHING),
        ("message", escape(letter.message) or NOTHING),
    ]
    if letter.kind == "job":
        rows += [
            ("name", escape(letter.name) or NOTHING),
            ("queue", f"{letter.cluster}/{letter.queue}"),
            ("attempts", str(letter.attempts)),
            ("command", escape(" ".join(letter.command)) or NOTHING),
        ]
    if letter.resources is not None:
        asked = letter.resources
        gpu = f", gpu {asked.gpu_milli / 1000:g}" if asked.gpu_milli else ""
        rows.append(("had", f"cpu {asked.cpu_milli / 1000:g}, memory {asked.memory_mib}Mi{gpu}"))
    if letter.redrives is not None:
        rows.append(("ran again", letter.redrives))
    if letter.redriven_by is not None:
        rows.append(("redriven by", f"{letter.redriven_by}, {moment_text(letter.redriven_at)}"))
    if letter.purged_at is not None:
        why = f": {escape(letter.purge_reason)}" if letter.purge_reason else ""
        rows.append(("purged", f"{moment_text(letter.purged_at)} by {letter.purged_by}{why}"))
    return rows


def _history(letter: LetterAnswer) -> RenderableType:
    made = table("TRY", "ENDED", "EXIT", "NODES", "WHY", right=("EXIT",))
    for one in letter.history:
        why = ": ".join(filter(None, (one.failure, one.message)))
        made.add_row(
            str(one.attempt),
            moment_text(one.ended_at),
            str(one.exit_code),
            ", ".join(one.nodes) or NOTHING,
            escape(why) or NOTHING,
        )
    return made


def _input(answer: InputAnswer) -> list[RenderableType]:
    facts = table("", "")
    facts.show_header = False
    rows: list[tuple[str, str]] = [
        ("topic", f"{answer.topic}, partition {answer.partition}, offset {answer.offset}"),
        ("problem", answer.code),
        ("key", _bytes_text(b64decode(answer.key_base64))),
        ("bytes", f"{answer.size}, sha256 {answer.sha256}"),
    ]
    rows.extend(
        (f"header {header.name}", _bytes_text(b64decode(header.value_base64)))
        for header in answer.headers
    )
    for name, value in rows:
        facts.add_row(Text(name, style="dim"), Text(value))
    return [facts, "", Text(_dump(b64decode(answer.value_base64)))]


def _bytes_text(value: bytes) -> str:
    return ascii(value)[1:] if value else NOTHING


def _dump(value: bytes) -> str:
    """The first bytes as hex and as text, the way hexdump shows them."""
    lines = []
    for start in range(0, min(len(value), SHOWN_BYTES), ROW_BYTES):
        row = value[start : start + ROW_BYTES]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start:08x}  {row.hex(' '):<47}  {text}")
    if len(value) > SHOWN_BYTES:
        lines.append(f"… {len(value) - SHOWN_BYTES} bytes more: --json has all that were kept")
    return "\n".join(lines)
