"""What others wrote cannot act on a terminal, and is the same again after JSON."""

from __future__ import annotations

import io
import json
import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from consumer.escaping import escaped, json_line, shown_on

ANY = st.text(st.characters(exclude_categories=[]), max_size=60)
HARMFUL = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(ANY)
@example("a\x1b]0;title\x07b")
@example("z\x9b2Jz")
@example("abc\u202etxt.exe\u2066\u200f")
@example("row\nanother\r\x85\u2028")
def test_nothing_that_a_terminal_acts_on_is_left(text: str) -> None:
    shown = escaped(text)
    assert not {unicodedata.category(letter) for letter in shown} & HARMFUL
    assert json.loads(f'"{escaped(json.dumps(text, ensure_ascii=False)[1:-1])}"') == text


@given(st.text(st.characters(categories=["L", "N", "P", "S", "M"])))
def test_printable_letters_stay(text: str) -> None:
    assert escaped(text) == text


@given(st.recursive(ANY, lambda inner: st.lists(inner) | st.dictionaries(ANY, inner), max_leaves=5))
def test_json_holds_the_same_after_it(value: object) -> None:
    line = json_line(value)
    assert line.isprintable()
    assert json.loads(line) == value


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(
    st.lists(st.lists(st.text(st.characters(exclude_characters="\t\n")), min_size=1, max_size=4), max_size=4)
)
def test_rows_are_raw_in_files_and_escaped_on_terminals(rows: list[list[str]]) -> None:
    text = "".join("\t".join(row) + "\n" for row in rows)
    file, terminal = io.StringIO(newline=""), Terminal(newline="")
    shown_on(file).write(text)
    shown_on(terminal).write(text)
    assert file.getvalue() == text
    assert terminal.getvalue() == "".join("\t".join(map(escaped, row)) + "\n" for row in rows)
