"""Prints the line tables of many code objects, and where the interpreter itself places each
instruction: version, then per code object `code  first line  table (hex)  positions`, positions
being `offset:line:end line:column:end column` with 0 for unknown and columns from 1."""

import dis
import importlib
import sys
import types

MODULES = (
    "argparse ast asyncio.base_events asyncio.tasks collections configparser csv dataclasses datetime "
    "decimal difflib email.message enum functools http.client inspect json.decoder logging "
    "multiprocessing.pool os pathlib pickle random re shutil socket statistics string subprocess "
    "tarfile tempfile textwrap threading tokenize traceback typing unittest.mock urllib.parse uuid "
    "xml.etree.ElementTree zipfile"
).split()

TRICKY = '''
def spread(a,
           b=(1,
              2), *,
           c=lambda x: [y
                        for y in x
                        if y]):
    """Positions over several lines."""
    try:
        return (a
                + b[0]
                + c(
                    [1, 2]))
    except (ValueError,
            TypeError) as error:
        raise RuntimeError("text that is long enough to go beyond column eighty, and then some more") from error
    finally:
        with open(a) as f, open(b) as g:
            pass
class Late: x = 1; y = [z for z in range(3)]; %s
%s
async def last(): return await spread(1) if spread else None
''' % ("pass", "\n" * 700)


def code_objects(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_objects(constant)


def positions_311(code):
    for i, (line, end_line, column, end_column) in enumerate(code.co_positions()):
        if not line:  # also a module's first instruction, which is put on line 0
            yield 2 * i, 0, 0, 0, 0
            continue
        yield (
            2 * i,
            line,
            end_line or 0,
            0 if column is None else column + 1,
            0 if end_column is None else end_column + 1,
        )


def positions_310(code):
    for start, end, line in code.co_lines():
        for offset in range(start, end, 2):
            yield offset, line or 0, 0, 0, 0


def positions_lnotab(code):
    starts = dict(dis.findlinestarts(code))
    line = code.co_firstlineno
    for offset in range(0, len(code.co_code), 2):
        line = starts.get(offset, line)
        yield offset, line, 0, 0, 0


def main():
    if sys.version_info >= (3, 11):
        table, positions = "co_linetable", positions_311
    elif sys.version_info >= (3, 10):
        table, positions = "co_linetable", positions_310
    else:
        table, positions = "co_lnotab", positions_lnotab
    print("version", *sys.version_info[:3], sys.abiflags, sep="\t")
    sources = [("tricky", TRICKY)]
    for name in MODULES:
        path = importlib.import_module(name).__file__
        with open(path, encoding="utf-8") as f:
            sources.append((path, f.read()))
    for path, source in sources:
        for code in code_objects(compile(source, path, "exec")):
            places = " ".join("%d:%d:%d:%d:%d" % place for place in positions(code))
            print("code\t%d\t%s\t%s" % (code.co_firstlineno, getattr(code, table).hex(), places))
    print("ready", flush=True)
    sys.stdin.read()


main()
