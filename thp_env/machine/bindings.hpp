// What the files of bindings share.
#pragma once
#include "run.hpp"
#include <functional>
#include <memory>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <stdexcept>
#include <utility>
#include <vector>

namespace thp {

// What Python sees as MachineError, a ValueError.
struct machine_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A machine with the program it runs. The arrays of the program live as long as the machine.
struct core_machine {
    std::unique_ptr<machine> m;
    program_view program;
    std::vector<nanobind::object> keep;
    bool running = false; // a call is under way; asked and set with the GIL held
    bool broken = false;  // stopped in the middle of an operation

    core_machine(std::unique_ptr<machine> state, const program_view &view,
                 std::vector<nanobind::object> owners)
        : m(std::move(state)), program(view), keep(std::move(owners)) {}
};

// Whether a signal handler of Python raised: called without the GIL, or with it.
inline bool interrupted() {
    nanobind::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
}

// Holds a machine for one call. Another thread, or a signal's handler, that comes meanwhile is refused.
class in_use {
  public:
    explicit in_use(core_machine &machine, bool even_broken = false) : c(machine) {
        if (c.running) throw machine_error("the machine is running");
        if (c.broken && !even_broken)
            throw machine_error(
                "the machine was stopped in the middle of an operation and cannot go on: load "
                "a saved state, or build it anew");
        c.running = true;
    }
    ~in_use() { c.running = false; }
    in_use(const in_use &) = delete;
    in_use &operator=(const in_use &) = delete;

  private:
    core_machine &c;
};

// A method that has the machine for itself, and that ctrl-C ends.
template <bool CHANGES, typename F, typename R, typename... Args>
auto guarded(F f, R (F::*)(core_machine &, Args...) const) {
    return [f](core_machine &c, Args... args) -> R {
        static const std::function<bool()> asked = interrupted;
        const in_use held(c);
        const watching watched(c.m->host, asked);
        try {
            if constexpr (std::is_void_v<R>) {
                f(c, std::forward<Args>(args)...);
                if (c.m->host.stop) throw nanobind::python_error();
            } else {
                R result = f(c, std::forward<Args>(args)...);
                if (c.m->host.stop) throw nanobind::python_error();
                return result;
            }
        } catch (const stopped_midway &) {
            c.broken = CHANGES;
            throw nanobind::python_error();
        }
    };
}
template <typename F> auto reading(F f) { return guarded<false>(f, &F::operator()); }
template <typename F> auto changing(F f) { return guarded<true>(f, &F::operator()); }

constexpr u64 MAX_PAGEMAP = 1ULL << 24; // pages that are read at once

using addresses_array =
    nanobind::ndarray<const u64, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

template <typename T> nanobind::bytes as_bytes(const T *data, size_t n) {
    return nanobind::bytes(reinterpret_cast<const char *>(data), n * sizeof(T));
}

// The index of a VMA; a KeyError when there is none.
u32 vma_by_id(const core_machine &c, u32 id);

void bind_schema(nanobind::module_ &module);
void bind_batch(nanobind::module_ &module);
void bind_memory(nanobind::class_<core_machine> &machines);
void bind_policy(nanobind::class_<core_machine> &machines);

} // namespace thp
