"""A decision tree as C in integers for the proposed BPF hook `thp_get_order`.

The hook is that of Yafang Shao, "mm, bpf: BPF-MM, BPF-THP" (linux-mm, 2025): a member of `struct bpf_thp_ops`. Its
arguments are a VMA, the type of the request and the allowed orders; it returns one order.
"""

from __future__ import annotations

from collections.abc import Iterator

from thp_agents.learned.networks import Tree
from thp_agents.learned.policy_file import LearnedPolicy
from thp_agents.learned.tree_text import (
    fields_of,
    integer_below,
    is_share,
    largest,
    preference,
    tree_of,
    value_text,
    walk,
)
from thp_agents.policy import PolicyError
from thp_env.envs.actions import ORDER_MASKS
from thp_env.envs.fault_order import ORDERS
from thp_env.envs.observation import Field
from thp_env.machine import layout
from thp_env.machine.sizes import orders_of

MOST = 16
"""Actions, of which four bits each are in 64."""


def check_actions(policy: LearnedPolicy) -> None:
    """Refuse a policy of more actions than fit into C.

    Raises:
        PolicyError: with their number.
    """
    if (actions := len(policy.signature["actions"])) > MOST:
        raise PolicyError(f"policy {policy.name} chooses among {actions} actions, and a tree in C among {MOST} at "
                          "most: name those that it may take in `actions` of its environment")  # fmt: skip


def c_source(policy: LearnedPolicy) -> str:
    """Return a tree as C: with integers only, bounded loops, and no headers.

    Everywhere it compiles to functions that take `struct thp_features`. Of a policy of FaultOrder-v0 `thp_order`
    returns an order; of one of VmaOrder-v0 `thp_vma_action` tells what to do about a VMA, `thp_action_orders` what
    orders to keep for it then, and `thp_order` picks from these. For the bpf target there is the hook as well, with a
    map by VMA for what whoever traces memory management knows.

    Raises:
        PolicyError: when the policy holds no tree, decides about many VMAs at once, or has more actions than fit.
    """
    check_actions(policy)
    tree, fields, actions = tree_of(policy), fields_of(policy.signature), policy.signature["actions"]
    of_fault = "fault" in policy.signature["seen"]
    members = "".join(f"\tunsigned int {name}; /* {_comment(field)} */\n" for name, field in fields.items())
    head = _HEAD.format(
        teacher=policy.meta.get("teacher", policy.name), version=policy.meta.get("version", ""),
        members=members, body="\n".join(_body(tree, list(fields.items()), actions)), actions=len(actions),
    )  # fmt: skip
    if of_fault:
        return head + _fault_part() + _BPF.format(**_fault_hook())
    return head + _vma_part(actions) + _BPF.format(**_vma_hook(policy.default_sizes))


def _comment(field: Field) -> str:
    return f"{field.meaning}: {field.unit}{', in 1/65536' if is_share(field) else ''}"


def _body(tree: Tree, fields: list[tuple[str, Field]], actions: list[str]) -> Iterator[str]:
    for node, depth, kind in walk(tree):
        tab = "\t" * (depth + 1)
        if kind == "leaf":
            order = preference(tree, node)
            ranking = sum(action << 4 * i for i, action in enumerate(order))
            yield f"{tab}return 0x{ranking:x}ULL; /* {actions[order[0]]} */"
        elif kind == "if":
            name, field = fields[tree.feature[node]]
            bound = integer_below(field, tree.threshold[node])
            # Past its largest integer a field stays at 1.
            test = "1" if bound >= largest(field) else f"seen->{name} < {bound + 1}U"
            yield f"{tab}if ({test}) {{ /* at most {value_text(field, bound)} */"
        else:
            yield tab + {"else": "} else {", "end": "}"}[kind]


_HEAD = """\
// SPDX-License-Identifier: GPL-2.0
/* Distilled from {teacher} by thp-env {version}. */
#ifndef THP_API
#ifdef __bpf__ /* a global function would be verified for any pointer */
#define THP_API static inline __attribute__((unused))
#else
#define THP_API
#endif
#endif

struct thp_features {{
{members}}};

/* The actions at a leaf, four bits each, the one to prefer lowest. */
static unsigned long long thp_leaf(const struct thp_features *seen)
{{
{body}
}}

static int thp_choose(const struct thp_features *seen, unsigned int allowed)
{{
	unsigned long long order = thp_leaf(seen);
	int i;

	for (i = 0; i < {actions}; i++) {{
		unsigned int action = (order >> 4 * i) & 15;

		if (allowed >> action & 1)
			return action;
	}}
	return 0;
}}
"""


def _fault_part() -> str:
    bits = " | ".join(f"(orders >> {order} & 1) << {i}" for i, order in enumerate(ORDERS) if order)
    cases = "".join(f"\tcase {i}: return {order};\n" for i, order in enumerate(ORDERS) if order)
    return f"""
/* The order to take; `orders`: those allowed. */
THP_API int thp_order(const struct thp_features *seen, unsigned int orders)
{{
	switch (thp_choose(seen, 1 | {bits})) {{
{cases}	default: return 0;
	}}
}}
"""


def _vma_part(actions: list[str]) -> str:
    constants = "".join(f"\tTHP_{a.upper().replace('+', '_')} = {i},\n" for i, a in enumerate(actions))
    masks = "".join(f"\tcase {i}: return 0x{ORDER_MASKS[a]:x}; /* {a} */\n"
                    for i, a in enumerate(actions) if a in ORDER_MASKS)  # fmt: skip
    return f"""
enum thp_action {{
{constants}}};

/* What to do about a VMA; bit n of `allowed`: action n can have an effect. */
THP_API int thp_vma_action(const struct thp_features *seen, unsigned int allowed)
{{
	return thp_choose(seen, allowed);
}}

/* The orders to keep for the VMA after an action; `kept`: those until now. */
THP_API unsigned int thp_action_orders(int action, unsigned int kept)
{{
	switch (action) {{
{masks}	default: return kept;
	}}
}}

/* The largest order that is kept for the VMA and allowed. */
THP_API int thp_order(unsigned int kept, unsigned int orders)
{{
	int order;

	for (order = {layout.PMD_ORDER}; order > 0; order--)
		if ((kept & orders) >> order & 1)
			return order;
	return 0;
}}
"""


_BPF = """
#ifdef __bpf__
#define SEC(name) __attribute__((section(name), used))

struct vm_area_struct {{
	unsigned long vm_start, vm_end, vm_flags;
}} __attribute__((preserve_access_index));

enum tva_type {{ TVA_SMAPS, TVA_PAGEFAULT, TVA_KHUGEPAGED, TVA_FORCED_COLLAPSE, TVA_SWAP_PAGEFAULT }};

struct bpf_thp_ops {{
	int pid;
	void *thp_get_order;
}};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;

/* {kept} */
struct {{
	int (*type)[1]; /* BPF_MAP_TYPE_HASH */
	int (*max_entries)[65536];
	unsigned long long *key; /* the address of its vm_area_struct */
	{value} *value;
}} thp_vmas SEC(".maps");

SEC("struct_ops/thp_get_order")
int thp_get_order(unsigned long long *ctx)
{{
	struct vm_area_struct *vma = (struct vm_area_struct *)ctx[0];
	enum tva_type type = ctx[1];
	unsigned long orders = ctx[2];
	unsigned long long key = ctx[0];
	{value} *found = bpf_map_lookup_elem(&thp_vmas, &key);
{decide}}}

SEC(".struct_ops.link")
struct bpf_thp_ops thp_ops = {{ .thp_get_order = thp_get_order }};

char _license[] SEC("license") = "GPL";
#endif
"""


def _fault_hook() -> dict[str, str]:
    may = "".join(f"\tseen.fault_may_{4 << order}K = orders >> {order} & 1;\n" for order in ORDERS if order)
    return {
        "kept": "What is known of a VMA, kept up by whoever traces faults and unmapping; none: it is new.",
        "value": "struct thp_features",
        "decide": f"""	struct thp_features seen = {{0}};

	if (found)
		seen = *found;
	seen.vma_size = (vma->vm_end - vma->vm_start) >> 12;
	seen.vma_advised = vma->vm_flags >> 29 & 1; /* VM_HUGEPAGE */
	seen.fault_type_fault = type == TVA_PAGEFAULT;
	seen.fault_type_khugepaged = type == TVA_KHUGEPAGED || type == TVA_FORCED_COLLAPSE;
	seen.fault_type_swapin = type == TVA_SWAP_PAGEFAULT;
{may}	return thp_order(&seen, orders);
""",
    }


def _vma_hook(default_sizes: str) -> dict[str, str]:
    return {
        "kept": "Orders kept for a VMA: what thp_action_orders() made of thp_vma_action(), window after window.",
        "value": "unsigned int",
        "decide": f"""
	(void)vma;
	(void)type;
	return thp_order(found ? *found : 0x{orders_of(default_sizes):x}, orders);
""",
    }
