thp_env.machine._core.OPERATIONS$:
    OPERATIONS: dict[str, tuple[tuple[str, int, int, str, bool], ...]]

thp_env.machine._core.FIELD_KINDS$:
    FIELD_KINDS: dict[str, tuple[int, str]]

thp_env.machine._core.(SETTINGS|ADVICE|VM_FLAGS)$:
    \1: dict[str, int]

thp_env.machine._core.([A-Z_]+)$:
    \1: tuple[str, ...]

thp_env.machine._core.MachineError$:
    class MachineError(ValueError): ...

thp_env.machine._core.check_tlb$:
    def check_tlb(tlb: Mapping[str, object], /) -> str: ...

CoreBatch.__init__$:
    \from collections.abc import Mapping, Sequence
    def __init__(self, machines: Sequence[CoreMachine | None], threads: int, /) -> None: ...
