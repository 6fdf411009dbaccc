// What Python sees of the declarations: names and numbers, operations with their fields.
#include "bindings.hpp"
#include "kernel/vmstat.hpp"
#include "monitor.hpp"
#include "run.hpp"
#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace thp {

namespace {

template <size_t N> nb::tuple names(const char *const (&list)[N]) {
    nb::list out;
    for (const char *name : list) out.append(name);
    return nb::tuple(out);
}

#define X(kind, type, below, what) #kind,
constexpr const char *kind_names[] = {THP_FIELD_KINDS(X)};
#undef X

nb::tuple fields_of(const op_declaration &operation) {
    nb::list out;
    for (const op_field &f : operation.fields) {
        if (f.name) out.append(nb::make_tuple(f.name, f.slot.at, f.slot.bytes, kind_names[f.kind], f.either));
    }
    return nb::tuple(out);
}

void bind_operations(nb::module_ &module) {
    nb::dict operations, kinds;
    for (const op_declaration &operation : DECLARATIONS) operations[operation.name] = fields_of(operation);
#define X(kind, type, below, what) kinds[#kind] = nb::make_tuple(u64{below}, what);
    THP_FIELD_KINDS(X)
#undef X
    module.attr("OPERATIONS") = operations;
    module.attr("FIELD_KINDS") = kinds;
}

} // namespace

void bind_schema(nb::module_ &module) {
    bind_operations(module);
#define X(name) #name,
    static const char *const mthp_names[] = {THP_MTHP_STATS(X)};
    static const char *const vm_names[] = {THP_VM_EVENTS(X)};
    static const char *const time_names[] = {THP_TIMES(X)};
    static const char *const clock_names[] = {THP_CLOCK(X)};
    static const char *const feature_names[] = {THP_FEATURES(X)};
    static const char *const gauge_names[] = {THP_GAUGES(X)};
#undef X
    module.attr("MTHP_STATS") = names(mthp_names);
    module.attr("GAUGES") = names(gauge_names);
    module.attr("VM_EVENTS") = names(vm_names);
    module.attr("TIMES") = names(time_names);
    module.attr("CLOCK") = names(clock_names);
    module.attr("FEATURES") = names(feature_names);
#define X(name, text) text,
    static const char *const modes[] = {THP_MODES(X)};
    static const char *const defrag_modes[] = {THP_DEFRAG_MODES(X)};
    static const char *const touches[] = {THP_TOUCHES(X)};
    static const char *const patterns[] = {THP_PATTERNS(X)};
    static const char *const placements[] = {THP_PLACEMENTS(X)};
#undef X
    module.attr("THP_MODES") = names(modes);
    module.attr("DEFRAG_MODES") = names(defrag_modes);
    module.attr("TOUCH") = names(touches);
    module.attr("PATTERNS") = names(patterns);
    module.attr("PLACEMENTS") = names(placements);
    nb::dict settings, advice, flags;
#define X(name, path, place, values) settings[path] = u32{values};
    THP_SETTINGS(X)
#undef X
#define X(name, text, number) advice[text] = number;
    THP_ADVICE(X)
#undef X
#define X(name, bit) flags[#name] = 1U << (bit);
    THP_VM_FLAGS(X)
#undef X
    module.attr("SETTINGS") = settings;
    module.attr("ADVICE") = advice;
    module.attr("VM_FLAGS") = flags;
}

} // namespace thp
