"""Records how a real kernel fragments: what is free by order, and which folios it still gets, in a small guest.

    python -m thp_workloads.recording.fragmentation VMLINUZ tests/data/fragmentation.jsonl.xz

Needs root-less QEMU (`qemu-system-x86_64`), gcc with a static libc, and a kernel image of 6.10 or later with
multi-size THP, a serial console and initramfs support. Every scenario is one boot of a guest with 512 MiB.
"""
