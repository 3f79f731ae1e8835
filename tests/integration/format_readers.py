"""Reads a profile with austin-python, and prints what it has as JSON.

    format_readers.py mojo-1 | mojo-2 | pprof FILE

Run by an interpreter that has austin-python: 1.7 (`mojo-1`) or 2.x (`mojo-2`). `pprof` uses Google's
protobuf and pprof's messages, which both have. Of the project's own it imports nothing.
"""

import gzip
import json
import sys


def read_mojo_1(path):
    from austin.format.mojo import MojoFile

    with open(path, "rb") as stream:
        mojo = MojoFile(stream)
        mojo.unwind()
    samples = [
        {
            "pid": one.pid,
            "iid": one.iid,
            "thread": one.thread,
            "frames": [[f.filename.string.value, f.scope.string.value, f.line] for f in one.frames],
            "gc": one.gc,
            "metric": one.metrics[0].value,
        }
        for one in mojo.samples
    ]
    return {"version": mojo.mojo_version, "metadata": mojo.metadata, "samples": samples}


def read_mojo_2(path):
    from austin.format.mojo import MojoStreamReader

    with open(path, "rb") as stream:
        mojo = MojoStreamReader(stream)
        mojo.unwind()
    samples = [
        {
            "pid": one.pid,
            "iid": one.iid,
            "thread": one.thread,
            "frames": [[f.filename, f.function, f.line] for f in one.frames or ()],
            "gc": bool(one.gc),
            "metric": one.metrics.time,
        }
        for one in mojo.samples
    ]
    return {"version": mojo.mojo_version, "metadata": mojo.metadata, "samples": samples}


def read_pprof(path):
    from austin.format.pprof.profile_pb2 import Profile

    packed = open(path, "rb").read()
    profile = Profile()
    profile.ParseFromString(gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed)
    text = profile.string_table
    functions = {one.id: one for one in profile.function}
    locations = {one.id: one for one in profile.location}
    if len(functions) != len(profile.function) or len(locations) != len(profile.location):
        raise ValueError("an id is used twice")

    def describe(type_):
        return [text[type_.type], text[type_.unit]]

    def read_frame(location_id):
        (line,) = locations[location_id].line
        function = functions[line.function_id]
        return [text[function.filename], text[function.name], line.line]

    samples = []
    for one in profile.sample:
        labels = {}
        for label in one.label:
            value = text[label.str] if label.str else label.num
            labels.setdefault(text[label.key], []).append(value)
        samples.append(
            {
                "frames": [read_frame(location) for location in reversed(one.location_id)],
                "values": list(one.value),
                "labels": labels,
            }
        )
    return {
        "sample_types": [describe(one) for one in profile.sample_type],
        "period_type": describe(profile.period_type),
        "period": profile.period,
        "time_ns": profile.time_nanos,
        "duration_ns": profile.duration_nanos,
        "metadata": dict(text[one].split(": ", 1) for one in profile.comment),
        "samples": samples,
    }


READERS = {"mojo-1": read_mojo_1, "mojo-2": read_mojo_2, "pprof": read_pprof}

if __name__ == "__main__":
    json.dump(READERS[sys.argv[1]](sys.argv[2]), sys.stdout)
