"""`crate.py N FILE`: Rust of N functions over maps, strings and sorted vectors of types of their own."""

import sys
from pathlib import Path

n = int(sys.argv[1])
parts = ["use std::collections::*;"]
for i in range(n):
    parts.append(
        f"#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)] pub struct S{i} {{ a: u32, b: String, "
        f"c: Vec<u8> }}\n"
        f"pub fn f{i}(n: u32) -> usize {{ let mut m: HashMap<S{i}, BTreeMap<u32, S{i}>> = HashMap::new(); "
        f"for k in 0..n {{ let s = S{i} {{ a: k % {i + 3}, b: format!(\"{{}}-{i}\", k), c: vec![k as u8; 5] }}; "
        f"m.entry(s.clone()).or_default().insert(k, s); }} "
        f"let mut v: Vec<_> = m.into_iter().flat_map(|(_, b)| b.into_values()).filter(|s| s.a > 1).collect(); "
        f"v.sort(); v.dedup(); println!(\"{{:?}}\", v.first()); v.len() }}"
    )
parts.append(f"fn main() {{ println!(\"{{}}\", {' + '.join(f'f{i}(100)' for i in range(n))}); }}")
Path(sys.argv[2]).write_text("\n".join(parts))
