"""`lemmas.py N FILE`: Coq with N lemmas of linear arithmetic, and a computation after each."""

import random
import sys
from pathlib import Path

rng = random.Random(1)
lines = ["Require Import ZArith List Lia. Open Scope Z_scope."]
for i in range(1, int(sys.argv[1]) + 1):
    lines.append(
        f"Lemma l{i} : forall x y z, x > y -> y > z + {i} -> 2 * x > 2 * z + {i} -> x * 3 + y > z * 4 + {i} "
        f"\\/ x < 0 \\/ z < -1000 \\/ x >= 0. Proof. intros; lia. Qed.\n"
        f"Definition d{i} := Eval vm_compute in (List.fold_left Z.add (List.map (fun n => Z.of_nat n * {i}) "
        f"(List.seq 0 {rng.randrange(1000, 6000)})) 0)."
    )
Path(sys.argv[2]).write_text("\n".join(lines) + "\n")
