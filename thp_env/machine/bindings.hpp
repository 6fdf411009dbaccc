// What the files of bindings share.
#pragma once
#include "run.hpp"
#include <memory>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <vector>

namespace thp {

// A machine with the program it runs. The arrays of the program live as long as the machine.
struct core_machine {
    std::unique_ptr<machine> m;
    program_view program;
    std::vector<nanobind::object> keep;

    core_machine(std::unique_ptr<machine> state, const program_view &view,
                 std::vector<nanobind::object> owners)
        : m(std::move(state)), program(view), keep(std::move(owners)) {}
};

// Whether a signal handler of Python raised: called without the GIL.
inline bool interrupted() {
    nanobind::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
}

void bind_batch(nanobind::module_ &module);

} // namespace thp
