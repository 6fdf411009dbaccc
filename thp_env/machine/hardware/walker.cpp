#include "walker.hpp"
#include "../kernel/mmap.hpp"
#include "../patterns.hpp"

namespace thp {

mmu::mmu(machine &machine, u32 process, u32 k, u64 end)
    : m(machine), mm(process), weight(k), translations(m.translations[0]), shadow(m.translations[1]),
      with_shadow(m.h->config.shadow_tlb), with_nested(m.h->config.tlb.nested_shift), fast(fast_path_of(m)),
      cycle(m.cost().cycle), pgd(m.page_tables + u64{m.mms[process].pgd} * PTRS_PER_TABLE), until(end) {
    switch_mm(m, mm);
    commit();
}

void mmu::commit() {
    const u64 k = weight;
    const u64 walked = walk_refs[0] | walk_refs[1] | walk_refs[2] | walk_refs[3];
    if (n | l1_miss | l2_miss | cycles | elapsed | walked) {
        m.count_weighted(VM_accesses, n, k);
        m.count(VM_dtlb_load_store_simulated, n);
        m.count(VM_dtlb_l1_miss, l1_miss * k);
        m.count(VM_dtlb_l2_miss, l2_miss * k);
        if (elapsed) {
            m.spend(TIME_compute, saturating_mul(compute_ps, k));
            m.spend(TIME_translation, saturating_mul(cycles * cycle, k));
        }
        if (walked) {
            for (u32 level = 0; level < 4; ++level) {
                m.count(static_cast<vm_event>(VM_walk_ref_pgd + level), walk_refs[level] * k);
                walk_refs[level] = 0;
            }
            m.count_weighted(VM_walk_cycles, walk_cycles, k);
        }
        n = l1_miss = l2_miss = cycles = walk_cycles = compute_ps = elapsed = 0;
    }
    left = m.h->clock >= until ? 0
           : k == 0            ? ~0ULL
           : k == 1            ? until - m.h->clock
                               : (until - m.h->clock - 1) / k + 1;
}

bool mmu::look_up_pmd(u64 address, leaf *out) {
    u64 *table = pgd;
    for (u32 level = 0; level < 2; ++level) {
        u64 *entry = table + ((address >> LEVEL_SHIFT[level]) & (PTRS_PER_TABLE - 1));
        *out = {entry, level};
        if (!(*entry & PTE_PRESENT) || (*entry & PTE_PSE)) return false;
        table = m.page_tables + u64{pte_pfn(*entry)} * PTRS_PER_TABLE;
    }
    pmd = table;
    pmd_of = address >> PUD_SHIFT;
    return find_pmd(address, out);
}

void mmu::look_ahead(access_block &block, u64 nr) {
    const u64 since = walks - walks_seen + large - large_seen;
    walks_seen = walks;
    large_seen = large;
    block.ahead = since >= nr / 8;
    if (!block.ahead) return;
    for (u64 i = 0; i < nr; ++i) {
        leaf l;
        block.pte[i] = nullptr;
        if (!find_pmd(block.address[i], &l) || !(*l.entry & PTE_PRESENT)) continue;
        if (*l.entry & PTE_PSE) {
            __builtin_prefetch(m.contents + pfn_of(l, block.address[i]));
        } else {
            __builtin_prefetch(block.pte[i] = pte_offset(m, *l.entry, block.address[i]));
        }
    }
    for (u64 i = 0; i < nr; ++i) {
        if (block.pte[i]) __builtin_prefetch(m.contents + pte_pfn(*block.pte[i]));
    }
}

// Two-dimensional walk (Bhargava et al., ASPLOS 2008): each table referenced, and the page, stands at a
// guest-physical address that the host's page tables translate. The same for lines of page tables in caches:
// the references are looked for, and the page is not.
u32 mmu::nested_cost(u64 address, u32 first, u32 last, u64 pfn) {
    const u32 shift = m.h->config.tlb.nested_shift;
    const bool lines = shift == LINE_SHIFT;
    u32 missing = 0, table = m.mms[mm].pgd;
    for (u32 level = 0; level <= last + !lines; ++level) {
        const u64 frame = level > last ? pfn : m.page_table_frames[table];
        const u64 index = level > last ? 0 : (address >> LEVEL_SHIFT[level]) & (PTRS_PER_TABLE - 1);
        const u64 at = (frame << PAGE_SHIFT) + (lines ? index * sizeof(u64) : 0);
        const tag_key key(tlb_tag(at, shift, 0, 0));
        if (level >= first && !translations.nested.find_or_insert(at >> shift, key)) ++missing;
        if (level < last) table = pte_pfn(m.page_tables[u64{table} * PTRS_PER_TABLE + index]);
    }
    m.count_weighted(VM_walk_ref_nested, missing, weight);
    return missing * m.h->config.tlb.nested_cycles;
}

namespace {

void note_walked(machine &m, u64 address, u32 mm, u64 walks) {
    m.h->arrays[ARRAY_walked_blocks].used = MAX_WALKED_BLOCKS;
    const u64 block = address >> PMD_SHIFT;
    walked_block &at = m.walked_blocks[mix64(block ^ u64{mm} << 48) % MAX_WALKED_BLOCKS];
    if (at.block == block && at.mm == mm) {
        at.walks = std::min(at.walks + walks, COUNT_MAX);
    } else if (at.walks < walks) {
        at = {block, walks - at.walks, mm, 0};
    } else {
        at.walks -= walks;
    }
}

} // namespace

// PEBS, SPE: the address of every n-th walk. What comes while the buffer is full is lost, but was written.
void mmu::sample(u64 address, u32 size) {
    m.h->policy.walks_since += weight;
    const u64 count = m.h->policy.walks_since / m.h->policy.walk_period;
    if (count == 0) return;
    m.h->policy.walks_since %= m.h->policy.walk_period;
    commit();
    m.spend(TIME_monitoring, m.cost().pmu_sample * count);
    commit(); // the samples took time
    if (const u32 v = vma_lookup(m, mm, address); v != NIL) m.vmas[v].asked.walks += count;
    note_walked(m, address, mm, count * m.h->policy.walk_period);
    u32 &used = m.h->arrays[ARRAY_walk_samples].used;
    if (used < MAX_WALK_SAMPLES) m.walk_samples[used++] = {address, mm, static_cast<u32>(count), size, 0};
}

bool mmu::walk(u64 address, bool write, u8 content) {
    leaf l;
    if (!find_leaf(address, &l) || (write && !(*l.entry & PTE_RW))) {
        last_page = ~0ULL;
        return false;
    }
    const u64 bits = PTE_ACCESSED | (write ? u64{PTE_DIRTY} : 0);
    if (~*l.entry & bits) *l.entry |= bits;
    ++walks;
    const u64 pfn = pfn_of(l, address);
    u32 first = 0;
    u32 cost = walk_cost(translations, address, l.level + 1, &first);
    for (u32 level = first; level <= l.level; ++level) ++walk_refs[level];
    if (with_nested) cost += nested_cost(address, first, l.level, pfn);
    cycles += cost;
    walk_cycles += cost;
    elapsed += cost * cycle;
    page_access(pfn, write, content);
    const u64 flags = (*l.entry & PTE_RW) && (*l.entry & PTE_DIRTY) ? TLB_WRITE : 0;
    const u32 size = size_of(l, address);
    if (m.h->policy.walk_period) sample(address, size);
    for (u32 level = 0; level < 2; ++level) {
        const u32 entry_size = translations.fill(level, address, mm, size, pfn, flags);
        if (entry_size != NIL) m.h->tlb_sizes |= 1U << entry_size;
    }
    return true;
}

mmu_result mmu::miss(u64 address, bool write, u8 content) {
    u32 size = 0;
    if (const u64 *data = translations.find(1, address, mm, m.h->tlb_sizes, &size)) {
        if (!usable(*data, size, address, write, content)) return assist(address, write, content, 1);
        const u64 pfn = translations.pfn(*data, address, size);
        m.h->tlb_sizes |= 1U << translations.fill(0, address, mm, size, pfn, *data & TLB_WRITE);
        cycles += m.h->config.tlb.l2_hit_cycles;
        elapsed += m.h->config.tlb.l2_hit_cycles * cycle;
    } else {
        return walk_again(address, write, content);
    }
    ++l1_miss;
    return done(address, write, content);
}

mmu_result mmu::walk_again(u64 address, bool write, u8 content) {
    if (!walk(address, write, content)) return MMU_FAULT;
    ++l2_miss;
    ++l1_miss;
    return done(address, write, content);
}

mmu_result mmu::assist(u64 address, bool write, u8 content, u32 level) {
    translations.drop_page(address, mm, m.h->tlb_sizes);
    if (!walk(address, write, content)) return MMU_FAULT;
    m.count(VM_dtlb_dirty_assist, weight);
    l1_miss += level;
    return done(address, write, content);
}

void mmu::shadow_access(u64 address) {
    constexpr u32 SMALL = 1U << SIZE_4K;
    u32 size = 0, first = 0;
    if (shadow.find(0, address, mm, SMALL, &size)) return;
    m.count(VM_shadow_l1_miss, weight);
    shadow.fill(0, address, mm, SIZE_4K, 0, 0);
    if (shadow.find(1, address, mm, SMALL, &size)) return;
    m.count(VM_shadow_l2_miss, weight);
    m.count_weighted(VM_shadow_walk_cycles, walk_cost(shadow, address, 4, &first), weight);
    shadow.fill(1, address, mm, SIZE_4K, 0, 0);
}

} // namespace thp
