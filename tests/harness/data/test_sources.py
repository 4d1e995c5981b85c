"""Raw rows, from files and from the hub, and what is said where they are broken."""

import codecs
import gzip
import io
import json
import re

import pandas as pd
import pytest
from huggingface_hub import constants

from floe_bench.harness.data import row_files
from floe_bench.harness.data.sources import EMBEDDED, FolderSource, HubSource, open_source
from floe_bench.harness.errors import UsageError
from floe_bench.harness.spec.profiles import load
from floe_bench.harness.spec.settings import DataSettings

from ...hub import FIRST, SECOND, Hub, client_of, serving

ROWS = [{"text": f"row {i}, ρ = ½, \u2028 \x85", "label": "x" * i} for i in range(5)]


def lines_of(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def settings(**values) -> DataSettings:
    return load("tiny").data.model_copy(update=values)


def read(folder, columns=("text",)):
    return list(FolderSource(folder).read("rows", hub="org/rows", columns=columns))


# --- folders ----------------------------------------------------------------------------------------


def test_plain_and_compressed_files_read_alike(tmp_path):
    for name, content in (("plain.jsonl", lines_of(ROWS)), ("packed.jsonl.gz", gzip.compress(lines_of(ROWS)))):
        (tmp_path / name).write_bytes(content)
    source = FolderSource(tmp_path)
    for name in ("plain", "packed"):
        assert list(source.read(name, hub="", columns=("text", "label"), split="ignored")) == ROWS


def test_the_last_line_may_lack_its_end(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(lines_of(ROWS).rstrip(b"\n"))
    assert read(tmp_path) == ROWS


@pytest.mark.parametrize("blank", [b"\n", b"  \r\n", b"\t\n\n"])
def test_blank_lines_are_no_rows(tmp_path, blank):
    lines = lines_of(ROWS).splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_bytes(blank.join([b"", *lines, b""]))
    assert read(tmp_path) == ROWS


@pytest.mark.parametrize("content", [lines_of(ROWS), lines_of(ROWS).replace(b"\n", b"\r\n")], ids=["lf", "crlf"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["", "bom"])
def test_line_ends_and_a_byte_order_mark_are_no_text(tmp_path, content, mark):
    (tmp_path / "rows.jsonl").write_bytes(mark + content)
    assert read(tmp_path) == ROWS


def in_format(extension: str, rows) -> bytes:
    """The rows as pandas or json writes them."""
    frame = pd.DataFrame(rows)
    buffer = io.BytesIO()
    if extension == ".parquet":
        frame.to_parquet(buffer)
    elif extension.startswith(".csv"):
        frame.to_csv(buffer, index=False)
    elif extension.startswith(".jsonl"):
        return lines_of(rows)
    else:
        return json.dumps(rows, indent=1).encode()
    return buffer.getvalue()


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["", "bom"])
@pytest.mark.parametrize("extension", row_files.EXTENSIONS)
def test_every_format_gives_the_same_rows(tmp_path, extension, mark):
    rows = [*ROWS, {"text": 'quoted "text",\nof two lines', "label": "x" * 200_000}]
    content = in_format(extension, rows)
    content = content if extension == ".parquet" else mark + content
    (tmp_path / f"rows{extension}").write_bytes(gzip.compress(content) if extension.endswith(".gz") else content)
    assert read(tmp_path, ("text", "label")) == rows


def test_as_much_nesting_as_allowed_is_read(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "x": ' + "[" * 99 + "7" + "]" * 99 + "}")
    assert [row["text"] for row in read(tmp_path)] == ["a"]


def test_an_array_under_the_name_of_json_lines_is_read(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS))
    assert read(tmp_path) == ROWS


@pytest.mark.parametrize("other", [extension for extension in row_files.EXTENSIONS if extension != ".jsonl"])
def test_two_files_of_one_name_are_refused(tmp_path, other):
    for extension in (".jsonl", other):
        (tmp_path / f"rows{extension}").touch()
    with pytest.raises(UsageError, match=rf"rows\.jsonl and rows{re.escape(other)} are both there"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.json", b'[{"text": "a"},\n{"text": "b"]', "line 2: not a JSON array of rows"),
        ("rows.json", rb'[{"text": "\ud800"}]', "line 1: not a JSON array of rows"),
        ("rows.json", b"[" * 100_000, r"line 1: not a JSON array of rows .nested more than 100 deep"),
        ("rows.jsonl", b'{"text": "", "x": ' + b"[" * 100 + b"]" * 100 + b"}", "line 1: .*nested more than 100 deep"),
        ("rows.json", b'[{"text": ""}, 7]', "row 2: a JSON object was expected, not int"),
        ("rows.csv", b"text,label\na,b\nc\n", "line 3: not CSV in UTF-8 .1 values, and the header names 2 columns"),
        ("rows.csv", b"text,label\na,b,c\n", "line 2: not CSV in UTF-8 .3 values"),
        ("rows.csv", b"text,text\na,b\n", "line 1: not CSV in UTF-8 .column 'text' stands twice"),
        ("rows.csv", b"text\n\xff\n", "line 1: not CSV in UTF-8"),
        ("rows.csv", b'text\n"open\n', "not CSV in UTF-8 .unexpected end of data"),
        ("rows.parquet", b"PAR1 no more", "row 1: not Parquet"),
        ("rows.parquet", b"", "row 1: not Parquet"),
        ("rows.json.gz", b"no gzip", "line 1: "),
        ("rows.csv.gz", gzip.compress(b"text\na\n", mtime=0)[:-6], "not CSV in UTF-8"),
    ],
)
def test_what_is_broken_is_named_with_its_place(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{re.escape(str(tmp_path / name))}, .*{said}") as refusal:
        read(tmp_path)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_cut_parquet_file_is_refused(tmp_path):
    content = in_format(".parquet", ROWS)
    for size in range(0, len(content), 97):
        (tmp_path / "rows.parquet").write_bytes(content[:size])
        with pytest.raises(UsageError, match="not Parquet"):
            read(tmp_path)


@pytest.mark.parametrize("value", ["true", "null", "1.5", '"2"', "[2]"])
def test_a_number_is_a_number_and_nothing_else(tmp_path, value):
    (tmp_path / "rows.jsonl").write_text(f'{{"n": 1}}\n{{"n": {value}}}\n')
    with pytest.raises(UsageError, match=r"line 2: column 'n' is \w+; int was expected"):
        read(tmp_path, {"n": int})


def test_csv_holds_numbers_and_lists_as_json(tmp_path):
    (tmp_path / "rows.csv").write_text('n,list,text\n2,"[""a"", ""b""]",7\n')
    types = {"n": int, "list": list, "text": str}
    assert read(tmp_path, types) == [{"n": 2, "list": ["a", "b"], "text": "7"}]
    (tmp_path / "rows.csv").write_text("n,list,text\ntwo,[],7\n")
    with pytest.raises(UsageError, match="line 2: column 'n' is str; int was expected"):
        read(tmp_path, types)


def test_a_readers_complaint_is_said_with_the_place(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(lines_of(ROWS))
    rows = FolderSource(tmp_path).read("rows", "", ("text",), lambda row: "too odd" if row == ROWS[2] else None)
    assert [next(rows), next(rows)] == ROWS[:2]
    with pytest.raises(UsageError, match=r"rows\.jsonl, line 3: too odd"):
        next(rows)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UsageError, match=rf"{tmp_path / 'nowhere'}: there is no such folder"):
        read(tmp_path / "nowhere")


def test_a_missing_file_is_named_with_what_is_there(tmp_path):
    for name in ("dolly.jsonl", "code.jsonl.gz"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "rows.jsonl or rows.jsonl.gz is missing" in message
    assert "code.jsonl.gz, dolly.jsonl" in message


def test_a_missing_column_is_named_with_file_line_and_nearest(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(lines_of([*ROWS[:2], {"texts": "?", "label": ""}]))
    with pytest.raises(UsageError) as caught:
        read(tmp_path)
    expected = f"{tmp_path / 'rows.jsonl'}, line 3: there is no column 'text': did you mean texts?"
    assert str(caught.value) == expected


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "broken",
    [
        b'{"text": "cut of\n',
        b'{"text": "\xff\xfe"}\n',
        rb'{"text": "half \ud800 a character"}' + b"\n",
        rb'{"text": "", "other": [{"\udc00": 1}]}' + b"\n",
        b'{"text": "", "other": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        b'{"text": "", "other": NaN}\n',
        b'{"text": "one", "text": "two"}\n',
    ],
    ids=["json", "utf8", "surrogate", "surrogate in a key", "deep", "nan", "twice"],
)
@pytest.mark.parametrize("line", [1, 3, 2001])
def test_a_broken_line_is_named_by_its_number(tmp_path, packed, broken, line):
    """Also where the line lies inside, or beyond, the first block that is read."""
    good = b'{"text": "good"}\n'
    content = good * (line - 1) + broken + good * 3
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UsageError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{path}, line {line}: not a line of JSON in UTF-8")


def test_the_rows_before_a_broken_line_are_read(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(lines_of(ROWS[:2]) + b"nonsense\n")
    rows = FolderSource(tmp_path).read("rows", hub="", columns=("text",))
    assert [next(rows), next(rows)] == ROWS[:2]
    with pytest.raises(UsageError, match="line 3"):
        next(rows)


def stored(content: bytes) -> bytes:
    """gzip without compression: the bytes of the content can be found in it."""
    return gzip.compress(content, compresslevel=0)


def test_a_truncated_gzip_is_named_with_the_line_that_is_cut(tmp_path):
    packed = stored(lines_of({"text": f"number {i}"} for i in range(5000)))
    (tmp_path / "rows.jsonl.gz").write_bytes(packed[: packed.index(b"number 4321") + 4])
    with pytest.raises(UsageError, match=r"rows\.jsonl\.gz, line 4322: .*ended before"):
        read(tmp_path)


def test_a_gzip_cut_between_two_lines_is_an_error_too(tmp_path):
    packed = gzip.compress(lines_of(ROWS))
    (tmp_path / "rows.jsonl.gz").write_bytes(packed[:-8])  # all data, without checksum and length
    with pytest.raises(UsageError, match=r"rows\.jsonl\.gz, line 6: "):
        read(tmp_path)


def test_a_gzip_with_a_changed_byte_is_an_error(tmp_path):
    (tmp_path / "rows.jsonl.gz").write_bytes(stored(lines_of(ROWS)).replace(b"row 3", b"row 7"))
    with pytest.raises(UsageError, match="CRC"):
        read(tmp_path)


def test_a_gzip_with_damaged_compression_is_an_error(tmp_path):
    packed = bytearray(gzip.compress(lines_of(ROWS)))
    packed[10] = 0x07  # the first block's header: a final block of the reserved type 3 (RFC 1951)
    (tmp_path / "rows.jsonl.gz").write_bytes(packed)
    with pytest.raises(UsageError, match=r"line 1: .*invalid block type"):
        read(tmp_path)


def test_a_file_that_is_no_gzip_is_an_error(tmp_path):
    (tmp_path / "rows.jsonl.gz").write_bytes(lines_of(ROWS))
    with pytest.raises(UsageError, match=r"line 1: .*gzip"):
        read(tmp_path)


@pytest.mark.parametrize(("line", "kind"), [("[1, 2]", "list"), ('"text"', "str"), ("3", "int"), ("null", "NoneType")])
def test_a_line_that_is_no_object_is_named(tmp_path, line, kind):
    (tmp_path / "rows.jsonl").write_text(f'{{"text": ""}}\n{line}\n')
    with pytest.raises(UsageError, match=rf"line 2: a JSON object was expected, not {kind}"):
        read(tmp_path)


def test_a_consumers_own_error_is_not_taken_for_a_broken_line(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(lines_of(ROWS))
    with pytest.raises(ValueError, match="mine"):
        for _ in FolderSource(tmp_path).read("rows", hub="", columns=()):
            raise ValueError("mine")


# --- the hub ----------------------------------------------------------------------------------------

CARD = b"""---
configs:
- config_name: small
  data_files:
  - split: train
    path: small/train-*
  - split: test
    path: small/test.jsonl
- config_name: large
  data_files: large.jsonl
---
# Rows
"""
OTHERS = [{"text": "another commit", "label": "z"}]


@pytest.fixture
def hub(tmp_path):
    """A hub of three data sets: plain files at two commits, with a card, and of several files without a card."""
    half, rest, test = lines_of(ROWS[:2]), lines_of(ROWS[2:]), lines_of(OTHERS)
    card = {"README.md": CARD, "small/train-0.jsonl": half, "small/train-1.jsonl": rest, "small/test.jsonl": test}
    repositories = {
        "datasets/org/rows": {FIRST: {"rows.jsonl": lines_of(ROWS)}, SECOND: {"rows.jsonl": lines_of(OTHERS)}},
        "datasets/org/card": {FIRST: card | {"large.jsonl": b"not fetched"}},
        "datasets/org/files": {FIRST: {"a.jsonl.gz": gzip.compress(lines_of(ROWS)), "b.jsonl.gz": b"not fetched"}},
    }
    with serving(Hub(repositories)) as hub, client_of(hub, tmp_path):
        yield hub


def from_hub(hub, pinned=None, **options):
    source = HubSource({hub: pinned} if pinned else {})
    return list(source.read("rows", hub=hub, columns=("text",), **options)), source.revisions


def test_the_hubs_commit_is_read_and_kept(hub):
    assert from_hub("org/rows") == (OTHERS, {"org/rows": SECOND})
    assert from_hub("org/rows", FIRST) == (ROWS, {"org/rows": FIRST})


def test_a_pinned_and_cached_commit_asks_the_hub_nothing(hub, monkeypatch):
    for name, options in [("org/rows", {}), ("org/card", {"name": "small"}), ("org/files", {"data_files": ["a*"]})]:
        read = from_hub(name, FIRST, **options)
        hub.asked.clear()
        assert from_hub(name, FIRST, **options) == read
        assert hub.asked == []
        with monkeypatch.context() as offline:
            offline.setattr(constants, "HF_HUB_OFFLINE", True)
            assert from_hub(name, FIRST, **options) == read


def test_the_card_says_which_files_are_fetched(hub):
    assert from_hub("org/card", name="small") == (ROWS, {"org/card": FIRST})
    assert from_hub("org/card", name="small", split="test")[0] == OTHERS
    assert not [request for request in hub.asked if "large.jsonl" in request]


def test_files_are_fetched_by_their_names(hub):
    assert from_hub("org/files", data_files=["a.jsonl.gz"])[0] == ROWS
    assert not [request for request in hub.asked if "b.jsonl.gz" in request]


def test_one_run_reads_one_commit(hub):
    source = HubSource({})
    assert list(source.read("rows", hub="org/rows", columns=())) == OTHERS
    hub.repositories["datasets/org/rows"]["3" * 40] = {"rows.jsonl": lines_of(ROWS)}
    assert list(source.read("rows", hub="org/rows", columns=())) == OTHERS


def test_another_commit_in_the_cache_does_not_stand_in(hub, monkeypatch):
    from_hub("org/rows")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=f"org/rows at revision {FIRST} is not in the hub's cache"):
        from_hub("org/rows", FIRST)


def test_a_folder_of_the_data_sets_name_is_not_read(hub, tmp_path, monkeypatch):
    (tmp_path / "org" / "rows").mkdir(parents=True)
    (tmp_path / "org" / "rows" / "rows.jsonl").write_bytes(lines_of([{"text": "mine"}]))
    monkeypatch.chdir(tmp_path)
    assert from_hub("org/rows")[0] == OTHERS


def test_a_data_sets_script_is_never_run(hub, tmp_path):
    script = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    hub.repositories["datasets/org/scripted"] = {FIRST: {"rows.jsonl": lines_of(ROWS), "scripted.py": script}}
    assert from_hub("org/scripted")[0] == ROWS
    assert not (tmp_path / "ran").exists()


def test_a_missing_column_on_the_hub_is_named(hub):
    hub.repositories["datasets/org/odd"] = {FIRST: {"rows.jsonl": lines_of([{"texts": ""}])}}
    with pytest.raises(UsageError, match=r"org/odd, row 1: there is no column 'text': did you mean texts"):
        from_hub("org/odd")


def test_a_name_that_the_card_does_not_know_gets_the_nearest(hub):
    with pytest.raises(UsageError, match="unknown configuration 'smal': did you mean small"):
        from_hub("org/card", name="smal")
    with pytest.raises(UsageError, match="unknown split 'tests': did you mean test"):
        from_hub("org/card", name="small", split="tests")
    with pytest.raises(UsageError, match="unknown configuration '': valid: large, small"):
        from_hub("org/card")


def test_a_data_set_that_is_not_there_or_not_to_be_had_names_the_ways_out(hub, monkeypatch):
    with pytest.raises(UsageError, match=r"org/row is not found .*--data-dir.* smoke"):
        from_hub("org/row")
    hub.fault = lambda path: (503, {})
    with pytest.raises(UsageError, match=r"dataset org/rows .*503.*--data-dir.* smoke"):
        from_hub("org/rows")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"dataset org/rows is not in the hub's cache .*--data-dir.* smoke"):
        from_hub("org/rows")


@pytest.mark.parametrize(
    "files",
    [{}, {"notes.bin": b"notes"}, {"rows.jsonl": b'{"text": "cut of'}, {"rows.parquet": b"PAR1 cut"},
     {"README.md": b"---\nconfigs: [\n---\n", "rows.jsonl": b"{}"}, {"README.md": CARD.replace(b"small/", b"gone/")}],
    ids=["nothing", "no rows", "cut json", "cut parquet", "broken card", "card of no files"],
)  # fmt: skip
def test_a_data_set_that_cannot_be_read_is_one_sentence(hub, files):
    hub.repositories["datasets/org/broken"] = {FIRST: files}
    with pytest.raises(UsageError, match="org/broken") as caught:
        from_hub("org/broken", name="small" if b"gone/" in files.get("README.md", b"") else None)
    assert "\n" not in str(caught.value)
    print(caught.value)


def test_a_hub_without_commits_is_said(hub):
    hub.fault = lambda path: "no commit"
    with pytest.raises(UsageError, match=r"the hub names no commit of dataset org/rows"):
        from_hub("org/rows")


# --- which source -----------------------------------------------------------------------------------


def test_the_settings_choose_the_source(tmp_path):
    embedded = open_source(settings(source="embedded"))
    assert (embedded.kind, isinstance(embedded, FolderSource)) == ("embedded", True)
    assert any(True for _ in embedded.read("dolly", hub="", columns=("instruction",)))
    folder = open_source(settings(source="folder", path=str(tmp_path)))
    assert isinstance(folder, FolderSource)
    assert (folder.kind, folder.folder) == ("folder", tmp_path)
    hub = open_source(settings(source="hub", revisions={"org/rows": "v1"}))
    assert isinstance(hub, HubSource)
    assert (hub.kind, hub.pinned) == ("hub", {"org/rows": "v1"})


def test_a_folder_source_without_a_folder_says_how_to_give_one():
    with pytest.raises(UsageError, match="--data-dir"):
        open_source(settings(source="folder", path=None))


def test_a_source_reads_mixes_by_name():
    rows = list(FolderSource(EMBEDDED, kind="embedded").mix("code"))
    with (EMBEDDED / "codealpaca.jsonl").open(encoding="utf-8") as lines:
        assert len(rows) == sum(1 for _ in lines)
    with pytest.raises(UsageError, match="unknown mix 'cod': did you mean code"):
        FolderSource(EMBEDDED).mix("cod")
