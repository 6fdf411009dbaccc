#include "walker.hpp"

namespace thp {

namespace {

constexpr u32 LEVEL_SHIFT[4] = {PGDIR_SHIFT, PUD_SHIFT, PMD_SHIFT, PAGE_SHIFT};

} // namespace

mmu::mmu(machine &machine, u32 process, u32 k) : m(machine), mm(process), weight(k) {
    const tlb_config &c = m.h->config.tlb;
    one_l1 = c.l1_of_size[SIZE_4K] == c.l1_of_size[SIZE_2M] && c.arrays[c.l1_of_size[SIZE_4K]].sets == 1;
    for (u32 size = 0; size < NR_PAGE_SIZES; ++size) {
        l1[size] = tlb_array_at(m, 0, c.l1_of_size[size]);
        l2[size] = c.l2_of_size[size] == NIL ? tlb_array{} : tlb_array_at(m, 0, c.l2_of_size[size]);
    }
    for (u32 i = 0; i < NR_PWC; ++i) {
        pwc[i] = tlb_array_at(m, 0, NR_TLB_ARRAYS + i);
        shadow_pwc[i] = tlb_array_at(m, 1, NR_TLB_ARRAYS + i);
    }
    shadow_l1 = m.h->config.shadow_tlb ? tlb_array_at(m, 1, c.l1_of_size[SIZE_4K]) : tlb_array{};
    shadow_l2 = c.l2_of_size[SIZE_4K] == NIL ? tlb_array{} : tlb_array_at(m, 1, c.l2_of_size[SIZE_4K]);
}

void mmu::commit() {
    const u64 k = weight;
    m.count(VM_accesses, n * k);
    m.count(VM_dtlb_load_store_simulated, n);
    m.count(VM_dtlb_l1_miss, l1_miss * k);
    m.spend(TIME_compute, compute_ps * k);
    m.spend(TIME_translation, cycles * k * m.cost().cycle);
    n = l1_miss = cycles = compute_ps = 0;
}

// The deepest paging structure that is cached saves the references above it; a walk fills all of them.
u32 mmu::walk_cost(u64 address, u32 levels, const tlb_array *caches, bool count) {
    const tlb_config &c = m.h->config.tlb;
    u32 first = 0;
    for (u32 i = 0; i < NR_PWC && first == 0; ++i) { // PDE, PDPTE, PML4E: skip 3, 2, 1 levels
        const u32 skipped = NR_PWC - i;
        if (skipped >= levels || caches[i].ways == 0) continue;
        const u32 shift = LEVEL_SHIFT[skipped - 1];
        if (caches[i].find(address >> shift, tlb_tag(address, shift, 0, mm))) first = skipped;
    }
    u32 cost = 0;
    for (u32 level = first; level < levels; ++level) {
        cost += c.walk_cycles[level];
        if (count) m.count(static_cast<vm_event>(VM_walk_ref_pgd + level), weight);
    }
    for (u32 i = 0; i < NR_PWC; ++i) {
        const u32 cached = NR_PWC - i;
        if (cached >= levels || cached <= first || caches[i].ways == 0) continue;
        const u32 shift = LEVEL_SHIFT[cached - 1];
        caches[i].insert(address >> shift, {tlb_tag(address, shift, 0, mm), 0});
    }
    return cost;
}

mmu_result mmu::walk(u64 address, bool write, u8 content, tlb_entry *out, u32 *size) {
    u64 *pmd = pmd_offset(m, mm, address);
    if (!pmd || !(*pmd & PTE_PRESENT)) return MMU_FAULT;
    const bool huge = *pmd & PTE_PSE;
    u64 *entry = huge ? pmd : pte_offset(m, *pmd, address);
    if (!(*entry & PTE_PRESENT) || (write && !(*entry & PTE_RW))) return MMU_FAULT;
    *entry |= PTE_ACCESSED | (write ? u64{PTE_DIRTY} : 0);
    const u32 cost = walk_cost(address, huge ? 3 : 4, pwc, true);
    cycles += cost;
    m.count(VM_walk_cycles, u64{cost} * weight);
    const u32 pfn = pte_pfn(*entry);
    const bool writable = (*entry & PTE_RW) && (*entry & PTE_DIRTY);
    page_access(huge ? pfn + pte_index(address) : pfn, write, content);
    const u64 seen = write ? u64{content} << TLB_CONTENT_SHIFT : u64{TLB_NO_CONTENT};
    *size = huge ? SIZE_2M : SIZE_4K;
    const u64 tag = tlb_tag(address, page_shift_of[*size], *size, mm);
    *out = {tag, u64{pfn} << TLB_PFN_SHIFT | seen | (writable ? TLB_WRITE : 0)};
    return MMU_DONE;
}

mmu_result mmu::miss(u64 address, bool write, u8 content, bool known) {
    for (u32 size = 0; size < NR_PAGE_SIZES && !known; ++size) {
        const u64 number = address >> page_shift_of[size];
        const u64 tag = tlb_tag(address, page_shift_of[size], size, mm);
        tlb_entry *hit = l2[size].ways ? l2[size].find(number, tag) : nullptr;
        if (!hit) continue;
        tlb_entry *entry = l1[size].insert(number, *hit);
        if (size == SIZE_4K) entry->data |= TLB_NO_CONTENT; // another may have been written since it left
        ++l1_miss;
        cycles += m.h->config.tlb.l2_hit_cycles;
        if (usable(*entry, size, address, write, content)) {
            ++n;
            if (shadow_l1.ways) shadow_access(address);
            return MMU_DONE;
        }
        known = true;
    }
    tlb_entry fresh;
    u32 size = 0;
    if (walk(address, write, content, &fresh, &size) == MMU_FAULT) return MMU_FAULT;
    const u64 number = address >> page_shift_of[size];
    if (known) { // the walk set the dirty bit: refresh what is cached
        m.count(VM_dtlb_dirty_assist, weight);
        if (tlb_entry *entry = l1[size].find(number, fresh.tag)) entry->data = fresh.data;
        if (tlb_entry *entry = l2[size].ways ? l2[size].find(number, fresh.tag) : nullptr)
            entry->data = fresh.data;
    } else {
        m.count(VM_dtlb_l2_miss, weight);
        l1[size].insert(number, fresh);
        if (l2[size].ways) l2[size].insert(number, fresh);
    }
    l1_miss += !known;
    ++n;
    if (shadow_l1.ways) shadow_access(address);
    return MMU_DONE;
}

void mmu::shadow_access(u64 address) {
    const u64 number = address >> PAGE_SHIFT, tag = tlb_tag(address, PAGE_SHIFT, SIZE_4K, mm);
    if (shadow_l1.find(number, tag)) return;
    m.count(VM_shadow_l1_miss, weight);
    shadow_l1.insert(number, {tag, 0});
    if (shadow_l2.ways && shadow_l2.find(number, tag)) return;
    m.count(VM_shadow_l2_miss, weight);
    m.count(VM_shadow_walk_cycles, u64{walk_cost(address, 4, shadow_pwc, false)} * weight);
    if (shadow_l2.ways) shadow_l2.insert(number, {tag, 0});
}

} // namespace thp
