// The memory management unit: TLB lookup, page-table walk, accessed and dirty bits.
#pragma once
#include "../kernel/page_alloc.hpp"
#include "../kernel/page_table.hpp"
#include "tlb.hpp"

namespace thp {

enum mmu_result : u32 { MMU_DONE, MMU_FAULT };

constexpr u32 LEVEL_SHIFT[4] = {PGDIR_SHIFT, PUD_SHIFT, PMD_SHIFT, PAGE_SHIFT};

// The translations of one process, looked up once per operation instead of once per access.
struct mmu {
    machine &m;
    u32 mm, weight;

    mmu(machine &machine, u32 mm, u32 weight, u64 until = ~0ULL);

    // One access. On MMU_FAULT nothing has been accessed: let the kernel handle the fault and try again.
    mmu_result access(u64 address, bool write, u8 content);
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
    // Fetches what walks for the next accesses would read, and what they would note of the pages, where walks
    // have been frequent. No part of the simulation.
    static constexpr u64 AHEAD = 32;
    void prefetch(const u64 *addresses, u64 nr);

  private:
    // What a walk finds: the entry and its level (0: PGD).
    struct leaf {
        u64 *entry;
        u32 level;
    };

    const tlb &translations, &shadow;
    const bool with_shadow, with_nested;
    const u64 cycle; // ps
    u64 *const pgd;  // the process's top table
    // The PMD table of the last 1G looked at. While a process accesses memory, page tables come and none go.
    u64 *pmd = nullptr, pmd_of = ~0ULL;
    u64 until;
    // Time since the last commit(), before weighting, and how much of it there may be until `until`; ps.
    u64 elapsed = 0, left = 0;
    u64 last_page = ~0ULL; // the page just accessed, and what was written to it (0: nothing)
    u32 last_write = 0;
    u64 n = 0, l1_miss = 0, l2_miss = 0, cycles = 0, walk_cycles = 0, compute_ps = 0;
    u64 walk_refs[4] = {}; // by level
    u64 walks = 0, walks_seen = 0;

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
