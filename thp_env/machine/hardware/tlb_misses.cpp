#include "tlb_misses.hpp"
#include "tlb.hpp"
#include <vector>

namespace thp {

tlb_counts tlb_misses(const tlb_config &config, const u64 *addresses, const u8 *sizes, u64 n, u32 shift) {
    std::vector<u64> words(tlb_words(config));
    tlb t(config, words.data());
    t.init();
    if (!sizes) t.shift[SIZE_4K] = shift;
    const u32 granule = t.shift[SIZE_4K];
    tlb_counts misses{};
    u32 size_mask = 1U << SIZE_4K; // sizes that may be there
    u64 last = ~0ULL;              // a page accessed twice in a row hits, and changes nothing
    for (u64 i = 0; i < n; ++i) {
        const u64 address = addresses[i];
        if (address >> granule == last) continue;
        last = address >> granule;
        u32 size = SIZE_4K;
        if (t.find(0, address, 0, size_mask, &size)) continue;
        ++misses.l1;
        const u32 mapped = sizes ? sizes[i] : u32{SIZE_4K};
        if (t.find(1, address, 0, size_mask, &size)) {
            size_mask |= 1U << t.fill(0, address, 0, size, 0, 0);
            continue;
        }
        ++misses.l2;
        for (const u32 level : {0U, 1U}) {
            const u32 filled = t.fill(level, address, 0, mapped, 0, 0);
            if (filled != NIL) size_mask |= 1U << filled;
        }
    }
    return misses;
}

} // namespace thp
