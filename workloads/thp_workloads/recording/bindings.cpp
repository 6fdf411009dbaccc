// The Python face of the log reader.
#include "lackey.hpp"
#include "stopped_exec.hpp"
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;
using namespace nb::literals;
using namespace thp::recording;

namespace {

template <class T> nb::bytes copy_of(const std::vector<T> &records) {
    return nb::bytes(records.data(), records.size() * sizeof(T));
}

// Sends runs through the model TLB, each with its weight; returns (accesses, first-level misses, walks).
nb::tuple model_misses(const nb::bytes &runs, const nb::bytes &weights) {
    const std::size_t n = runs.size() / sizeof(run_record);
    if (weights.size() != n * sizeof(double)) throw nb::value_error("one weight for each run, please");
    const auto *run = static_cast<const run_record *>(runs.data());
    const auto *weight = static_cast<const double *>(weights.data());
    TlbModel tlb;
    {
        nb::gil_scoped_release release;
        for (std::size_t i = 0; i < n; i++) tlb.access(run[i].page, run[i].count, weight[i]);
    }
    return nb::make_tuple(tlb.accesses, tlb.first_misses, tlb.walks);
}

} // namespace

NB_MODULE(_lackey, m) {
    m.doc() = "Streaming reader of valgrind lackey's log, and a program stopped at exec.";

    nb::class_<Lackey>(m, "Lackey", "Reads a log of lackey; keeps page-granular events, never the log.")
        .def(nb::init<u64, u64, u32>(), "window"_a, "budget"_a, "depth"_a = 4)
        .def("anonymous", &Lackey::anonymous, "start"_a, "end"_a, "written"_a = false,
             "Declare [start, end) anonymous memory from the start.")
        .def(
            "feed", [](Lackey &l, const nb::bytes &text) { return l.feed({text.c_str(), text.size()}); },
            "text"_a, "Parse text; False if malformed.")
        .def("feed_fd", nb::overload_cast<int, u64, u32>(&Lackey::feed), "fd"_a, "max_bytes"_a,
             "milliseconds"_a, nb::call_guard<nb::gil_scoped_release>(),
             "Read and parse; the bytes read, or -1 (see error).")
        .def("finish", &Lackey::finish, "Whether the log is whole.")
        .def("written_pages", &Lackey::written_pages, "count"_a, "seed"_a)
        .def_prop_ro("touches", [](const Lackey &l) { return copy_of(l.touches()); })
        .def_prop_ro("calls", [](const Lackey &l) { return copy_of(l.calls()); })
        .def_prop_ro("runs", [](const Lackey &l) { return copy_of(l.sampler().runs()); })
        .def_prop_ro("windows", [](const Lackey &l) { return copy_of(l.windows()); })
        .def_prop_ro("level", [](const Lackey &l) { return l.sampler().level(); })
        .def_prop_ro("misses",
                     [](const Lackey &l) {
                         return nb::make_tuple(l.tlb().accesses, l.tlb().first_misses, l.tlb().walks);
                     })
        .def_prop_ro("names", &Lackey::names)
        .def_prop_ro("error", &Lackey::error)
        .def_prop_ro("instructions", &Lackey::instructions)
        .def_prop_ro("accesses_anonymous", &Lackey::accesses_anonymous)
        .def_prop_ro("accesses_other", &Lackey::accesses_other)
        .def_prop_ro("lines", &Lackey::lines)
        .def_prop_ro("bytes", &Lackey::bytes)
        .def_prop_ro("brk_start", &Lackey::brk_start)
        .def_prop_ro("brk_refused", &Lackey::brk_refused)
        .def_prop_ro("forks", &Lackey::forks)
        .def_prop_ro("exited", &Lackey::exited);

    m.def("model_misses", &model_misses, "runs"_a, "weights"_a);
    m.def("stopped_exec", &stopped_exec, "path"_a, "arguments"_a, "environment"_a,
          nb::call_guard<nb::gil_scoped_release>(), "Start a program stopped at exec; its pid, or -errno.");
}
