// Accesses that stand for several do not make the kernel work more often: what it flushes between them is
// missed once, not as often as each of them stands for. So it is noted, and comes back before they go on, by
// walks that count once.
#include "refill.hpp"

namespace thp {

namespace {

constexpr u64 bytes_of(const tlb &t, u32 size) { return 1ULL << t.shift[size]; }

void note(machine &m, u64 address, u32 mm, u32 from, u32 size) {
    u32 &used = m.h->arrays[ARRAY_lost_translations].used;
    if (used < MAX_LOST_TRANSLATIONS)
        m.lost_translations[used++] = {address, mm, static_cast<u16>(from), static_cast<u16>(size)};
}

} // namespace

void note_lost_page(machine &m, u32 mm, u64 address) {
    if (m.h->weight == 1) return;
    const tlb &t = m.translations[0];
    for (const u32 level : {1U, 0U}) {
        for (u32 sizes = m.h->tlb_sizes; sizes; sizes &= sizes - 1) {
            u32 size = 0;
            if (t.find(level, address, mm, sizes & -sizes, &size))
                note(m, align_down(address, bytes_of(t, size)), mm, LOST_TLB, size);
        }
    }
}

void note_lost_walks(machine &m, u32 mm, u32 copy) {
    if (m.h->weight == 1) return;
    for (u32 i = 0; i < NR_PWC; ++i) {
        m.translations[copy].pwc[i].by_age([&](u64 tag) {
            if (tag_mm(tag) == mm)
                note(m, tag >> 16 << LEVEL_SHIFT[NR_PWC - i - 1], mm, LOST_PWC + copy * NR_PWC + i, 0);
        });
    }
}

// The second level first, and in each set what was used longest ago first: refilling leaves the same order.
void note_lost_translations(machine &m, u32 mm, u32 copy) {
    if (m.h->weight == 1) return;
    const tlb &t = m.translations[copy];
    for (const u32 id : {L2, L2_2M, L2_1G, L1_4K, L1_2M, L1_1G}) {
        t.arrays[id].by_age([&](u64 tag) {
            const u32 size = tag_size(tag);
            if (tag_mm(tag) == mm)
                note(m, tag >> 16 << t.shift[size], mm, copy ? LOST_SHADOW : LOST_TLB, size);
        });
    }
}

void forget_lost(machine &m) {
    u32 &used = m.h->arrays[ARRAY_lost_translations].used;
    std::fill_n(m.lost_translations, used, lost_translation{});
    used = 0;
}

void refill_tlb(machine &m, u32 mm) {
    const u32 used = m.h->arrays[ARRAY_lost_translations].used;
    if (!used) return;
    mmu once(m, mm, 1);
    for (u32 i = 0; i < used; ++i) once.refill(m.lost_translations[i]);
    once.commit();
    forget_lost(m);
}

// As the accesses that each of them stands for would, it sets the accessed bit. A page that was never
// accessed since it was mapped is a new one in the place of what was lost.
void mmu::refill(const lost_translation &lost) {
    if (lost.mm != mm) return;
    leaf l;
    if (lost.from >= LOST_PWC) {
        const u32 i = (lost.from - LOST_PWC) % NR_PWC, skipped = NR_PWC - i, shift = LEVEL_SHIFT[skipped - 1];
        const tlb_array &cache = m.translations[(lost.from - LOST_PWC) / NR_PWC].pwc[i];
        static_cast<void>(find_leaf(lost.address, &l));
        if (l.level >= skipped && cache.ways)
            cache.find_or_insert(lost.address >> shift, tag_key(tlb_tag(lost.address, shift, 0, mm)));
        return;
    }
    const u64 accesses = n, end = lost.address + bytes_of(translations, lost.size);
    for (u64 address = lost.address; address < end;) {
        const bool in_use = find_leaf(address, &l) && (m.contents[pfn_of(l, address)] & CONTENT_TOUCHED) != 0;
        if (in_use && lost.from == LOST_SHADOW) shadow_access(address);
        if (in_use && lost.from == LOST_TLB) access(address, false, 0);
        address += 1ULL << LEVEL_SHIFT[l.level];
    }
    n = accesses;
}

} // namespace thp
