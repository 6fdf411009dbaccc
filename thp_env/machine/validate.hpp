// A scan of the whole machine for broken invariants, for tests and for states read from outside.
#pragma once
#include "run.hpp"
#include "state.hpp"
#include <string>

namespace thp {

// Names the first broken invariant; empty when the state is consistent. Safe whatever the tables hold.
std::string validate(machine &m);

// The same for a state that was read from outside and is to run a program.
std::string validate_loaded(machine &m, const program_view &program);

// The first broken invariant.
struct report {
    std::string broken;

    void expect(bool holds, const char *what, u64 place = 0) {
        if (!holds && broken.empty()) broken = std::string(what) + " (" + std::to_string(place) + ")";
    }
    void expect_equal(u64 stored, u64 counted, const std::string &what) {
        if (stored != counted && broken.empty()) {
            broken = what + ": kept " + std::to_string(stored) + ", counted " + std::to_string(counted);
        }
    }
};

// Parts of it: whether every index points into its table and every list ends, on which the others rely; swap;
// lists of folios.
std::string validate_bounds(machine &m);
std::string swap_broken(machine &m);
std::string validate_lists(machine &m);

} // namespace thp
