// The accesses of one operation: a touch, a pattern or a recording.
#pragma once
#include "hardware/walker.hpp"
#include "patterns.hpp"
#include "run.hpp"

namespace thp {

struct access_stream {
    access_stream(const machine &m, const program_view &program, const op_record &op);

    u32 weight() const;
    u8 content() const; // what is written
    // Accesses [first, first + nr).
    void write(access_block &b, u64 first, u64 nr) const;

  private:
    const op_record &op_;
    const access_record *records_; // OP_replay
    const region *regions_;
    pattern pattern_;
    u64 start_;

    void write_touches(access_block &b, u64 first, u64 nr) const;
    void write_pattern(access_block &b, u64 first, u64 nr) const;
    void write_records(access_block &b, u64 first, u64 nr) const;
};

} // namespace thp
