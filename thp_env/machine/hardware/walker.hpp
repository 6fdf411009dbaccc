// The memory management unit: TLB lookup, page-table walk, accessed and dirty bits.
#pragma once
#include "../kernel/page_alloc.hpp"
#include "../kernel/page_table.hpp"
#include "tlb.hpp"

namespace thp {

enum mmu_result : u32 { MMU_DONE, MMU_FAULT };

// The translation arrays of one process, looked up once per operation instead of once per access.
struct mmu {
    machine &m;
    u32 mm, weight;
    bool one_l1 = false; // fully associative, for all sizes
    tlb_array l1[NR_PAGE_SIZES], l2[NR_PAGE_SIZES], pwc[NR_PWC];
    tlb_array shadow_l1, shadow_l2, shadow_pwc[NR_PWC];
    // Since the last commit(), before weighting.
    u64 n = 0, l1_miss = 0, cycles = 0, compute_ps = 0;

    mmu(machine &machine, u32 mm, u32 weight);

    // One access. On MMU_FAULT nothing has been accessed: let the kernel handle the fault and try again.
    mmu_result access(u64 address, bool write, u8 content);
    // Further accesses to the page just accessed: they hit, and change nothing.
    void again(u64 count) { n += count; }
    // Adds what happened since the last call to the counters and the clock.
    void commit();
    u64 now() const { return m.h->clock + (compute_ps + cycles * m.cost().cycle) * weight; }

  private:
    tlb_entry *lookup(u64 address);
    // known: an entry is there but does not permit the write.
    mmu_result miss(u64 address, bool write, u8 content, bool known);
    mmu_result walk(u64 address, bool write, u8 content, tlb_entry *out, u32 *size);
    u32 walk_cost(u64 address, u32 levels, const tlb_array *caches, bool count);
    void shadow_access(u64 address);
    void page_access(u64 pfn, bool write, u8 content);
    bool usable(tlb_entry &entry, u32 size, u64 address, bool write, u8 content);
};

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
    m.contents[pfn] = static_cast<u8>(CONTENT_TOUCHED | (write ? content_after(value, content) : value));
}

// Whether the entry permits the access as it is; notes the access to the page behind it.
inline bool mmu::usable(tlb_entry &entry, u32 size, u64 address, bool write, u8 content) {
    if (write && !(entry.data & TLB_WRITE)) return false;
    const u64 pfn = entry.data >> TLB_PFN_SHIFT;
    if (size == SIZE_4K) {
        // The page was accessed when the entry was filled: only another content is news.
        const u64 seen = u64{content} << TLB_CONTENT_SHIFT;
        if (write && (entry.data & TLB_NO_CONTENT) != seen) {
            page_access(pfn, true, content);
            entry.data = (entry.data & ~TLB_NO_CONTENT) | seen;
        }
    } else {
        page_access(pfn + pte_index(address), write, content);
    }
    return true;
}

// The entry in the first level, of whatever size; nullptr when it is not there.
inline tlb_entry *mmu::lookup(u64 address) {
    const u64 small = tlb_tag(address, PAGE_SHIFT, SIZE_4K, mm),
              large = tlb_tag(address, PMD_SHIFT, SIZE_2M, mm);
    if (one_l1) return l1[SIZE_4K].find_either(l1[SIZE_4K].entries, small, large);
    tlb_entry *hit = l1[SIZE_4K].find(address >> PAGE_SHIFT, small);
    return hit ? hit : l1[SIZE_2M].find(address >> PMD_SHIFT, large);
}

inline mmu_result mmu::access(u64 address, bool write, u8 content) {
    tlb_entry *hit = lookup(address);
    if (!hit) return miss(address, write, content, false);
    if (!usable(*hit, (hit->tag >> 1) & 7, address, write, content))
        return miss(address, write, content, true);
    ++n;
    if (shadow_l1.ways) shadow_access(address);
    return MMU_DONE;
}

} // namespace thp
