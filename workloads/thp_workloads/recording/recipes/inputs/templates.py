"""`templates.py N FILE`: C++ of N functions, each with containers, variants and closures of types of its own."""

import sys
from pathlib import Path

n = int(sys.argv[1])
headers = ("algorithm", "functional", "map", "string", "variant", "vector")
parts = [f"#include <{header}>" for header in headers]
for i in range(n):
    parts.append(
        f"struct S{i} {{ int a; std::string b; bool operator<(const S{i} &o) const {{ return a < o.a; }} }};\n"
        f"int h{i}() {{ std::map<S{i}, std::vector<S{i}>> m; std::variant<int, S{i}, std::string> v = "
        f"S{i}{{{i}, \"x\"}}; m[S{i}{{1, \"a\"}}].push_back(S{i}{{2, \"b\"}});"
        f" std::vector<S{i}> w(9); std::sort(w.begin(), w.end());"
        f" std::function<int(S{i})> f = [&](S{i} s) {{ return s.a + (int)m.size(); }};"
        f" return f(w[0]) + std::visit([](auto &&x) {{ return (int)sizeof(x); }}, v); }}"
    )
parts.append(f"int main() {{ return {' + '.join(f'h{i}()' for i in range(n))}; }}")
Path(sys.argv[2]).write_text("\n".join(parts))
