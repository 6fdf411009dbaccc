// mm/zsmalloc.c, drivers/block/zram: the memory that compressed pages take.
#pragma once
#include "../state.hpp"
#include <array>
#include <bit>

namespace thp {

// Objects of about one size share the pages of a zspage.
struct size_class {
    u32 size, pages_per_zspage, objs_per_zspage;
};

struct zs_pool_layout {
    size_class classes[NR_ZS_CLASSES];
    u32 nr_classes, huge_class_size; // objects from this size on are stored as whole pages
    u8 of_content[CONTENT_MASK + 1]; // the class of a page that compresses to so many percent
};

// zs_create_pool: classes of 32, 48, ... 4096 bytes, merged where zspages hold equally many objects.
constexpr zs_pool_layout zs_create_pool() {
    constexpr u32 PAGE = PAGE_SIZE, STEP = PAGE >> 8, MIN_ALLOC_SIZE = 32, CHAIN_SIZE = 8, HANDLE_SIZE = 8,
                  SIZES = 255;
    zs_pool_layout pool = {};
    u8 of_size[SIZES] = {};
    for (u32 i = SIZES; i-- > 0;) {
        const u32 size = std::min(MIN_ALLOC_SIZE + i * STEP, PAGE);
        u32 pages = 1, least_waste = PAGE % size; // calculate_zspage_chain_size
        for (u32 chain = 2; chain <= CHAIN_SIZE && !std::has_single_bit(size); ++chain) {
            const u32 waste = chain * PAGE % size;
            if (waste < least_waste) least_waste = waste, pages = chain;
        }
        const size_class fresh = {size, pages, pages * PAGE / size};
        if (!pool.huge_class_size && pages > 1 && fresh.objs_per_zspage > 1)
            pool.huge_class_size = size - (HANDLE_SIZE - 1);
        const size_class *larger = pool.nr_classes ? &pool.classes[pool.nr_classes - 1] : nullptr;
        const bool merged = larger && larger->pages_per_zspage == fresh.pages_per_zspage &&
                            larger->objs_per_zspage == fresh.objs_per_zspage;
        if (!merged) pool.classes[pool.nr_classes++] = fresh;
        of_size[i] = static_cast<u8>(pool.nr_classes - 1);
    }
    for (u32 content = 1; content <= 100; ++content) {
        const u32 size = (content * PAGE + 99) / 100;
        const u32 need = size >= pool.huge_class_size ? PAGE : std::max(size + HANDLE_SIZE, MIN_ALLOC_SIZE);
        pool.of_content[content] = of_size[(need - MIN_ALLOC_SIZE + STEP - 1) / STEP];
    }
    return pool;
}
constexpr zs_pool_layout ZS_POOL = zs_create_pool();
static_assert(ZS_POOL.nr_classes == NR_ZS_CLASSES && ZS_POOL.huge_class_size == 3625);

// Whether a page is stored as it is, since compressing it would save nothing (zram's huge pages).
inline bool zram_incompressible(u8 content) {
    return ZS_POOL.classes[ZS_POOL.of_content[content & CONTENT_MASK]].objs_per_zspage == 1;
}
// Stores a page in a slot, in place of what it held: pages of one value repeated take no memory. False when
// there is no frame for it.
bool zram_write_page(machine &m, u32 slot, u8 content);
// Frees what a slot holds.
void zram_free_page(machine &m, u32 slot);
// A zspage's frame has moved (zs_page_migrate).
void zs_page_migrate(machine &m, u32 to);

} // namespace thp
