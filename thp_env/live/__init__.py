"""This host's own kernel: programs that run on it and on the simulator, and running programs that are watched.

`record.run_once` runs a program and records what the kernel does, step by step; `check` compares random and written
programs with the simulator; `whole` compares whole workloads, and two kernels, by the same code.
`watched` looks at a running process. Running programs needs root, a kernel with multi-size THP, and a quiet host: the
counters in sysfs are the whole system's. Every changed setting is written to a journal and put back (`settings`).
"""
