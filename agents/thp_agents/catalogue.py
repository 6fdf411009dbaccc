"""Finds policies by name: heuristics, shipped trained policies, files, and policies of other packages."""

from __future__ import annotations

from thp_agents.heuristics.add_ons import ADD_ONS, WithAddOn
from thp_agents.heuristics.kernel_settings import FORMER_NAMES, KernelSetting
from thp_agents.learned import shipped
from thp_agents.plug_ins import import_policy, policies
from thp_agents.policy import Policy, PolicyError
from thp_env.machine.sizes import orders_of, sizes_of
from thp_env.names import did_you_mean


def find_policy(name: str) -> Policy:
    """Return a policy.

    Args:
        name: one of `plug_ins.policies()`; a trained one that ships, as AGENT#SEED; the .npz file of another;
            "sb3:model.zip", a model of Stable-Baselines3 (`learned/sb3_model.py`), read without running its pickles; or
            "my_module:MyPolicy", a class or function that makes one, from the current folder or from what is
            installed; any set of sizes, such as "16K+64K". "+khugepaged_mthp" and "+shrinker" behind any name add
            those (`heuristics/add_ons.py`).

    Raises:
        PolicyError: for an unknown name, with the nearest known one, a broken file, or code that makes no policy.
    """
    by_name, shipped_files = policies(), shipped()
    name = FORMER_NAMES.get(name, name)
    if name in by_name:
        return by_name[name]()
    if name in shipped_files or name.endswith(".npz"):
        from thp_agents.learned.policy_file import load_policy

        return load_policy(shipped_files.get(name, name), name.partition("#")[0] if name in shipped_files else None)
    if name.startswith("sb3:"):
        from thp_agents.learned.sb3_model import load_sb3

        return load_sb3(name.removeprefix("sb3:"))
    if ":" in name:
        return import_policy(name)
    base, plus, add_on = name.rpartition("+")
    if plus and add_on in ADD_ONS:
        return WithAddOn(find_policy(base), add_on)
    try:
        sizes = sizes_of(orders_of(name))
    except ValueError:
        pass
    else:
        return by_name[sizes]() if sizes in by_name else KernelSetting(sizes, sizes, "Linux: these sizes enabled")
    hint = did_you_mean(name, [*by_name, *shipped_files], ".")
    raise PolicyError(
        f"unknown policy {name!r}{hint} There are {', '.join(by_name)}, a .npz file, sb3:model.zip, or module:Class"
    )
