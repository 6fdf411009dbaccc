// Which VMA has an id: a hash table beside the arena, no part of the state, made when it is first asked.
#pragma once
#include "types.hpp"
#include <vector>

namespace thp {

// An entry counts while its VMA has the id. So those of VMAs that are gone need no care, and the table is
// made anew when it is half full.
class vma_index {
  public:
    bool made() const { return !entries_.empty(); }
    // Room for n VMAs and as many ids to come.
    void make(u32 n);
    // Notes that a VMA has an id, if the table is made.
    void put(u32 id, u32 vma);
    // The VMA that last had an id, or NIL.
    u32 find(u32 id) const;

  private:
    struct entry {
        u32 id, vma; // id 0: free
    };
    std::vector<entry> entries_; // linear probing; a power of two of them
    u32 used_ = 0;

    u32 place_of(u32 id) const;
};

} // namespace thp
