"""Runs trace programs on the real kernel of this host and records what it does, step by step.

`record.record` runs one program; `thp-env conformance --live` compares the recording with the simulator by the
code that compares all recordings. It needs root, a kernel with multi-size THP, and a quiet host: the counters in
sysfs are the whole system's. Every setting that it changes is put back (`host`).
"""
