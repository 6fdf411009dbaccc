"""This host's own kernel: programs that run on it beside the simulator, and programs that are looked at.

`record.run_once` runs a program and records what the kernel does, step by step; `check` compares random and written
programs with the simulator, `whole` whole workloads and two kernels, by the code that compares all recordings.
`watched` looks at a running process. Running programs needs root, a kernel with multi-size THP, and a quiet host: the
counters in sysfs are the whole system's. Every setting that is changed is written down and put back (`settings`).
"""
