"""What must hold where only the wheel and its dependencies are installed."""

import subprocess
import sys
import time
from importlib.metadata import distributions

FRAMEWORKS = {"torch", "matplotlib", "stable_baselines3"}


def import_seconds(module: str) -> float:
    """Return how much of a CPU an import takes in a fresh interpreter, once that has started."""
    code = f"import time; t = time.process_time(); import {module}; print(time.process_time() - t)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


installed = {d.name.replace("-", "_") for d in distributions()}
print("installed:", *sorted(f"{d.name} {d.version}" for d in distributions()))
assert not installed & FRAMEWORKS
import_seconds("thp_env")  # writes the byte code
for module in ("gymnasium", "thp_env"):  # printed, not judged: a busy machine takes longer
    print(f"import {module}: {min(import_seconds(module) for _ in range(5)):.3f} s")

import gymnasium  # noqa: E402

assert "thp_env" not in sys.modules, "importing gymnasium must not load the simulator"
gymnasium.make("thp_env:thp_env/VmaOrder-v0").close()  # imports thp_env, which registers

import numpy as np  # noqa: E402
from gymnasium.utils.env_checker import check_env  # noqa: E402

import thp_env  # noqa: E402

program = thp_env.parse_program("mmap a 4M\nthp 64 always\nwrite a 0 4M\naccess a 0 4M uniform count=1000000\n")
machine = thp_env.Machine(program)
start = time.perf_counter()
assert machine.run() == thp_env.Status.DONE
assert machine.counters["anon_fault_alloc"] == 64
print(f"a million accesses: {time.perf_counter() - start:.2f} s")

for env_id in thp_env.ENVIRONMENTS:
    start = time.perf_counter()
    arguments = {"workload": program, "window_ms": 0.5, "window_faults": 16}
    check_env(gymnasium.make(env_id, **arguments).unwrapped, skip_render_check=True)
    env, envs = gymnasium.make(env_id, **arguments), gymnasium.make_vec(env_id, num_envs=2, **arguments)
    env.reset(seed=0)
    envs.reset(seed=0)
    actions, over = np.zeros_like(envs.action_space.sample()), False
    while not over:
        _, reward, over, _, info = env.step(actions[0])
        _, rewards, terminations, _, _ = envs.step(actions)
        assert (rewards == reward).all(), (rewards, reward)
        assert (terminations == over).all()
    print(f"{env_id}: {info['reason']}, {time.perf_counter() - start:.2f} s")
