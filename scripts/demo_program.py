"""A small real program to profile: it makes up a web server's log, then answers questions about it.

Two threads share the work: the main thread parses and aggregates, a helper compresses and
checksums what has been parsed, and sleeps while there is nothing to do.
"""

import collections
import hashlib
import json
import queue
import random
import re
import threading
import time
import zlib

LINE = re.compile(
    r'(?P<host>\S+) - (?P<user>\S+) \[(?P<minute>[^\]]+)\] '
    r'"(?P<method>\w+) (?P<path>\S+)" (?P<status>\d+) (?P<bytes>\d+)'
)


def make_log(random_source, lines):
    paths = [f"/{name}/{number}" for name in ("shop", "cart", "help") for number in range(40)]
    for number in range(lines):
        host = f"10.0.{random_source.randrange(8)}.{random_source.randrange(250)}"
        path = random_source.choice(paths)
        status = random_source.choices((200, 304, 404, 500), (85, 8, 5, 2))[0]
        size = random_source.randrange(200, 40_000)
        yield f'{host} - user{number % 97} [12:{number // 500 % 60:02d}] "GET {path}" {status} {size}'


def parse(line):
    match = LINE.match(line)
    return match.groupdict() if match else None


class Report:
    def __init__(self):
        self.by_status = collections.Counter()
        self.bytes_by_path = collections.Counter()
        self.sizes = []

    def add(self, entry):
        self.by_status[entry["status"]] += 1
        self.bytes_by_path[entry["path"]] += int(entry["bytes"])
        self.sizes.append(int(entry["bytes"]))

    def percentile(self, share):
        ordered = sorted(self.sizes)
        return ordered[int(share * (len(ordered) - 1))]

    def summary(self):
        return {
            "status": dict(self.by_status),
            "heaviest": self.bytes_by_path.most_common(3),
            "p99_bytes": self.percentile(0.99),
        }


def archive(batches):
    digest = hashlib.sha256()
    stored = 0
    for batch in iter(batches.get, None):
        packed = zlib.compress(json.dumps(batch).encode(), 6)
        digest.update(packed)
        stored += len(packed)
    print(f"archived {stored // 1024} KiB, sha256 {digest.hexdigest()[:16]}…")


def main(seconds=4.0):
    batches = queue.Queue(maxsize=4)
    archiver = threading.Thread(target=archive, args=(batches,), name="archiver")
    archiver.start()
    report, random_source = Report(), random.Random(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        entries = [entry for entry in map(parse, make_log(random_source, 2000)) if entry]
        for entry in entries:
            report.add(entry)
        batches.put(entries)
    batches.put(None)
    archiver.join()
    print(json.dumps(report.summary()))


if __name__ == "__main__":
    main()
