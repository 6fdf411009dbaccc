#include "tlb.hpp"
#include "refill.hpp"

namespace thp {

namespace {

constexpr u32 MAX_CYCLES = 1U << 20, MAX_WORDS = 1U << 28;
constexpr u64 FLUSH_CEILING = 33; // arch/x86/mm/tlb.c: tlb_single_page_flush_ceiling

const char *const ARRAY_NAME[NR_TLB_ARRAYS + NR_PWC] = {
    "first-level TLB for 4K",  "first-level TLB for 2M",    "first-level TLB for 1G",
    "second-level TLB",        "second-level TLB for 2M",   "second-level TLB for 1G",
    "page-walk cache of PDEs", "page-walk cache of PDPTEs", "page-walk cache of PML4Es"};

const tlb_geometry &geometry(const tlb_config &c, u32 array) {
    return array < NR_TLB_ARRAYS ? c.arrays[array] : c.pwc[array - NR_TLB_ARRAYS];
}

std::string check_array(const tlb_geometry &g, bool plru, bool hashed, const std::string &name) {
    if (g.ways == 0) return {};
    if (g.sets == 0) return name + ": no sets";
    if (g.ways > MAX_TLB_WAYS || g.sets > (1U << 16)) return name + ": more than 4096 ways or 65536 sets";
    if (!hashed && !std::has_single_bit(g.sets))
        return name + ": sets must be a power of two unless they are chosen by a hash";
    if (plru && (!std::has_single_bit(g.ways) || g.ways > MAX_PLRU_WAYS))
        return name + ": tree-PLRU needs a power of two of ways, at most 64";
    return {};
}

u32 copies(const machine &m) { return m.h->config.shadow_tlb ? 2 : 1; }

void count_shootdown(machine &m) {
    const u64 others = m.h->config.nr_cpus - 1;
    m.count(VM_nr_tlb_remote_flush, others > 0);
    m.count(VM_nr_tlb_remote_flush_received, others);
    m.spend(TIME_shootdown, m.cost().shootdown * others);
}

u32 words_of_sets(const machine &m) { return (m.translations[0].arrays[L2].sets + 63) / 64; }

// Where a bit is set for each set of L2 that may hold translations of an address space.
u64 *sets_of(machine &m, u32 mm) {
    const u32 nr = m.h->config.tlb.nr_asids;
    const u32 *mms = m.h->asid_mm, asid = static_cast<u32>(std::find(mms, mms + nr, mm) - mms);
    if (nr && asid == nr) return nullptr;
    if (m.asid_sets.empty())
        m.asid_sets.assign(std::max(nr, 1U) * words_of_sets(m), ~0ULL); // nothing is known
    return m.asid_sets.data() + asid * words_of_sets(m);
}

void drop_address_space(machine &m, u32 mm) {
    m.translations[0].drop_mm(mm, sets_of(m, mm), m.h->config.tlb.nr_asids != 0);
    if (m.h->config.shadow_tlb) m.translations[1].drop_mm(mm);
    // What size is still there? Most are found soon.
    u32 &sizes = m.h->tlb_sizes, missing = sizes;
    for (const tlb_array &array : m.translations[0].arrays) {
        if (missing && array.any_of([&missing](u64 tag) { return (missing &= ~(1U << tag_size(tag))) == 0; }))
            break;
    }
    sizes &= ~missing;
}

} // namespace

u32 tlb_words(const tlb_config &c) {
    u32 n = tlb_array::words_of(c.nested);
    for (u32 array = 0; array < NR_TLB_ARRAYS + NR_PWC; ++array) n += tlb_array::words_of(geometry(c, array));
    return n;
}

std::string check_tlb(const tlb_config &c) {
    for (u32 array = 0; array < NR_TLB_ARRAYS + NR_PWC; ++array) {
        const std::string wrong =
            check_array(geometry(c, array), c.plru >> array & 1, c.hashed, ARRAY_NAME[array]);
        if (!wrong.empty()) return wrong;
    }
    if (std::string wrong = check_array(c.nested, false, false, "nested TLB"); !wrong.empty()) return wrong;
    u64 words = tlb_array::words_of(c.nested);
    for (u32 array = 0; array < NR_TLB_ARRAYS + NR_PWC; ++array)
        words += tlb_array::words_of(geometry(c, array));
    if (words > MAX_WORDS) return "the arrays of the TLB together are too large";
    for (const auto &level : c.of_size) {
        for (const u32 array : level) {
            if (array == NIL) continue;
            if (array >= NR_TLB_ARRAYS) return "no such TLB array";
            if (c.arrays[array].ways == 0) return std::string(ARRAY_NAME[array]) + ": no ways";
        }
    }
    if (c.of_size[0][SIZE_4K] == NIL) return "the first-level TLB holds no 4K pages";
    if (c.coalesced_order > 4) return "a coalesced TLB entry covers at most 16 pages";
    if (c.nr_asids > MAX_ASIDS) return "nr_asids must be at most 16, or 0 for as many as there are processes";
    const u32 cycles[] = {c.l2_hit_cycles,  c.nested_cycles,  c.walk_cycles[0],
                          c.walk_cycles[1], c.walk_cycles[2], c.walk_cycles[3]};
    if (*std::max_element(std::begin(cycles), std::end(cycles)) > MAX_CYCLES)
        return "a reference takes at most 1048576 cycles";
    if (c.nested_shift &&
        (c.nested.ways == 0 ||
         (c.nested_shift != PAGE_SHIFT && c.nested_shift != PMD_SHIFT && c.nested_shift != LINE_SHIFT)))
        return "a nested TLB needs ways, and a host page size of 12 or 21 bits, or 6 for lines of page "
               "tables";
    return {};
}

tlb::tlb(const tlb_config &c, u64 *words)
    : shift{PAGE_SHIFT, PAGE_SHIFT + c.coalesced_order, PAGE_SHIFT + 4, PMD_SHIFT, PUD_SHIFT} {
    for (u32 id = 0; id < NR_TLB_ARRAYS + NR_PWC; ++id) {
        const tlb_geometry &g = geometry(c, id);
        (id < NR_TLB_ARRAYS ? arrays[id] : pwc[id - NR_TLB_ARRAYS]) = {words, g, (c.plru >> id & 1) != 0};
        words += tlb_array::words_of(g);
    }
    nested = {words, c.nested, false};
    for (u32 level = 0; level < 2; ++level) {
        for (u32 size = 0, held = NIL; size < NR_PAGE_SIZES; ++size) {
            of_size[level][size] = c.of_size[level][size];
            if (c.of_size[level][size] != NIL) held = size;
            piece[level][size] = held;
        }
    }
}

void tlb::init() const {
    for (const tlb_array &array : arrays) array.init();
    for (const tlb_array &array : pwc) array.init();
    nested.init();
}

void tlb::drop_page(u64 address, u32 mm, u32 sizes) const {
    for (; sizes; sizes &= sizes - 1) {
        const auto size = static_cast<u32>(std::countr_zero(sizes));
        const u64 number = address >> shift[size], tag = tlb_tag(address, shift[size], size, mm);
        for (const auto &array_of : of_size) {
            if (array_of[size] != NIL) arrays[array_of[size]].drop(number, tag);
        }
    }
}

void tlb::drop_walk_caches(u32 mm) const {
    for (const tlb_array &array : pwc) array.drop_if([mm](u64 tag) { return tag_mm(tag) == mm; });
}

void tlb::drop_mm(u32 mm, u64 *sets, bool only) const {
    const auto of_mm = [mm](u64 tag) { return tag_mm(tag) == mm; };
    for (const tlb_array &array : arrays) {
        if (!sets || &array != &arrays[L2]) array.drop_if(of_mm);
    }
    for (u32 word = 0; sets && word * 64 < arrays[L2].sets; ++word) {
        for (u64 bits = sets[word]; bits; bits &= bits - 1) {
            const u32 bit = static_cast<u32>(std::countr_zero(bits)), set = 64 * word + bit;
            const bool remains = set < arrays[L2].sets && arrays[L2].drop_in_set(set, of_mm);
            if (only || !remains) sets[word] &= ~(1ULL << bit);
        }
    }
    drop_walk_caches(mm);
}

void tlb_init(machine &m) {
    m.h->arrays[ARRAY_tlb].used = m.h->arrays[ARRAY_tlb].capacity;
    for (u32 copy = 0; copy < copies(m); ++copy) m.translations[copy].init();
    std::fill_n(m.h->asid_mm, MAX_ASIDS, NIL);
}

// INVLPG drops a page's translations, and all paging-structure caches of the address space (SDM 4.10.4.1).
void flush_tlb_range(machine &m, u32 mm, u64 start, u64 end, u32 stride_shift) {
    const u64 nr = (end - start + (1ULL << stride_shift) - 1) >> stride_shift;
    if (nr > FLUSH_CEILING) return flush_tlb_mm(m, mm);
    for (u32 copy = 0; copy < copies(m); ++copy) {
        const tlb &t = m.translations[copy];
        const u32 sizes = copy ? 1U << SIZE_4K : m.h->tlb_sizes;
        for (u64 i = 0; i < nr; ++i) {
            if (!copy) note_lost_page(m, mm, start + (i << stride_shift));
            t.drop_page(start + (i << stride_shift), mm, sizes);
        }
        note_lost_walks(m, mm, copy);
        t.drop_walk_caches(mm);
        // Pieces of 2M could be anywhere; 512 small pages are beyond the ceiling.
        if (stride_shift >= PMD_SHIFT && (copy || t.in_pieces(SIZE_2M))) {
            note_lost_translations(m, mm, copy);
            t.drop_mm(mm);
        }
    }
    m.count(VM_nr_tlb_local_flush_one, nr);
    m.spend(TIME_shootdown, m.cost().flush_one * nr);
    count_shootdown(m);
}

void flush_tlb_mm(machine &m, u32 mm) {
    for (u32 copy = 0; copy < copies(m); ++copy) {
        note_lost_translations(m, mm, copy);
        note_lost_walks(m, mm, copy);
    }
    drop_address_space(m, mm);
    m.count(VM_nr_tlb_local_flush_all);
    m.spend(TIME_shootdown, m.cost().flush_all);
    count_shootdown(m);
}

// arch/x86/mm/tlb.c, choose_new_asid(): round robin among TLB_NR_DYN_ASIDS.
void switch_mm(machine &m, u32 mm) {
    const u32 nr = m.h->config.tlb.nr_asids;
    u32 *mms = m.h->asid_mm;
    if (nr && std::find(mms, mms + nr, mm) == mms + nr) {
        u32 &slot = mms[m.h->next_asid];
        m.h->next_asid = (m.h->next_asid + 1) % nr;
        if (slot != NIL) drop_address_space(m, slot);
        slot = mm;
    }
    m.translations[0].filled_sets = sets_of(m, mm);
}

} // namespace thp
