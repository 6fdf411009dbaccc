// Who owns each frame, for validate(): what the free lists and the rest of the system say.
#pragma once
#include "validate.hpp"

namespace thp {

enum frame_owner : u8 { OWNER_NONE, OWNER_FREE, OWNER_TABLE, OWNER_ZERO, OWNER_HELD, OWNER_FOLIO };

struct frame_census : report {
    machine &m;
    std::vector<u8> owner;

    explicit frame_census(machine &state) : m(state), owner(state.h->arrays[ARRAY_pages].used) {}

    void own(u32 pfn, u32 nr, frame_owner who);
    // The free lists against the page blocks: every free block on the list of its type, merged, and counted.
    void free_lists();
    // Frames of the rest of the system (pollute, fragment).
    void held();
    // Frames that hold compressed pages, against the slots that they belong to.
    void zspages();

  private:
    void free_list(u32 order, u32 type);
};

} // namespace thp
