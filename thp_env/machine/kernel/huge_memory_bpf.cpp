#include "huge_memory_bpf.hpp"
#include "../patterns.hpp"
#include "huge_memory.hpp"
#include "memory.hpp"
#include "mmap.hpp"
#include "page_table.hpp"
#include "swap.hpp"
#include <algorithm>
#include <bit>
#include <cerrno>
#include <vector>

namespace thp {

namespace {

// The answers are a hash table with linear probing (Knuth, vol. 3, 6.4, algorithms L and R) that doubles when
// half of it is in use; a slot whose VMA is 0 is empty.
constexpr u32 FIRST_SIZE = 64;

arena_array &header_of(const machine &m) { return m.h->arrays[ARRAY_order_answers]; }

u32 home(const order_answer &a, u32 mask) { return static_cast<u32>(mix64(a.block ^ mix64(a.vma))) & mask; }

u32 probe(const machine &m, u32 vma_id, u64 block) {
    const u32 mask = header_of(m).used - 1;
    u32 i = home({block, vma_id, {}, 0}, mask);
    while (m.order_answers[i].vma && (m.order_answers[i].vma != vma_id || m.order_answers[i].block != block))
        i = (i + 1) & mask;
    return i;
}

bool grow(machine &m) {
    arena_array &t = header_of(m);
    if (u64{t.in_use} * 2 < t.used) return true;
    const u32 size = std::max(FIRST_SIZE, t.used * 2);
    if (size > t.capacity) return false;
    const std::vector<order_answer> old(m.order_answers, m.order_answers + t.used);
    std::fill_n(m.order_answers, size, order_answer{});
    t.used = size;
    for (const order_answer &a : old) {
        if (a.vma) m.order_answers[probe(m, a.vma, a.block)] = a;
    }
    return true;
}

order_answer *insert(machine &m, u32 vma_id, u64 block) {
    if (!grow(m)) return nullptr;
    order_answer &a = m.order_answers[probe(m, vma_id, block)];
    if (!a.vma) {
        a = {block, vma_id, {ORDER_NOT_ASKED, ORDER_NOT_ASKED, ORDER_NOT_ASKED}, 0};
        ++header_of(m).in_use;
    }
    return &a;
}

void erase(machine &m, order_answer *answer) {
    arena_array &t = header_of(m);
    const u32 mask = t.used - 1;
    auto hole = static_cast<u32>(answer - m.order_answers);
    for (u32 i = (hole + 1) & mask; m.order_answers[i].vma; i = (i + 1) & mask) {
        const u32 distance = (i - home(m.order_answers[i], mask)) & mask;
        if (distance < ((i - hole) & mask)) continue; // it would stand before its home
        m.order_answers[hole] = m.order_answers[i];
        hole = i;
    }
    m.order_answers[hole] = {};
    --t.in_use;
}

// Asks once per VMA, block and type. `offered`: the allowed orders.
bool ask(machine &m, const vm_area_struct &vma, u64 address, tva_type type, u32 offered) {
    const order_answer *answer = order_answers_find(m, vma.id, address);
    if (answer && answer->order[type] != ORDER_NOT_ASKED) return false;
    m.h->question = {align_down(address, PAGE_SIZE), vma.vm_mm, type, offered, ORDER_ASKED};
    return true;
}

} // namespace

order_answer *order_answers_find(const machine &m, u32 vma_id, u64 address) {
    if (header_of(m).in_use == 0) return nullptr;
    order_answer &entry = m.order_answers[probe(m, vma_id, address >> PMD_SHIFT)];
    return entry.vma ? &entry : nullptr;
}

u32 thp_get_orders(const machine &m, const vm_area_struct &vma, u64 address, tva_type type) {
    const u32 orders = thp_vma_allowable_orders(m, vma);
    if (m.h->order_hook == ORDERS_NOT_ASKED) return orders;
    const order_answer *answer = order_answers_find(m, vma.id, address);
    if (!answer || answer->order[type] == ORDER_NOT_ASKED) return orders;
    const u32 order_bit = 1U << answer->order[type];
    return orders & (m.h->order_hook == ORDERS_BPF ? order_bit : 2 * order_bit - 1);
}

bool thp_fault_asks(machine &m, const vm_area_struct &vma, u64 address, bool write) {
    const u32 allowed = thp_vma_allowable_orders(m, vma), huge = 1U << PMD_ORDER;
    const u32 orders = thp_vma_suitable_orders(vma, address, allowed);
    if (!orders) return false;
    const u64 *pmd = pmd_offset(m, vma.vm_mm, address);
    if (!pmd || pte_none(*pmd)) { // R2, R9
        return (write || orders & huge) && ask(m, vma, address, TVA_PAGEFAULT, allowed);
    }
    if (!pmd_is_table(*pmd)) return false;
    const u64 *pte = pte_offset(m, *pmd, address);
    if (is_swap_pte(*pte)) {
        const u32 slot = pte_swp_offset(*pte);
        const bool alone = swap_cache_get(m, slot) == NIL && swap_count(m, slot) == 1; // R43
        return alone && swapin_orders(m, vma, address, pte, allowed) &&
               ask(m, vma, address, TVA_SWAP_PAGEFAULT, allowed & ~huge);
    }
    const u32 nr = 1U << std::countr_zero(orders); // R4: where a larger block is empty this one is too
    const bool fits = write && orders != huge &&
                      pte_range_replaceable(pte - pte_index(address) % nr, nr, grows_at_cow(m, *pte));
    return fits && ask(m, vma, address, TVA_PAGEFAULT, allowed);
}

bool thp_khugepaged_asks(machine &m, const vm_area_struct &vma, u64 address) {
    if (m.h->order_hook == ORDERS_NOT_ASKED) return false;
    const u64 *pmd = pmd_offset(m, vma.vm_mm, address);
    const u32 sizes = feature(m, FEATURE_collapse_mthp) ? THP_ORDERS_ALL_ANON : 1U << PMD_ORDER;
    const u32 offered = thp_vma_allowable_orders(m, vma) & sizes;
    return pmd && pmd_is_table(*pmd) && offered && ask(m, vma, address, TVA_KHUGEPAGED, offered);
}

int thp_resolve(machine &m, u32 order) {
    order_question &q = m.h->question;
    if (q.state != ORDER_ASKED || order > PMD_ORDER || !((q.orders | 1) & (1U << order))) return -EINVAL;
    const u32 v = vma_lookup(m, q.mm, q.address);
    if (v != NIL) { // it is gone when somebody unmapped it meanwhile
        order_answer *answer = insert(m, m.vmas[v].id, q.address >> PMD_SHIFT);
        if (!answer) return -ENOMEM;
        answer->order[q.type] = static_cast<u8>(order);
    }
    q.state = ORDER_ANSWERED;
    return 0;
}

void order_answers_zap(machine &m, const vm_area_struct &vma, u64 start, u64 end) {
    if (header_of(m).in_use == 0) return;
    for (u64 at = align_down(start, PMD_SIZE); at < end; at += PMD_SIZE) {
        m.host.work();
        if (start > std::max(at, vma.vm_start) || end < std::min(at + PMD_SIZE, vma.vm_end)) continue;
        if (order_answer *answer = order_answers_find(m, vma.id, at)) erase(m, answer);
    }
}

void order_answers_move(machine &m, u32 from, u32 to, u64 start, u64 end, u64 cut) {
    if (header_of(m).in_use == 0 || from == to) return;
    for (u64 at = align_down(start, PMD_SIZE); at < end; at += PMD_SIZE) {
        m.host.work();
        const order_answer *answer = order_answers_find(m, from, at);
        if (!answer) continue;
        const order_answer copy = *answer;
        if (cut <= at || cut >= at + PMD_SIZE) erase(m, order_answers_find(m, from, at));
        if (order_answers_find(m, to, at)) continue;
        if (order_answer *target = insert(m, to, copy.block))
            std::copy_n(copy.order, NR_TVA_TYPES, target->order);
    }
}

bool order_answers_sound(const machine &m) {
    const arena_array &t = header_of(m);
    const auto has_part = [&](u32 v, const order_answer &a) {
        const u64 block = a.block << PMD_SHIFT;
        return m.vmas[v].id == a.vma && m.vmas[v].vm_start < block + PMD_SIZE && m.vmas[v].vm_end > block;
    };
    const auto sound = [&](const order_answer &a) {
        return order_answers_find(m, a.vma, a.block << PMD_SHIFT) == &a &&
               std::any_of(m.vma_order, m.vma_order + m.h->nr_vmas, [&](u32 v) { return has_part(v, a); });
    };
    u32 n = 0;
    for (u32 i = 0; i < t.used; ++i) {
        if (m.order_answers[i].vma == 0) continue;
        if (!sound(m.order_answers[i])) return false;
        ++n;
    }
    return n == t.in_use;
}

} // namespace thp
