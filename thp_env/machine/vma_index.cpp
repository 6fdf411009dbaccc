#include "vma_index.hpp"
#include <bit>

namespace thp {

void vma_index::make(u32 n) {
    entries_.assign(std::bit_ceil(4ULL * n + 4), {});
    used_ = 0;
}

// Where an id stands or would stand.
u32 vma_index::place_of(u32 id) const {
    const u32 last = static_cast<u32>(entries_.size()) - 1;
    u32 at = id & last;
    while (entries_[at].id != 0 && entries_[at].id != id) at = (at + 1) & last;
    return at;
}

void vma_index::put(u32 id, u32 vma) {
    if (!made()) return;
    entry &e = entries_[place_of(id)];
    used_ += e.id == 0;
    e = {id, vma};
    if (2 * used_ > entries_.size()) entries_.clear();
}

u32 vma_index::find(u32 id) const {
    const entry &e = entries_[place_of(id)];
    return e.id == 0 ? NIL : e.vma;
}

} // namespace thp
