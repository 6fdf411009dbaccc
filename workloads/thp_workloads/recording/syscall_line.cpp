#include "syscall_line.hpp"
#include <charconv>

namespace thp::recording {

namespace {

// Takes a number, hexadecimal if it begins with 0x, off the front.
bool take_number(std::string_view &s, u64 &out) {
    int base = 10;
    if (s.starts_with("0x")) {
        s.remove_prefix(2);
        base = 16;
    }
    const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), out, base);
    if (error != std::errc{}) return false;
    s.remove_prefix(static_cast<std::size_t>(end - s.data()));
    return true;
}

bool take(std::string_view &s, char c) {
    if (s.empty() || s.front() != c) return false;
    s.remove_prefix(1);
    return true;
}

void skip_spaces(std::string_view &s) {
    while (take(s, ' ')) {
    }
}

// Arguments are separated by ", " and may be followed by the string they point to, in parentheses. A string
// may itself hold parentheses, so its end is a parenthesis before ", " or before the end of the list.
void take_arguments(std::string_view s, syscall_line &out) {
    while (out.nargs < out.args.size()) {
        skip_spaces(s);
        if (!take_number(s, out.args[out.nargs])) return;
        out.nargs++;
        if (take(s, '(')) {
            std::size_t end = s.find("), ");
            if (end == std::string_view::npos) end = s.find(") )");
            if (end == std::string_view::npos) return;
            if (out.path.empty()) out.path = s.substr(0, end);
            s.remove_prefix(end + 1);
        }
        if (!take(s, ',')) return;
    }
}

} // namespace

bool parse_result(std::string_view s, syscall_line &out) {
    const std::size_t arrow = s.rfind("--> ");
    if (arrow == std::string_view::npos) return false;
    s.remove_prefix(arrow);
    for (const std::string_view word : {"Success(", "Failure("}) {
        const std::size_t at = s.find(word);
        if (at == std::string_view::npos) continue;
        std::string_view value = s.substr(at + word.size());
        out.finished = take_number(value, out.result);
        out.success = word.front() == 'S';
        return out.finished;
    }
    return false;
}

bool parse_syscall_line(std::string_view s, syscall_line &out) {
    out = {};
    constexpr std::string_view head = "SYSCALL[";
    u64 pid = 0, thread = 0, number = 0;
    if (!s.starts_with(head)) return false;
    s.remove_prefix(head.size());
    if (!take_number(s, pid) || !take(s, ',') || !take_number(s, thread) || !take(s, ']') || !take(s, '(') ||
        !take_number(s, number) || !take(s, ')'))
        return false;
    out.pid = static_cast<u32>(pid);
    out.thread = static_cast<u32>(thread);
    out.number = static_cast<u32>(number);
    skip_spaces(s);
    out.resumed = s.starts_with("... [async]");
    if (!out.resumed)
        if (const std::size_t open = s.find('('); open != std::string_view::npos)
            take_arguments(s.substr(open + 1), out);
    parse_result(s, out);
    return true;
}

} // namespace thp::recording
