#include "tlb.hpp"
#include <bit>

namespace thp {

namespace {

constexpr u64 FLUSH_CEILING = 33; // arch/x86/mm/tlb.c: tlb_single_page_flush_ceiling

const tlb_geometry &geometry(const tlb_config &c, u32 array) {
    return array < NR_TLB_ARRAYS ? c.arrays[array] : c.pwc[array - NR_TLB_ARRAYS];
}

u32 one_copy(const tlb_config &c) {
    u32 n = 0;
    for (u32 array = 0; array < NR_TLB_ARRAYS + NR_PWC; ++array)
        n += geometry(c, array).sets * geometry(c, array).ways;
    return n;
}

// Takes an entry out; the others of its set close up, so that the free way is the next to be filled.
void drop(const tlb_array &array, tlb_entry *set, u32 way) {
    std::copy(set + way + 1, set + array.ways, set + way);
    set[array.ways - 1] = tlb_entry{};
}

void drop_page(machine &m, u32 which, u32 array, u64 number, u64 tag) {
    const tlb_array a = tlb_array_at(m, which, array);
    if (a.ways == 0) return;
    tlb_entry *set = a.set_of(number);
    for (u32 way = 0; way < a.ways; ++way) {
        if (set[way].tag == tag) return drop(a, set, way);
    }
}

void drop_asid(machine &m, u32 which, u32 array, u32 asid) {
    const tlb_array a = tlb_array_at(m, which, array);
    for (u32 s = 0; s < a.sets; ++s) {
        tlb_entry *set = a.entries + u64{s} * a.ways;
        const auto gone = [asid](const tlb_entry &e) { return e.tag && ((e.tag >> 4) & 0xfff) == asid; };
        std::fill(std::remove_if(set, set + a.ways, gone), set + a.ways, tlb_entry{});
    }
}

u32 copies(const machine &m) { return m.h->config.shadow_tlb ? 2 : 1; }

// INVLPG drops the page's translation, and all paging-structure caches of the address space (SDM 4.10.4.1).
void invalidate_page(machine &m, u32 mm, u64 address) {
    const tlb_config &c = m.h->config.tlb;
    for (u32 which = 0; which < copies(m); ++which) {
        for (u32 size = 0; size < NR_PAGE_SIZES; ++size) {
            const u32 shift = page_shift_of[size];
            const u64 tag = tlb_tag(address, shift, size, mm);
            for (const u32 array : {c.l1_of_size[size], c.l2_of_size[size]}) {
                if (array != NIL) drop_page(m, which, array, address >> shift, tag);
            }
        }
    }
}

void invalidate_walk_caches(machine &m, u32 mm) {
    for (u32 which = 0; which < copies(m); ++which) {
        for (u32 i = 0; i < NR_PWC; ++i) drop_asid(m, which, NR_TLB_ARRAYS + i, mm);
    }
}

} // namespace

u32 tlb_entries(const tlb_config &config) { return 2 * one_copy(config); }

std::string check_tlb(const tlb_config &c) {
    const auto valid = [](const tlb_geometry &g) {
        return g.ways <= 4096 && g.sets <= (1U << 20) && (g.ways == 0 || std::has_single_bit(g.sets));
    };
    for (u32 array = 0; array < NR_TLB_ARRAYS + NR_PWC; ++array) {
        if (!valid(geometry(c, array))) {
            return "TLB array " + std::to_string(array) +
                   ": sets must be a power of two and ways at most 4096";
        }
    }
    for (u32 size = 0; size < NR_PAGE_SIZES; ++size) {
        const u32 l1 = c.l1_of_size[size], l2 = c.l2_of_size[size];
        if (l1 >= NR_TLB_ARRAYS || c.arrays[l1].ways == 0)
            return "every page size needs a first-level TLB with ways";
        if (l2 != NIL && (l2 >= NR_TLB_ARRAYS || c.arrays[l2].ways == 0))
            return "a second-level TLB has no ways";
    }
    return {};
}

void tlb_init(machine &m) {
    u32 at = 0;
    for (auto &copy : m.h->tlb_array) {
        for (u32 array = 0; array < NR_TLB_ARRAYS + NR_PWC; ++array) {
            copy[array] = at;
            const tlb_geometry &g = geometry(m.h->config.tlb, array);
            at += g.sets * g.ways;
        }
    }
    m.h->tables[TABLE_tlb].used = at;
}

void flush_tlb_range(machine &m, u32 mm, u64 start, u64 end, u32 stride_shift) {
    const u64 nr = (end - start + (1ULL << stride_shift) - 1) >> stride_shift;
    if (nr > FLUSH_CEILING) return flush_tlb_mm(m, mm);
    for (u64 i = 0; i < nr; ++i) invalidate_page(m, mm, start + (i << stride_shift));
    invalidate_walk_caches(m, mm);
    m.count(VM_nr_tlb_local_flush_one, nr);
    m.spend(TIME_shootdown, m.cost().flush_one * nr);
    const u64 others = m.h->config.nr_cpus - 1;
    m.count(VM_nr_tlb_remote_flush, others);
    m.spend(TIME_shootdown, m.cost().shootdown * others);
}

void flush_tlb_mm(machine &m, u32 mm) {
    for (u32 which = 0; which < copies(m); ++which) {
        for (u32 array = 0; array < NR_TLB_ARRAYS + NR_PWC; ++array) drop_asid(m, which, array, mm);
    }
    m.count(VM_nr_tlb_local_flush_all);
    m.spend(TIME_shootdown, m.cost().flush_all);
    const u64 others = m.h->config.nr_cpus - 1;
    m.count(VM_nr_tlb_remote_flush, others);
    m.spend(TIME_shootdown, m.cost().shootdown * others);
}

} // namespace thp
