// The memory management unit: TLB lookup, page-table walk, accessed and dirty bits.
#pragma once
#include "../kernel/page_alloc.hpp"
#include "../kernel/page_table.hpp"
#include "tlb.hpp"

namespace thp {

enum mmu_result : u32 { MMU_DONE, MMU_FAULT };

constexpr u32 LEVEL_SHIFT[4] = {PGDIR_SHIFT, PUD_SHIFT, PMD_SHIFT, PAGE_SHIFT};

// Accesses that follow each other, made before they are done: so that what their walks will read can be
// fetched while others run.
struct access_block {
    static constexpr u64 SIZE = 64;
    u64 address[SIZE], ps[SIZE]; // ps: computed before it
    u32 count[SIZE];             // accesses to the same page in a row
    bool write[SIZE];
    u64 *pte[SIZE]; // where an access has to look, if `ahead`; null: not known
    u8 content;     // what is written
    bool ahead;
};

// How accesses to a machine take the fast path: by the kind of its first level; ANY: they do not.
tlb_array::kind fast_path_of(const machine &m);

// The translations of one process, looked up once per operation instead of once per access.
struct mmu {
    machine &m;
    u32 mm, weight;

    mmu(machine &machine, u32 mm, u32 weight, u64 until = ~0ULL);

    // One access. On MMU_FAULT nothing has been accessed: let the kernel handle the fault and try again.
    mmu_result access(u64 address, bool write, u8 content);
    // ... again, after the kernel has handled its fault: the TLB holds nothing of the page.
    mmu_result walk_again(u64 address, bool write, u8 content);
    // Brings back what a flush took, if it is still in use (refill.cpp). No access of the program.
    void refill(const lost_translation &lost);
    // Further accesses to the page just accessed: they hit, and change nothing.
    void again(u64 count) { n += count; }
    void compute(u64 ps) {
        compute_ps += ps;
        elapsed += ps;
    }
    // Adds what happened since the last call to the counters and the clock.
    void commit();
    bool out_of_time() const { return elapsed >= left; }
    // Lets no time be left, whatever the clock says.
    void stop() { until = left = 0; }
    // Fetches what walks for the first `nr` accesses would read, and what they would note of the pages, where
    // misses have been frequent. No part of the simulation.
    void look_ahead(access_block &block, u64 nr);
    // Does accesses [first, end) of a block inside [start, start + length) by fast_path, as far as they are
    // usual; returns how many.
    u64 access_fast(const access_block &block, u64 first, u64 end, u64 start, u64 length);

  private:
    template <tlb_array::kind L1, u32 Joined> friend struct fast_path;
    // What a walk finds: the entry and its level (0: PGD).
    struct leaf {
        u64 *entry;
        u32 level;
    };

    const tlb &translations, &shadow;
    const bool with_shadow, with_nested;
    const tlb_array::kind fast; // how fast_path finds a first-level entry; ANY: it does not serve the machine
    const u64 cycle;            // ps
    u64 *const pgd;             // the process's top table
    // The PMD table of the last 1G looked at. While a process accesses memory, page tables come and none go.
    u64 *pmd = nullptr, pmd_of = ~0ULL;
    u64 until;
    // Time since the last commit(), before weighting, and how much of it there may be until `until`; ps.
    u64 elapsed = 0, left = 0;
    u64 last_page = ~0ULL; // the page just accessed, and what was written to it (0: nothing)
    u32 last_write = 0;
    u64 n = 0, l1_miss = 0, l2_miss = 0, cycles = 0, walk_cycles = 0, compute_ps = 0;
    u64 walk_refs[4] = {};                                    // by level
    u64 walks = 0, walks_seen = 0, large = 0, large_seen = 0; // large: found at L2, 2M or more

    static u64 pfn_of(const leaf &l, u64 address) {
        const u64 pages = 1ULL << (LEVEL_SHIFT[l.level] - PAGE_SHIFT);
        return pte_pfn(*l.entry) + ((address >> PAGE_SHIFT) & (pages - 1));
    }
    mmu_result miss(u64 address, bool write, u8 content);
    // A walk for an entry that does not permit the write: it sets the dirty bit. In which level it was.
    mmu_result assist(u64 address, bool write, u8 content, u32 level);
    bool walk(u64 address, bool write, u8 content);
    bool find_pmd(u64 address, leaf *out);
    bool look_up_pmd(u64 address, leaf *out);
    bool find_leaf(u64 address, leaf *out);
    u32 size_of(const leaf &l, u64 address) const;
    u32 walk_cost(const tlb &t, u64 address, u32 levels, u32 *first);
    u32 nested_cost(u64 address, u32 first, u32 last, u64 pfn);
    void shadow_access(u64 address);
    void sample(u64 address, u32 size);
    // How many walks there are before the one that the PMU samples next; and that so many have been.
    u64 unsampled() const {
        const policy_signals &p = m.h->policy;
        if (!p.walk_period || !weight) return ~0ULL; // weight 0: accesses that are not counted
        return p.walks_since < p.walk_period ? (p.walk_period - 1 - p.walks_since) / weight : 0;
    }
    void pass_unsampled(u64 nr) const {
        if (m.h->policy.walk_period) m.h->policy.walks_since += nr * weight;
    }
    void page_access(u64 pfn, bool write, u8 content);
    bool usable(u64 data, u32 size, u64 address, bool write, u8 content);
    mmu_result done(u64 address, bool write, u8 content);
};

// The entry of an address in a PMD table; false when there is none, and the one above it that maps 1G or
// nothing.
inline bool mmu::find_pmd(u64 address, leaf *out) {
    if (address >> PUD_SHIFT != pmd_of) return look_up_pmd(address, out);
    *out = {pmd + ((address >> PMD_SHIFT) & (PTRS_PER_TABLE - 1)), 2};
    return true;
}

// The entry that maps an address, or the one that does not.
inline bool mmu::find_leaf(u64 address, leaf *out) {
    if (find_pmd(address, out) && (*out->entry & (PTE_PRESENT | PTE_PSE)) == PTE_PRESENT)
        *out = {pte_offset(m, *out->entry, address), 3};
    return *out->entry & PTE_PRESENT;
}

// The entry that a PTE fills. X7: a core that coalesces takes an aligned run of PTEs with the same bits that
// map contiguous frames.
inline u32 pte_size(const u64 *pte, u64 address, u32 coalesced_order, bool contpte) {
    if ((*pte & PTE_CONT) && contpte) return SIZE_CONTPTE;
    const u32 nr = 1U << coalesced_order, index = pte_index(address) & (nr - 1);
    if (nr == 1 || (pte_pfn(*pte) & (nr - 1)) != index) return SIZE_4K;
    const u64 *first = pte - index;
    u64 differ = 0;
    for (u32 i = 1; i < nr; ++i) differ |= first[i] ^ (*first + (u64{i} << PTE_PFN_SHIFT));
    return differ ? SIZE_4K : SIZE_COALESCED;
}

inline u32 mmu::size_of(const leaf &l, u64 address) const {
    const tlb_config &c = m.h->config.tlb;
    if (l.level < 3) return l.level == 1 ? SIZE_1G : SIZE_2M;
    return pte_size(l.entry, address, c.coalesced_order, c.of_size[0][SIZE_CONTPTE] != NIL);
}

// The deepest paging structure that is cached saves the references above it; a walk fills those below it.
inline u32 mmu::walk_cost(const tlb &t, u64 address, u32 levels, u32 *first) {
    *first = 0;
    for (u32 i = 0; i < NR_PWC && *first == 0; ++i) { // PDE, PDPTE, PML4E: skip 3, 2, 1 levels
        const u32 skipped = NR_PWC - i, shift = LEVEL_SHIFT[skipped - 1];
        if (skipped >= levels || t.pwc[i].ways == 0) continue;
        if (t.pwc[i].find_or_insert(address >> shift, tag_key(tlb_tag(address, shift, 0, mm))))
            *first = skipped;
    }
    u32 cost = 0;
    for (u32 level = *first; level < levels; ++level) cost += m.h->config.tlb.walk_cycles[level];
    return cost;
}

// What a write leaves in a page: 0 and 1 are single bytes, more is the class of the whole page.
inline u8 content_after(u8 old, u8 written) {
    if (written > 1) return written;
    return old <= 1 ? written : old;
}

inline void mmu::page_access(u64 pfn, bool write, u8 content) {
    const u8 old = m.contents[pfn];
    if (!(old & CONTENT_TOUCHED)) {
        commit(); // memory over time wants the right time
        mod_memory(m, VM_nr_untouched, -1);
    }
    const u8 value = old & CONTENT_MASK;
    const auto now = static_cast<u8>(CONTENT_TOUCHED | (write ? content_after(value, content) : value));
    if (now != old) m.contents[pfn] = now;
}

// Whether the entry permits the access as it is; notes the access to the page behind it.
inline bool mmu::usable(u64 data, u32 size, u64 address, bool write, u8 content) {
    if (write && !(data & TLB_WRITE)) return false;
    // A 4K page was accessed when its entry was filled.
    if (size != SIZE_4K || write) page_access(translations.pfn(data, address, size), write, content);
    return true;
}

inline mmu_result mmu::done(u64 address, bool write, u8 content) {
    last_page = address >> PAGE_SHIFT;
    last_write = write ? content + 1U : 0;
    ++n;
    if (with_shadow) shadow_access(address);
    return MMU_DONE;
}

inline mmu_result mmu::access(u64 address, bool write, u8 content) {
    if (address >> PAGE_SHIFT == last_page && (!write || last_write == content + 1U)) {
        ++n;
        return MMU_DONE;
    }
    u32 size = 0;
    const u64 *data = translations.find(0, address, mm, m.h->tlb_sizes, &size);
    if (!data) return miss(address, write, content);
    if (!usable(*data, size, address, write, content)) return assist(address, write, content, 0);
    return done(address, write, content);
}

} // namespace thp
