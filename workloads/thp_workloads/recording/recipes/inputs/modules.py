"""`modules.py N FILE`: OCaml of N types, with functions over them and maps of their own."""

import sys
from pathlib import Path

n = int(sys.argv[1])
parts = []
for i in range(n):
    parts.append(
        f"type t{i} = A{i} of int | B{i} of string * t{i} | C{i} of t{i} list\n"
        f"let rec f{i} x = match x with A{i} n -> n + {i} | B{i} (s, t) when String.length s > {i % 9} -> f{i} t * 2 "
        f"| B{i} (_, t) -> f{i} t | C{i} l -> List.fold_left (fun a y -> a + f{i} y) {i} l\n"
        f"module M{i} = Map.Make(struct type t = t{i} let compare = compare end)\n"
        f"let g{i} n = let m = ref M{i}.empty in for k = 1 to n do m := M{i}.add (B{i} (string_of_int k, A{i} k)) k !m "
        f"done; M{i}.fold (fun k v a -> a + v + f{i} k) !m 0"
    )
parts.append(f"let () = print_int ({' + '.join(f'g{i} 100' for i in range(n))})")
Path(sys.argv[2]).write_text("\n".join(parts))
