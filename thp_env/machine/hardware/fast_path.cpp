// The usual accesses of a block: to memory that is mapped and was touched, on a core whose arrays replace by
// LRU. Does what mmu::access() does, with the geometry and the counters in local variables. An access that
// calls for more is left to mmu::access(), before anything has changed but the order in an array, and there
// mmu::access() finds the same entry first.
#include "walker.hpp"

namespace thp {

namespace {

constexpr u32 JOINED_ORDER = 2; // of all cores that coalesce

} // namespace

// L1: the array of the first level that holds small pages. Joined: log2 of the PTEs in a coalesced entry.
template <tlb_array::kind L1, u32 Joined> struct fast_path {
    // Local copies of what does not change.
    mmu &unit;
    const tlb &translations;
    const tlb_array l1, l1_2m, l2, pde;
    const bool joint, pde_in_ring; // joint: l1 holds 2M pages too
    const bool contpte;
    const u64 mm_bits, l2_hit_ps, cycle, left;
    u64 *const filled_sets;
    u8 *const contents;
    u8 const content;
    // What accesses change.
    u64 elapsed, last_page, last_write;
    u32 sizes;
    u64 unsampled; // walks that the PMU does not sample before it does
    u64 n = 0, l1_miss = 0, l2_hits = 0, large = 0;
    u64 walks[2][4] = {};  // to PMDs and to PTEs, by the first level that they read
    u64 cost_from[5] = {}; // cycles of a walk to a PTE, by its first level

    fast_path(mmu &u, const access_block &block)
        : unit(u), translations(u.translations), l1(translations.arrays[translations.of_size[0][SIZE_4K]]),
          l1_2m(translations.arrays[translations.of_size[0][SIZE_2M]]),
          l2(translations.arrays[translations.of_size[1][SIZE_4K]]), pde(translations.pwc[0]),
          joint(translations.of_size[0][SIZE_2M] == translations.of_size[0][SIZE_4K]),
          pde_in_ring(pde.wide()), contpte(u.m.h->config.tlb.of_size[0][SIZE_CONTPTE] != NIL),
          mm_bits(u64{u.mm} << 4 | 1), l2_hit_ps(u.m.h->config.tlb.l2_hit_cycles * u.cycle), cycle(u.cycle),
          left(u.left), filled_sets(translations.filled_sets), contents(u.m.contents), content(block.content),
          elapsed(u.elapsed), last_page(u.last_page), last_write(u.last_write), sizes(u.m.h->tlb_sizes),
          unsampled(u.unsampled()) {
        for (u32 level = 4; level-- > 0;)
            cost_from[level] = cost_from[level + 1] + u.m.h->config.tlb.walk_cycles[level];
    }

    // As many of the accesses [i, end) as are usual and lie in [start, start + length). held: `sizes`.
    template <typename Sizes>
    u64 run(const access_block &block, u64 i, u64 end, u64 start, u64 length, Sizes held) {
        const u64 first = i;
        bool grown = false; // an entry of another size came
        for (; i < end && elapsed < left && !grown; ++i) {
            const u64 address = block.address[i], page = address >> PAGE_SHIFT;
            const bool write = block.write[i];
            const u64 written = write ? content + 1U : 0;
            if (page != last_page || (write && last_write != written)) {
                if (address - start >= length) break;
                if (!access(address, write, block.ahead ? block.pte[i] : nullptr, held)) break;
                last_page = page;
                last_write = written;
                grown = sizes != held;
            }
            n += block.count[i];
            elapsed += block.ps[i];
        }
        return i - first;
    }

    void finish() const {
        unit.last_page = last_page;
        unit.last_write = static_cast<u32>(last_write);
        unit.n += n;
        unit.l1_miss += l1_miss;
        unit.l2_miss += l1_miss - l2_hits;
        unit.walks += l1_miss - l2_hits;
        unit.pass_unsampled(l1_miss - l2_hits);
        unit.large += large;
        u64 cycles = 0;
        for (u32 leaf = 2; leaf < 4; ++leaf) {
            u64 refs = 0;
            for (u32 level = 0; level <= leaf; ++level) {
                const u64 nr = walks[leaf - 2][level];
                unit.walk_refs[level] += refs += nr;
                cycles += nr * (cost_from[level] - cost_from[leaf + 1]);
            }
        }
        unit.walk_cycles += cycles;
        cycles += l2_hits * unit.m.h->config.tlb.l2_hit_cycles;
        unit.cycles += cycles;
        unit.compute_ps += elapsed - unit.elapsed - cycles * cycle; // the rest of the time
        unit.elapsed = elapsed;
        unit.m.h->tlb_sizes = sizes;
    }

  private:
    template <typename Sizes> bool access(u64 address, bool write, u64 *pte, Sizes held) {
        u32 size = 0;
        if (const u64 *data = find<0>(address, held, &size)) return usable(*data, size, address, write);
        if (const u64 *data = find<1>(address, held, &size)) {
            if (size == SIZE_1G || !usable(*data, size, address, write)) return false;
            const u64 pfn = *data >> TLB_PFN_SHIFT, flags = *data & TLB_WRITE;
            if (size == SIZE_2M) {
                fill<0, true>(address, size, pfn, flags);
                ++large;
            } else {
                fill<0, false>(address, size, pfn, flags);
            }
            ++l2_hits;
            elapsed += l2_hit_ps;
        } else if (!walk(address, write, pte)) {
            return false;
        }
        ++l1_miss;
        return true;
    }

    // tlb::find()
    template <u32 Level, typename Sizes> u64 *find(u64 address, Sizes held, u32 *size) const {
        if (u64 *data = find_size<Level, SIZE_4K>(address, held, size)) return data;
        if (u64 *data = find_size<Level, SIZE_COALESCED>(address, held, size)) return data;
        if (u64 *data = find_size<Level, SIZE_CONTPTE>(address, held, size)) return data;
        if (u64 *data = find_size<Level, SIZE_2M>(address, held, size)) return data;
        return held >> SIZE_1G & 1 ? find_1g(Level, address, size) : nullptr;
    }

    template <u32 Level, u32 Size, typename Sizes> u64 *find_size(u64 address, Sizes held, u32 *size) const {
        if (!(held >> Size & 1)) return nullptr;
        *size = Size;
        return in_array<Level, Size == SIZE_2M>([&](const auto &array, auto kind) {
            return array.template find<kind()>(number_of(address, Size), key_of(address, Size));
        });
    }

    [[gnu::noinline]] u64 *find_1g(u32 level, u64 address, u32 *size) const {
        return translations.find(level, address, unit.mm, 1U << SIZE_1G, size);
    }

    // Calls do_it(array, kind) with the array of a level that holds 2M pages, or smaller ones.
    template <u32 Level, bool Large, typename Do> auto in_array(Do do_it) const {
        using ordered = std::integral_constant<tlb_array::kind, tlb_array::ORDERED>;
        using first = std::integral_constant<tlb_array::kind, L1>;
        if constexpr (Level == 1) {
            return do_it(l2, ordered());
        } else {
            return !Large || joint ? do_it(l1, first()) : do_it(l1_2m, ordered());
        }
    }

    static constexpr u32 ORDER[] = {0, Joined, 4, PMD_ORDER}; // of the pages of an entry
    static u64 number_of(u64 address, u32 size) { return address >> (PAGE_SHIFT + ORDER[size]); }
    tag_key key_of(u64 address, u32 size) const { return key_of_number(number_of(address, size), size); }
    tag_key key_of_number(u64 number, u32 size) const { return tag_key(number << 16 | mm_bits | size << 1); }

    // tlb::fill()
    template <u32 Level, bool Large> void fill(u64 address, u32 size, u64 pfn, u64 flags) {
        const u64 value = pfn >> ORDER[size] << ORDER[size] << TLB_PFN_SHIFT | flags;
        if constexpr (Level == 1) {
            const u64 set = number_of(address, size) & l2.last_set;
            filled_sets[set / 64] |= 1ULL << set % 64;
        }
        in_array<Level, Large>([&](const auto &array, auto kind) {
            array.template insert<kind()>(number_of(address, size), key_of(address, size), value);
        });
        sizes |= 1U << size;
    }

    // mmu::usable()
    bool usable(u64 data, u32 size, u64 address, bool write) const {
        if (write && !(data & TLB_WRITE)) return false;
        return (size == SIZE_4K && !write) || page_access(translations.pfn(data, address, size), write);
    }

    // mmu::page_access() of a page that was touched before
    bool page_access(u64 pfn, bool write) const {
        const u8 old = contents[pfn];
        if (!(old & CONTENT_TOUCHED)) return false;
        if (write) {
            const auto now = static_cast<u8>(CONTENT_TOUCHED | content_after(old & CONTENT_MASK, content));
            if (now != old) contents[pfn] = now;
        }
        return true;
    }

    // mmu::walk(). pte: where the entry is, if that is known.
    bool walk(u64 address, bool write, u64 *pte) {
        if (unsampled == 0) return false;
        if (pte) return walk_to<3>(address, write, pte);
        mmu::leaf l;
        if (!unit.find_leaf(address, &l) || l.level < 2) return false;
        return l.level == 3 ? walk_to<3>(address, write, l.entry) : walk_to<2>(address, write, l.entry);
    }

    template <u32 Level> bool walk_to(u64 address, bool write, u64 *at) {
        const u64 entry = *at, pfn = mmu::pfn_of({at, Level}, address);
        if (!(entry & PTE_PRESENT) || (write && !(entry & PTE_RW)) || !page_access(pfn, write)) return false;
        const u64 now = entry | PTE_ACCESSED | (write ? u64{PTE_DIRTY} : 0);
        if (now != entry) *at = now;
        const u32 first = first_level<Level>(address);
        ++walks[Level - 2][first];
        --unsampled;
        elapsed += (cost_from[first] - cost_from[Level + 1]) * cycle;
        const u64 flags = (now & PTE_RW) && (now & PTE_DIRTY) ? TLB_WRITE : 0;
        const u32 size = Level == 2 ? SIZE_2M : pte_size(at, address, Joined, contpte);
        fill<0, Level == 2>(address, size, pfn, flags);
        fill<1, Level == 2>(address, size, pfn, flags);
        return true;
    }

    // mmu::walk_cost(): the first level that a walk has to read.
    template <u32 Leaf> u32 first_level(u64 address) const {
        const u64 block = address >> PMD_SHIFT, upper = address >> PUD_SHIFT, top = address >> PGDIR_SHIFT;
        if (Leaf == 3 &&
            (pde_in_ring ? pde.find_or_insert<tlb_array::RING>(block, key_of_number(block, 0))
                         : pde.find_or_insert<tlb_array::ORDERED>(block, key_of_number(block, 0))))
            return 3;
        const tlb_array &pdpte = translations.pwc[1], &pml4e = translations.pwc[2];
        if (pdpte.find_or_insert<tlb_array::ORDERED>(upper, key_of_number(upper, 0))) return 2;
        return pml4e.find_or_insert<tlb_array::ORDERED>(top, key_of_number(top, 0));
    }
};

// All in one function, except where sanitizers are built in, which would make it too large to compile.
#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define THP_FLATTEN
#else
#define THP_FLATTEN [[gnu::flatten]]
#endif

template <tlb_array::kind L1, u32 Joined>
THP_FLATTEN u64 run_joined(mmu &unit, const access_block &block, u64 first, u64 end, u64 start, u64 length) {
    constexpr u32 SINGLE = 1U << SIZE_4K, BOTH = SINGLE | 1U << SIZE_COALESCED;
    fast_path<L1, Joined> path(unit, block);
    u64 done = 0;
    if (path.sizes == SINGLE) {
        done = path.run(block, first, end, start, length, std::integral_constant<u32, SINGLE>());
    } else if (Joined && path.sizes == BOTH) {
        done = path.run(block, first, end, start, length, std::integral_constant<u32, BOTH>());
    } else {
        done = path.run(block, first, end, start, length, path.sizes);
    }
    path.finish();
    return done;
}

tlb_array::kind fast_path_of(const machine &m) {
    const tlb &t = m.translations[0];
    const tlb_config &c = m.h->config.tlb;
    const auto &[first, second] = t.of_size;
    if (m.h->config.shadow_tlb || c.nested_shift || second[SIZE_4K] == NIL ||
        c.coalesced_order & ~JOINED_ORDER)
        return tlb_array::ANY;
    for (const u32 size : {SIZE_COALESCED, SIZE_CONTPTE}) {
        const bool shared = first[size] == first[SIZE_4K] && second[size] == second[SIZE_4K];
        const bool unused = first[size] == NIL && second[size] == NIL;
        if (!shared && (!unused || (size == SIZE_COALESCED && c.coalesced_order))) return tlb_array::ANY;
    }
    // 2M pages: in the same arrays, or first in one of their own.
    if (first[SIZE_2M] == NIL || second[SIZE_2M] != second[SIZE_4K]) return tlb_array::ANY;
    if (first[SIZE_2M] != first[SIZE_4K] && t.arrays[first[SIZE_2M]].kind_of() != tlb_array::ORDERED)
        return tlb_array::ANY;
    const tlb_array::kind pde = t.pwc[0].kind_of();
    if (second[SIZE_4K] != L2 || t.arrays[L2].kind_of() != tlb_array::ORDERED || pde == tlb_array::ANY ||
        pde == tlb_array::CHAINED)
        return tlb_array::ANY;
    for (const tlb_array &cache : t.pwc) {
        if (cache.ways == 0 || (&cache != t.pwc && cache.kind_of() != tlb_array::ORDERED))
            return tlb_array::ANY;
    }
    return t.arrays[first[SIZE_4K]].kind_of();
}

template <tlb_array::kind L1>
u64 run_fast(mmu &unit, const access_block &block, u64 first, u64 end, u64 start, u64 length) {
    return unit.m.h->config.tlb.coalesced_order
               ? run_joined<L1, JOINED_ORDER>(unit, block, first, end, start, length)
               : run_joined<L1, 0>(unit, block, first, end, start, length);
}

u64 mmu::access_fast(const access_block &block, u64 first, u64 end, u64 start, u64 length) {
    switch (fast) {
    case tlb_array::ORDERED:
        return run_fast<tlb_array::ORDERED>(*this, block, first, end, start, length);
    case tlb_array::RING:
        return run_fast<tlb_array::RING>(*this, block, first, end, start, length);
    case tlb_array::CHAINED:
        return run_fast<tlb_array::CHAINED>(*this, block, first, end, start, length);
    default:
        return 0;
    }
}

} // namespace thp
