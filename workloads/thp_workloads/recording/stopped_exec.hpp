// A program stopped at its first instruction, so that its initial address space can be read.
#pragma once
#include <string>
#include <vector>

namespace thp::recording {

// Starts `path` without address space randomization, as a traced child that has executed nothing yet.
// Returns its process id, or -errno. Whoever calls must kill and reap it.
int stopped_exec(const std::string &path, const std::vector<std::string> &arguments,
                 const std::vector<std::string> &environment);

} // namespace thp::recording
