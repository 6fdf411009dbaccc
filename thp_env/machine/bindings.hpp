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

using addresses_array =
    nanobind::ndarray<const u64, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

template <typename T> nanobind::bytes as_bytes(const T *data, size_t n) {
    return nanobind::bytes(reinterpret_cast<const char *>(data), n * sizeof(T));
}

void bind_batch(nanobind::module_ &module);
void bind_policy(nanobind::class_<core_machine> &machines);

} // namespace thp
