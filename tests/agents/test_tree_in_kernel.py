"""A distilled tree as a BPF program that this host's kernel verifies and runs over recorded observations."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from thp_agents.catalogue import find_policy
from thp_agents.learned.distill import distill
from thp_agents.learned.networks import flat
from thp_agents.learned.policy_file import LearnedPolicy
from thp_agents.learned.tree_c import c_source
from thp_agents.learned.tree_text import fields_of, integer_below, normalised

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("clang", "bpftool", "unshare"))),
    reason="the kernel's verifier needs root, clang and bpftool",
)

PLAIN = """
struct xdp_md { unsigned int data, data_end; };

/* The observation and the allowed actions are the packet; the action is what is returned. */
__attribute__((section("xdp"), used)) int plain(struct xdp_md *ctx)
{
	const struct thp_features *seen = (void *)(long)ctx->data;
	const unsigned int *allowed = (const void *)(seen + 1);

	if ((void *)(allowed + 1) > (void *)(long)ctx->data_end)
		return -1;
	return thp_vma_action(seen, *allowed);
}

char _license[] __attribute__((section("license"), used)) = "GPL";
"""
RUN = """
mount -t bpf bpf "$1"
bpftool prog load "$2" "$1/plain" type xdp
for packet in "$3"/*; do bpftool -j prog run pinned "$1/plain" data_in "$packet" repeat 1; echo; done
"""


def observed(policy: LearnedPolicy) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return observations and masks of random play in a policy's environment."""
    rng, seen = np.random.default_rng(0), []
    for workload in ("hot_island", "redis_delete", "gups"):
        env = gymnasium.make("thp_env/VmaOrder-v0", workload=workload, size="tiny", **policy.arguments)
        for seed in range(12):
            observation, _ = env.reset(seed=seed)
            over = False
            while not over:
                allowed = env.unwrapped.action_masks() != 0
                seen.append((flat(observation), allowed))
                observation, _, over, _, _ = env.step(rng.choice(np.flatnonzero(allowed)))
    return seen


def test_the_kernel_takes_the_actions_of_the_simulator(tmp_path: Path) -> None:
    teacher = find_policy("rollouts_on_ski_rental_ensemble#0")
    policy = distill(teacher, workloads=("gups", "hot_island", "redis_delete"), episodes=1, rounds=2)
    (tmp_path / "tree.c").write_text(c_source(policy) + PLAIN)
    options = ["-target", "bpf", "-U__bpf__", "-DTHP_API=static inline", "-O2", "-g", "-c"]
    subprocess.run(["clang", *options, "-o", tmp_path / "tree.o", tmp_path / "tree.c"], check=True)
    fields = list(fields_of(policy.signature).values())
    mounted, packets = tmp_path / "bpf", tmp_path / "packets"
    mounted.mkdir()
    packets.mkdir()
    wanted, of_fractions = [], []
    for i, (row, allowed) in enumerate(observed(policy)):
        numbers = [integer_below(field, value) for field, value in zip(fields, row, strict=True)]
        back = [normalised(field, n) for field, n in zip(fields, numbers, strict=True)]
        of_fractions.append(policy.choose({"": row}, SimpleNamespace(masks=allowed)))
        wanted.append(policy.choose({"": np.array(back, np.float32)}, SimpleNamespace(masks=allowed)))
        bits = sum(int(a) << n for n, a in enumerate(allowed))
        (packets / f"{i:04}").write_bytes(np.array([*numbers, bits], np.uint32).tobytes())
    command = ["unshare", "--mount", "sh", "-e", "-c", RUN, "sh", mounted, tmp_path / "tree.o", packets]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    taken = [json.loads(line)["retval"] for line in ran.stdout.splitlines() if line]
    assert taken == wanted
    assert len(taken) > 500
    assert len(set(taken)) > 2
    # A kernel counts in whole numbers, an observation in fractions; few are so close to a threshold.
    assert np.mean(np.array(taken) == of_fractions) > 0.95
