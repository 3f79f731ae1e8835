"""docs/profile-format.md has every key that can stand in a profile's header and footer, and no other."""

from __future__ import annotations

import re

from conftest import ROOT

USERSPACE = ROOT / "userspace"
COUNTER = re.compile(r'\{Counter::k\w+,\s*"(\w+)",\s*"[^"]*"(,\s*true)?\}')
CALL = re.compile(r"(?:\.|->)(?:add|set)_(header|footer)\(\s*([^,]+),")
LISTED_KEY = re.compile(r'std::pair\{"(\w+)"')
ROW = re.compile(r"^\| (\*?)`(\w+)`\*? \|(.*)\|$", re.MULTILINE)


def read_tables() -> dict[str, dict[str, list[str]]]:
    """Of each section its keys, each with the cells behind it: unit, meaning, defect, what to do."""
    text = (ROOT / "docs/profile-format.md").read_text("utf-8")
    sections = dict(part.partition("\n")[::2] for part in text.split("\n## ")[1:])
    tables = {}
    for name in ("Header", "Footer"):
        rows = ROW.findall(sections[name])
        tables[name.lower()] = {key: [mark, *map(str.strip, rest.split("|"))]
                                for mark, key, rest in rows}
        assert len(tables[name.lower()]) == len(rows), f"{name}: a key stands there twice"
    return tables


def read_counters() -> dict[str, bool]:
    """Key of each counter; whether the program calls it a defect."""
    text = (USERSPACE / "stream/counters.h").read_text("utf-8")
    found = {key: bool(defect) for key, defect in COUNTER.findall(text)}
    named = text.partition("enum class Counter")[2].partition("kCount,")[0]
    assert len(found) == len(re.findall(r"\bk\w+,", named)), "a row is not read as one here"
    return found


def read_written_keys() -> dict[str, set[str]]:
    keys: dict[str, set[str]] = {"header": set(), "footer": set()}
    for path in sorted(USERSPACE.rglob("*.cpp")):
        text = path.read_text("utf-8")
        for where, argument in CALL.findall(text):
            if literal := re.fullmatch(r'"(\w+)"', argument):
                keys[where].add(literal[1])
            elif argument == "info.name":
                keys[where] |= set(read_counters())
            elif argument == "key":
                keys[where] |= set(LISTED_KEY.findall(text))
            else:
                raise AssertionError(f"{path}: where does the key {argument} come from?")
    return keys


def test_each_key_that_can_be_written_is_in_the_table_and_no_other():
    tables = read_tables()
    for where, keys in read_written_keys().items():
        assert len(keys) >= 5, "the source is written otherwise than it is read here"
        assert set(tables[where]) == keys


def test_the_table_calls_a_defect_what_the_program_does():
    footer = read_tables()["footer"]
    assert {cells[3] for cells in footer.values()} == {"yes", "no", "maybe"}
    for key, is_defect in read_counters().items():
        if is_defect:
            assert footer[key][3] != "no", key
    for key, (_, _, _, defect, remedy) in footer.items():
        assert remedy or defect != "maybe", key


def test_a_profile_has_all_keys_but_those_that_only_tell_of_something(echion, any_python):
    result = echion.run_target(any_python, "busy").check()
    for where, table in read_tables().items():
        found = set(getattr(result.profile, where))
        always = {key for key, (mark, *_) in table.items() if not mark}
        assert always <= found <= set(table), where
