// What is known of each 4K page of the recorded process's address space.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace thp::recording {

using u8 = std::uint8_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i32 = std::int32_t;

constexpr u64 PAGE_SHIFT = 12;
constexpr u64 PAGE_MASK = (1ULL << PAGE_SHIFT) - 1;
constexpr u64 ADDRESS_BITS = 47;

// Ordered: an access faults when the page's state is below what the access needs.
enum page_state : u8 {
    PAGE_OTHER,   // not mapped, or a file's page: its accesses are counted and not recorded
    PAGE_MAPPED,  // anonymous, never touched since it was mapped or zapped
    PAGE_READ,    // anonymous, read only so far: maps the zero page
    PAGE_WRITTEN, // anonymous, written
};

// A table of two levels over page numbers; a leaf covers 1 GiB. Besides its state, a page has the number of
// the last access to it (0: none that counts).
class PageStates {
    static constexpr u64 LEAF_BITS = 18;
    static constexpr u64 LEAF = 1ULL << LEAF_BITS;
    static constexpr u64 LEAVES = 1ULL << (ADDRESS_BITS - PAGE_SHIFT - LEAF_BITS);

    struct leaf_table {
        std::array<u8, LEAF> state{};
        std::array<u64, LEAF> last{};
    };
    std::vector<std::unique_ptr<leaf_table>> leaves_{LEAVES};

  public:
    u8 get(u64 page) const {
        const u64 top = page >> LEAF_BITS;
        return top < LEAVES && leaves_[top] ? leaves_[top]->state[page & (LEAF - 1)] : u8{PAGE_OTHER};
    }

    // For a page whose state is not PAGE_OTHER, so that its leaf exists.
    u8 &at(u64 page) { return leaves_[page >> LEAF_BITS]->state[page & (LEAF - 1)]; }
    void used(u64 page, u64 access) { leaves_[page >> LEAF_BITS]->last[page & (LEAF - 1)] = access; }

    // Forgets when the pages of [first, end) were used.
    void unused(u64 first, u64 end) {
        for (u64 page = first; page < end; page++)
            if (get(page) != PAGE_OTHER) used(page, 0);
    }

    // The `count` touched pages that were used last, the latest at the end.
    std::vector<u64> recent(std::size_t count) const {
        std::vector<std::pair<u64, u64>> found; // last access, page
        for (u64 top = 0; top < LEAVES; top++)
            if (const leaf_table *leaf = leaves_[top].get())
                for (u64 i = 0; i < LEAF; i++)
                    if (leaf->state[i] > PAGE_MAPPED && leaf->last[i])
                        found.emplace_back(leaf->last[i], top << LEAF_BITS | i);
        if (found.size() > count) {
            std::nth_element(found.begin(), found.end() - static_cast<std::ptrdiff_t>(count), found.end());
            found.erase(found.begin(), found.end() - static_cast<std::ptrdiff_t>(count));
        }
        std::sort(found.begin(), found.end());
        std::vector<u64> pages;
        pages.reserve(found.size());
        for (const auto &[access, page] : found) pages.push_back(page);
        return pages;
    }

    // Calls change(state array, first, count) for each piece of [first, end), making leaves if `make`.
    template <class F> void pieces(u64 first, u64 end, bool make, F change) {
        end = std::min(end, LEAVES << LEAF_BITS);
        while (first < end) {
            const u64 stop = std::min(end, (first | (LEAF - 1)) + 1);
            auto &leaf = leaves_[first >> LEAF_BITS];
            if (!leaf && make) leaf = std::make_unique<leaf_table>();
            if (leaf) change(leaf->state.data() + (first & (LEAF - 1)), first, stop - first);
            first = stop;
        }
    }

    void set(u64 first, u64 end, u8 state) {
        pieces(first, end, state != PAGE_OTHER, [state](u8 *s, u64, u64 n) { std::fill_n(s, n, state); });
    }

    // Zap: the pages stay mapped, their content goes.
    void zap(u64 first, u64 end) {
        pieces(first, end, false, [](u8 *s, u64, u64 n) {
            for (u64 i = 0; i < n; i++) s[i] = std::min<u8>(s[i], PAGE_MAPPED);
        });
    }
};

} // namespace thp::recording
